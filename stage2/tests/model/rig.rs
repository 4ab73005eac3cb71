//! The rig: tables under test, the hardware that walks them, and the flat map of what they must say.
//!
//! Every operation runs as one step. Around it the rig surveys the raw tables with its own walker, collects
//! what hardware did meanwhile, and judges:
//!
//! - the tables say what the flat map says;
//! - a page that was dirty, or was written meanwhile, is dirty or has been reported; one that wasn't is
//!   neither, unless it shares a leaf with one that was; the same for young;
//! - accesses went where the map says (before or after the step), or where an invalidation still owed may
//!   have let them go;
//! - what the TLB holds is true, or owed;
//! - every frame is linked, owed, or free.

use std::collections::BTreeSet;
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use stage2::{Config, Entry, Executor, Frames, Gather, Granule, Leaf, Sequence, Tables};

use crate::arena::Arena;
use crate::flat::{Flat, Set};
use crate::geometry::Geometry;
use crate::hardware::{Access, Event, Hardware, Outcome, Temper};
use crate::regime::Regime;
use crate::violation::Violation;
use crate::walker::{Content, Survey};
use crate::word::{AF, Fields, WRITE};

/// The arena as the crate sees it: looking at a table is a moment for hardware to act.
#[derive(Debug)]
pub(crate) struct Memory(Rc<Hardware>);

impl Frames for Memory {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        self.0.arena.allocate(size)
    }

    fn free(&mut self, frame: u64, size: u64) {
        self.0.note(self.0.free(frame, size));
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        self.0.seam();
        self.0.arena.table(frame, entries)
    }
}

/// The processor as the crate sees it.
#[derive(Debug)]
pub(crate) struct Cpu(Rc<Hardware>);

impl Executor for Cpu {
    fn execute(&self, sequence: Sequence<'_>) {
        self.0.note(self.0.execute(sequence.collect()));
    }
}

/// Tables that nobody walks.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Executor for Nobody {
    const LIVE: bool = false;

    fn execute(&self, sequence: Sequence<'_>) {
        panic!("nothing is to be invalidated, but {:?} came", sequence.collect::<Vec<_>>());
    }
}

/// What makes an executor for the hardware.
pub(crate) trait Processor: Executor {
    fn new(hardware: &Rc<Hardware>) -> Self;
}

impl Processor for Cpu {
    fn new(hardware: &Rc<Hardware>) -> Self {
        Self(Rc::clone(hardware))
    }
}

impl Processor for Nobody {
    fn new(_: &Rc<Hardware>) -> Self {
        Self
    }
}

/// Tables, hardware and the flat map.
pub(crate) struct Rig<G: Granule, E: Processor = Cpu> {
    pub(crate) hardware: Rc<Hardware>,
    pub(crate) tables: Tables<G, Memory, E>,
    /// What fault-side operations owe.
    pub(crate) gather: Gather,
    pub(crate) contents: Flat<Content>,
    pub(crate) survey: Survey,
    /// Reported dirty, their invalidation still owed: stores through stale entries belong to that report.
    forgiven: Set,
    /// Aged, their invalidation dropped: nobody minds that they look older than they are.
    unseen: Set,
    pub(crate) fwb: bool,
    pub(crate) ds: bool,
    /// Undoes what the monitor did about a fault: for the tests of the model itself.
    pub(crate) after_fault: Option<fn(&Hardware)>,
}

/// What an operation may do to marks.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effect {
    /// Reported dirty is handed over: the tables forget it.
    pub(crate) takes_dirty: bool,
    /// Reported young is handed over.
    pub(crate) takes_young: bool,
    /// Where everything is handed over that there is.
    pub(crate) taken: Vec<Range<u64>>,
    /// Becomes dirty.
    pub(crate) dirties: Vec<Range<u64>>,
    /// Becomes young.
    pub(crate) ages: Vec<Range<u64>>,
}

/// One step, not judged yet.
pub(crate) struct Trial<R> {
    pub(crate) result: R,
    pub(crate) visited: Vec<Leaf>,
    pub(crate) events: Vec<Event>,
    pub(crate) after: Survey,
    /// What was owed before or after.
    owed: Set,
    snapshot: Vec<(u64, Vec<u64>)>,
}

impl<G: Granule, E: Processor> Rig<G, E> {
    /// Empty tables.
    pub(crate) fn new(
        geometry: &Geometry,
        frames: usize,
        temper: Temper,
        seed: u64,
    ) -> Result<Self, Violation> {
        let config: Config<G> = geometry.config().expect("the strategy made sure that it is accepted");
        let arena = Arena::new(G::SHIFT, geometry.base(), config.root_size(), frames);
        let hardware = Rc::new(Hardware::new(arena, temper, seed));
        let tables = Tables::new(config, Memory(Rc::clone(&hardware)), E::new(&hardware))
            .map_err(|error| Violation::Answer { why: format!("no tables: {error}") })?;
        let vttbr = config
            .vttbr(tables.root(), 1)
            .ok_or_else(|| Violation::Answer { why: "VTTBR_EL2 refused".into() })?;
        let regime = Regime::new(config.vtcr(), vttbr, geometry.processor())?;
        if regime.root != tables.root() {
            return Err(Violation::Answer { why: "VTTBR_EL2 names another root".into() });
        }
        hardware.regime.set(regime).expect("set once");
        let survey = Survey::new(&regime, &hardware.arena)?;
        Ok(Self {
            gather: tables.gather(),
            contents: survey.contents.clone(),
            forgiven: Set::empty(regime.ipa_size()),
            unseen: Set::empty(regime.ipa_size()),
            survey,
            hardware,
            tables,
            fwb: geometry.fwb,
            ds: regime.ds,
            after_fault: None,
        })
    }

    pub(crate) fn regime(&self) -> Regime {
        *self.hardware.regime()
    }

    /// The page around `ipa`.
    pub(crate) fn page(&self, ipa: u64) -> Range<u64> {
        let start = ipa & !(G::SIZE - 1);
        start..start + G::SIZE
    }

    /// Makes hardware like these addresses.
    pub(crate) fn heat(&self, addresses: impl IntoIterator<Item = u64>) {
        let mut hot = self.hardware.hot.borrow_mut();
        for ipa in addresses {
            if ipa < self.contents.stretches().last().map_or(0, |(range, _)| range.end) && !hot.contains(&ipa)
            {
                hot.push(ipa);
            }
        }
        let excess = hot.len().saturating_sub(20);
        hot.drain(..excess);
    }

    /// Everything that is owed; of unlinked tables only, where asked so.
    fn owed(&self, unlinked: bool) -> Set {
        self.owed_by(&[self.tables.pending(), &self.gather], unlinked)
    }

    fn owed_by(&self, gathers: &[&Gather], unlinked: bool) -> Set {
        let end = self.regime().ipa_size();
        let mut owed = Set::empty(end);
        for gather in gathers {
            if gather.is_whole() {
                owed.insert(0..end);
            }
            for span in gather.spans().iter().filter(|span| span.unlinked || !unlinked) {
                owed.insert(span.start..span.end.min(end));
            }
        }
        owed
    }

    /// Runs an operation while hardware does what it likes.
    pub(crate) fn perform<R>(
        &mut self,
        run: impl FnOnce(&mut Tables<G, Memory, E>, &mut Gather, &mut Vec<Leaf>) -> R,
    ) -> Result<Trial<R>, Violation> {
        let owed = self.owed(false);
        let snapshot = self.hardware.arena.snapshot();
        let mut visited = Vec::new();
        self.hardware.awake.set(E::LIVE);
        let result = run(&mut self.tables, &mut self.gather, &mut visited);
        self.hardware.awake.set(false);
        self.hardware.found()?;
        let after = Survey::new(&self.regime(), &self.hardware.arena)?;
        let events = self.hardware.events.take();
        let owed = owed.or(&self.owed(false));
        Ok(Trial { result, visited, events, after, owed, snapshot })
    }

    /// Judges a step that was refused: nothing has changed, byte for byte, but for what hardware marked.
    pub(crate) fn judge_refused<R>(&mut self, trial: Trial<R>) -> Result<R, Violation> {
        let marks = if trial.events.is_empty() { 0 } else { AF | WRITE };
        for (frame, words) in &trial.snapshot {
            let now = self.hardware.arena.entries(*frame, words.len())?;
            let differs = |(old, new): (&u64, &Entry)| (old ^ new.load(Relaxed)) & !marks != 0;
            if let Some(index) = words.iter().zip(now).position(differs) {
                return Err(Violation::Changed { frame: *frame, index });
            }
        }
        let expected = self.contents.clone();
        self.judge(trial, expected, &Effect::default())
    }

    /// Judges a step that should have made the tables say `expected`.
    pub(crate) fn judge<R>(
        &mut self,
        trial: Trial<R>,
        expected: Flat<Content>,
        effect: &Effect,
    ) -> Result<R, Violation> {
        let Trial { result, visited, events, after, owed, .. } = trial;
        let end = self.regime().ipa_size();
        for (range, (found, expected)) in after.contents.zip(&expected, |a, b| (a, b)).stretches() {
            if found != expected {
                let (found, expected) = (format!("{found:x?}"), format!("{expected:x?}"));
                return Err(Violation::Content { range, found, expected });
            }
        }
        let (mut wrote, mut aged) = (Set::empty(end), Set::empty(end));
        for event in &events {
            let page = self.page(event.ipa);
            if event.aged {
                aged.insert(page.clone());
            }
            if let Outcome::Done { oa } = event.outcome {
                self.judge_access(event, oa, &expected, &owed)?;
                if event.access == Access::Write && !(event.unmarked && self.forgiven.at(event.ipa)) {
                    wrote.insert(page);
                }
            }
        }
        let (mut told_dirty, mut told_young) = (Set::empty(end), Set::empty(end));
        let mut seen = Set::empty(end);
        for leaf in &visited {
            seen.insert(leaf.range());
            let delta = leaf.oa.wrapping_sub(leaf.ipa);
            match self.contents.at(leaf.ipa) {
                Content::Mapped { delta: was, .. } if was == delta => {}
                was => return Err(Violation::Answer { why: format!("reported {leaf:x?}, it was {was:x?}") }),
            }
            if leaf.dirty() {
                told_dirty.insert(leaf.range());
            }
            if leaf.young() {
                told_young.insert(leaf.range());
            }
        }
        let dirty = Marks {
            what: "dirty",
            before: &self.survey.dirty,
            meanwhile: &wrote,
            after: &after.dirty,
            told: &told_dirty,
            takes: effect.takes_dirty,
            sets: &effect.dirties,
        };
        dirty.judge(&self.survey, &after, &effect.taken)?;
        let young = Marks {
            what: "young",
            before: &self.survey.young,
            meanwhile: &aged,
            after: &after.young,
            told: &told_young,
            takes: effect.takes_young,
            sets: &effect.ages,
        };
        young.judge(&self.survey, &after, &effect.taken)?;

        if effect.takes_dirty {
            self.forgiven = self.forgiven.or(&told_dirty);
        }
        self.survey = after;
        self.contents = expected;
        self.judge_frames()?;
        if E::LIVE {
            let (leaves, tables) = (self.owed(false), self.owed(true));
            let owed = |ipa, table| if table { tables.at(ipa) } else { leaves.at(ipa) };
            self.hardware.audit(owed, &self.unseen)?;
        }
        Ok(result)
    }

    /// An access went where the flat map leads, before or after the step, or where something owed may lead.
    fn judge_access(
        &self,
        event: &Event,
        oa: u64,
        expected: &Flat<Content>,
        owed: &Set,
    ) -> Result<(), Violation> {
        let ipa = event.ipa;
        let right = |content| match content {
            Content::Unmapped(_) => false,
            Content::Mapped { delta, fields } => {
                ipa.wrapping_add(delta) == oa && (event.access != Access::Write || fields.write)
            }
        };
        if owed.at(ipa) || right(self.contents.at(ipa)) || right(expected.at(ipa)) {
            return Ok(());
        }
        Err(Violation::Translation { ipa, why: "the tables don't allow it and nothing is owed" })
    }

    fn judge_frames(&self) -> Result<(), Violation> {
        let allocated: BTreeSet<u64> = self.hardware.arena.allocated().into_iter().collect();
        let bytes = self.hardware.arena.in_use();
        if bytes != self.tables.frame_bytes() {
            let why =
                format!("{bytes:#x} bytes are allocated, frame_bytes() is {:#x}", self.tables.frame_bytes());
            return Err(Violation::Answer { why });
        }
        // What is allocated and not linked waits for its invalidation: nothing waits where nothing is owed.
        let waiting = allocated.difference(&self.survey.tables).next();
        match waiting {
            Some(&frame) if !E::LIVE => Err(Violation::Frames { why: "neither linked nor freed", frame }),
            _ => Ok(()),
        }
    }

    /// Executes everything owed and frees what waited for it.
    pub(crate) fn flush(&mut self) -> Result<(), Violation> {
        let trial = self.perform(|tables, gather, _| {
            tables.flush();
            tables.invalidate(gather);
        })?;
        let expected = self.contents.clone();
        self.judge(trial, expected, &Effect::default())?;
        self.forgiven = Set::empty(self.regime().ipa_size());
        let allocated: BTreeSet<u64> = self.hardware.arena.allocated().into_iter().collect();
        if let Some(&frame) = allocated.difference(&self.survey.tables).next() {
            return Err(Violation::Frames { why: "not freed by the flush", frame });
        }
        Ok(())
    }

    /// Drops what ageing owes instead of executing it, as its users may.
    pub(crate) fn drop_gather(&mut self) {
        self.unseen = self.unseen.or(&self.owed_by(&[&self.gather], false));
        self.gather.clear();
    }

    /// A step in which nothing happens but a change that only hardware or a mistake could make.
    pub(crate) fn meddle(&mut self, with: impl FnOnce(&Hardware)) -> Result<(), Violation> {
        let hardware = Rc::clone(&self.hardware);
        let trial = self.perform(|_, _, _| {
            with(&hardware);
            hardware.seam();
        })?;
        let expected = self.contents.clone();
        self.judge(trial, expected, &Effect::default())
    }

    /// Ends the tables: every frame must come back.
    pub(crate) fn finish(mut self) -> Result<(), Violation> {
        self.flush()?;
        let Self { hardware, tables, .. } = self;
        drop(tables);
        hardware.found()?;
        match hardware.arena.allocated().first() {
            Some(&frame) => Err(Violation::Frames { why: "not returned at the end", frame }),
            None => Ok(()),
        }
    }

    /// The fields that a leaf with these attributes must have.
    pub(crate) fn fields(&self, attributes: &stage2::Attributes) -> Fields {
        Fields::new(attributes, self.fwb, self.ds)
    }
}

/// Dirty or young, over one step.
struct Marks<'a> {
    what: &'static str,
    before: &'a Set,
    /// Marked by hardware meanwhile.
    meanwhile: &'a Set,
    after: &'a Set,
    /// Reported so.
    told: &'a Set,
    /// A report hands it over.
    takes: bool,
    /// Set by the operation.
    sets: &'a [Range<u64>],
}

impl Marks<'_> {
    fn judge(&self, before: &Survey, after: &Survey, taken: &[Range<u64>]) -> Result<(), Violation> {
        let what = self.what;
        let mut new = self.meanwhile.clone();
        self.sets.iter().for_each(|range| new.insert(range.clone()));
        let due = self.before.or(&new);
        let mut known = self.after.clone();
        if self.takes {
            known = known.or(self.told);
        }
        if let Some(range) = due.without(&known).first() {
            return Err(Violation::Lost { what, range });
        }
        let spread = |set: &Set| after.spread(&before.spread(set));
        if let Some(range) = self.after.or(self.told).without(&spread(&due)).first() {
            return Err(Violation::Invented { what, range });
        }
        if self.takes {
            let left = self.after.without(&spread(&new));
            for range in taken {
                if let Some((range, _)) = left.within(range.clone()).find(|(_, inside)| *inside) {
                    return Err(Violation::Kept { what, range });
                }
            }
        }
        Ok(())
    }
}
