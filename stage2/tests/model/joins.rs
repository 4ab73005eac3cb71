//! Joining and taking apart: fold and unfold, collapse and split, optimise.

use std::ops::Range;

use stage2::{Granule, Harvest, Level, Merge, Refusal};

use crate::operations::wrong;
use crate::rig::{Effect, Processor, Rig, Trial};
use crate::violation::Violation;
use crate::walker::{Extent, Survey};

impl<G: Granule, E: Processor> Rig<G, E> {
    /// Folds the group around `ipa`; whether it did.
    pub(crate) fn fold(&mut self, ipa: u64, level: Level, merge: Merge) -> Result<bool, Violation> {
        let trial =
            self.perform(|tables, _, visited| tables.fold(ipa, level, merge, |leaf| visited.push(leaf)))?;
        let range = group_of::<G>(level, ipa);
        self.judge_join(trial, range, level, merge, true)
    }

    /// Collapses the table below the entry of `level` around `ipa`; whether it did.
    pub(crate) fn collapse(&mut self, ipa: u64, level: Level, merge: Merge) -> Result<bool, Violation> {
        let trial =
            self.perform(|tables, _, visited| tables.collapse(ipa, level, merge, |leaf| visited.push(leaf)))?;
        let start = ipa & !(G::size(level) - 1);
        self.judge_join(trial, start..start + G::size(level), level, merge, false)
    }

    fn judge_join(
        &mut self,
        trial: Trial<Result<Harvest, Refusal>>,
        range: Range<u64>,
        level: Level,
        merge: Merge,
        group: bool,
    ) -> Result<bool, Violation> {
        if trial.result.is_err() {
            let refusal = self.judge_refused(trial)?.expect_err("it is one");
            self.check_refusal(refusal, &range, level, merge)?;
            return Ok(false);
        }
        if let Ok(harvest) = &trial.result {
            self.check_harvest(harvest, &trial.visited)?;
            self.check_visited(&trial.visited, vec![range.clone()])?;
        }
        let uniform = self.survey.dirty.within(range.clone()).count() == 1
            && self.survey.young.within(range.clone()).count() == 1;
        if merge == Merge::Uniform && !uniform && trial.events.is_empty() {
            return wrong(format!("joined {range:x?}, which differs in dirty or young"));
        }
        let joined = trial.after.extent(range.start).map(|extent| (extent.range.clone(), extent.group));
        if joined != Some((range.clone(), group)) {
            return wrong(format!("{range:x?} was to be joined, it is {joined:x?}"));
        }
        let takes_dirty = merge == Merge::Harvest;
        let taken = if takes_dirty { vec![range] } else { Vec::new() };
        let contents = self.contents.clone();
        let effect = Effect { takes_dirty, taken, ..Effect::default() };
        self.judge(trial, contents, &effect).map(drop)?;
        Ok(true)
    }

    /// A refusal must be true.
    fn check_refusal(
        &self,
        refusal: Refusal,
        range: &Range<u64>,
        level: Level,
        merge: Merge,
    ) -> Result<(), Violation> {
        let end = self.regime().ipa_size();
        let one = |ipa| self.survey.extent(ipa).cloned();
        let holds = match refusal {
            Refusal::Range(ipa) => {
                ipa >= end
                    || one(ipa).is_none_or(|at| at.level < level.number())
                    || level < self.tables.config().start()
            }
            Refusal::Level(_) => true,
            Refusal::TooLarge => range.end > end,
            Refusal::Joined => one(range.start).is_some_and(|extent| extent.range.end >= range.end),
            Refusal::Absent(ipa) => one(ipa).is_none(),
            Refusal::Table(_) => true,
            Refusal::Misaligned(oa) => oa & (range.end - range.start - 1) != 0,
            Refusal::Gap(_) | Refusal::Differs(_) => self.contents.within(range.clone()).count() > 1,
            Refusal::Uneven(_) => merge == Merge::Uniform,
            _ => true,
        };
        if holds { Ok(()) } else { wrong(format!("{refusal:?} is no reason for {range:x?} at {level}")) }
    }

    /// Unfolds every group that touches `range`.
    pub(crate) fn unfold(&mut self, range: Range<u64>) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.unfold(range.clone()))?;
        if trial.result.is_ok() {
            no_leaf(&trial.after, &range, "a group", |extent| extent.group)?;
        }
        Ok(self.settle(&range, trial, |_| {}, &Effect::default())?.is_some())
    }

    /// Splits every block that touches `range` down to `to`.
    pub(crate) fn split(&mut self, range: Range<u64>, to: Level) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.split(range.clone(), to))?;
        if trial.result.is_ok() {
            no_leaf(&trial.after, &range, "a block", |extent| extent.level < to.number())?;
        }
        Ok(self.settle(&range, trial, |_| {}, &Effect::default())?.is_some())
    }

    /// Joins what has become uniform.
    pub(crate) fn optimise(&mut self, range: Range<u64>, merge: Merge) -> Result<bool, Violation> {
        let trial = self
            .perform(|tables, _, visited| tables.optimise(range.clone(), merge, |leaf| visited.push(leaf)))?;
        let effect = Effect { takes_dirty: merge == Merge::Harvest, ..Effect::default() };
        Ok(self.settle(&range, trial, |_| {}, &effect)?.is_some())
    }
}

/// The addresses of the contiguous group of `level` around `ipa`.
fn group_of<G: Granule>(level: Level, ipa: u64) -> Range<u64> {
    let start = ipa & !(G::group_size(level) - 1);
    start..start + G::group_size(level)
}

fn no_leaf(
    after: &Survey,
    range: &Range<u64>,
    what: &str,
    is: impl Fn(&Extent) -> bool,
) -> Result<(), Violation> {
    let touches =
        |extent: &&Extent| extent.range.start < range.end && range.start < extent.range.end && is(extent);
    match after.extents.iter().find(touches) {
        Some(extent) => wrong(format!("{what} is left: {extent:x?}")),
        None => Ok(()),
    }
}
