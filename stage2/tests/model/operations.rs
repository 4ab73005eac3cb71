//! The operations, each with what the flat map says about it.

use std::ops::Range;

use stage2::{Attributes, Clear, Error, Existing, Granule, Harvest, Leaf, Level, Marker, Marks, Protection};

use crate::flat::{Flat, Set};
use crate::rig::{Effect, Processor, Rig, Trial};
use crate::violation::Violation;
use crate::walker::Content;
use crate::word::{AF, WRITE, never};

/// An answer that isn't right.
pub(crate) fn wrong<T>(why: String) -> Result<T, Violation> {
    Err(Violation::Answer { why })
}

/// A marker's code in the descriptor.
pub(crate) fn code(marker: Option<Marker>) -> u8 {
    marker.map_or(0, |marker| marker as u8)
}

impl<G: Granule, E: Processor> Rig<G, E> {
    /// The mapped part of `range`.
    pub(crate) fn mapped(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let parts = self.contents.within(range.clone());
        parts.filter(|(_, content)| matches!(content, Content::Mapped { .. })).map(|(part, _)| part).collect()
    }

    fn unmapped(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let parts = self.contents.within(range.clone());
        parts.filter(|(_, content)| matches!(content, Content::Unmapped(_))).map(|(part, _)| part).collect()
    }

    /// Whether `range` is one that every operation refuses; checks that it was refused so.
    fn check_range<T>(&self, range: &Range<u64>, result: &Result<T, Error>) -> Result<bool, Violation> {
        let bad = range.start >= range.end || range.end > self.regime().ipa_size();
        let crooked = !range.start.is_multiple_of(G::SIZE) || !range.end.is_multiple_of(G::SIZE);
        match result {
            Err(Error::Range { .. }) if bad => Ok(true),
            Err(Error::Misaligned { .. }) if crooked && !bad => Ok(true),
            Err(Error::Range { .. } | Error::Misaligned { .. }) => wrong(format!("refused {range:x?}")),
            _ if bad || crooked => wrong(format!("accepted {range:x?}")),
            _ => Ok(false),
        }
    }

    /// A step that may fail for want of frames, and for nothing else.
    pub(crate) fn settle<T: std::fmt::Debug>(
        &mut self,
        range: &Range<u64>,
        trial: Trial<Result<T, Error>>,
        expected: impl FnOnce(&mut Flat<Content>),
        effect: &Effect,
    ) -> Result<Option<T>, Violation> {
        match &trial.result {
            result if self.check_range(range, result)? => {}
            Ok(_) => {
                let mut contents = self.contents.clone();
                expected(&mut contents);
                return Ok(self.judge(trial, contents, effect)?.ok());
            }
            Err(Error::Frames { .. }) => {}
            Err(error) => return wrong(format!("{error} ({error:?})")),
        }
        self.judge_refused(trial).map(drop)?;
        Ok(None)
    }

    /// Maps; whether it did.
    pub(crate) fn map(
        &mut self,
        range: Range<u64>,
        oa: u64,
        attributes: &Attributes,
        existing: Existing,
    ) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.map(range.clone(), oa, attributes, existing))?;
        let regime = self.regime();
        let beyond = oa
            .checked_add(range.end.wrapping_sub(range.start))
            .is_none_or(|end| end >> regime.oa_bits > 1 || end > 1 << regime.oa_bits);
        let inside = range.start < range.end && range.end <= regime.ipa_size();
        let first = if inside { self.mapped(&range).first().map(|part| part.start) } else { None };
        match trial.result {
            Err(Error::Output { .. }) if beyond => {
                self.judge_refused(trial).map(drop)?;
                return Ok(false);
            }
            Err(Error::Mapped { ipa }) if first == Some(ipa) && existing == Existing::Refuse => {
                self.judge_refused(trial).map(drop)?;
                return Ok(false);
            }
            Ok(()) if beyond || existing == Existing::Refuse && first.is_some() => {
                return wrong(format!("mapped {range:x?} to {oa:x}"));
            }
            _ => {}
        }
        let new = if inside { self.unmapped(&range) } else { Vec::new() };
        let effect = Effect {
            dirties: if attributes.dirty { new.clone() } else { Vec::new() },
            ages: if attributes.young { new.clone() } else { Vec::new() },
            ..Effect::default()
        };
        let (delta, fields) = (oa.wrapping_sub(range.start), self.fields(attributes));
        let fill = |contents: &mut Flat<Content>| {
            for part in new {
                contents.set(part, Content::Mapped { delta, fields });
            }
        };
        Ok(self.settle(&range, trial, fill, &effect)?.is_some())
    }

    /// Takes everything out of `range`, and compares what was reported with what was there.
    pub(crate) fn get_and_clear(
        &mut self,
        range: Range<u64>,
        leave: Option<Marker>,
        full: bool,
    ) -> Result<Option<Harvest>, Violation> {
        let trial = self.perform(|tables, _, visited| {
            tables.get_and_clear(range.clone(), Clear { leave, full }, |leaf| visited.push(leaf))
        })?;
        self.judge_clear(trial, range, leave)
    }

    /// Judges a step that was to take everything out of `range`.
    pub(crate) fn judge_clear(
        &mut self,
        trial: Trial<Result<Harvest, Error>>,
        range: Range<u64>,
        leave: Option<Marker>,
    ) -> Result<Option<Harvest>, Violation> {
        if let Ok(harvest) = &trial.result {
            self.check_harvest(harvest, &trial.visited)?;
            self.check_visited(&trial.visited, self.mapped(&range))?;
        }
        let effect =
            Effect { takes_dirty: true, takes_young: true, taken: vec![range.clone()], ..Effect::default() };
        let empty = Content::Unmapped(code(leave));
        self.settle(&range, trial, |contents| contents.set(range.clone(), empty), &effect)
    }

    /// Takes everything out of `range`; only the sum comes back. Hardware writes nothing meanwhile, so that the
    /// sum can be known beforehand.
    pub(crate) fn unmap(&mut self, range: Range<u64>) -> Result<bool, Violation> {
        self.hardware.busy.set(false);
        let mut trial = self.perform(|tables, _, _| tables.unmap(range.clone()))?;
        let Ok(harvest) = trial.result else { return Ok(self.settle_unmap(&range, trial)?.is_some()) };
        let parts = self.mapped(&range);
        let any = |set: &Set| parts.iter().any(|part| set.touches(part.clone()));
        let due = (
            parts.iter().map(|part| part.end - part.start).sum(),
            any(&self.survey.dirty),
            any(&self.survey.young),
        );
        if (harvest.bytes, harvest.dirty, harvest.young) != due {
            return wrong(format!("unmap of {range:x?}: {harvest:x?}, due was {due:x?}"));
        }
        // The sum is right, so every leaf in it counts as reported.
        for part in parts {
            let Content::Mapped { delta, .. } = self.contents.at(part.start) else { continue };
            for (part, dirty) in self.survey.dirty.within(part) {
                for (part, young) in self.survey.young.within(part) {
                    let word = if dirty { WRITE } else { 0 } | if young { AF } else { 0 };
                    trial.visited.push(Leaf {
                        ipa: part.start,
                        oa: part.start.wrapping_add(delta),
                        bytes: part.end - part.start,
                        level: Level::L3,
                        descriptor: stage2::Descriptor::new(word),
                    });
                }
            }
        }
        Ok(self.settle_unmap(&range, trial)?.is_some())
    }

    fn settle_unmap(
        &mut self,
        range: &Range<u64>,
        trial: Trial<Result<Harvest, Error>>,
    ) -> Result<Option<Harvest>, Violation> {
        let effect = Effect { takes_dirty: true, takes_young: true, ..Effect::default() };
        let empty = |contents: &mut Flat<Content>| contents.set(range.clone(), Content::Unmapped(0));
        self.settle(range, trial, empty, &effect)
    }

    /// Changes markers of what is unmapped.
    pub(crate) fn remark(
        &mut self,
        range: Range<u64>,
        change: impl Fn(Option<Marker>) -> Option<Marker>,
    ) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.remark(range.clone(), &change))?;
        let of = |code: u8| Marker::ALL.into_iter().find(|&marker| marker as u8 == code);
        let new = |content| match content {
            Content::Unmapped(old) => Content::Unmapped(code(change(of(old)))),
            mapped => mapped,
        };
        if let Ok(bytes) = trial.result {
            let parts = self.contents.within(range.clone());
            let changed: u64 = parts
                .filter(|&(_, content)| new(content) != content)
                .map(|(part, _)| part.end - part.start)
                .sum();
            if bytes != changed {
                return wrong(format!("remark of {range:x?} says {bytes:#x}, it was {changed:#x}"));
            }
        }
        let remark = |contents: &mut Flat<Content>| contents.update(range.clone(), new);
        Ok(self.settle(&range, trial, remark, &Effect::default())?.is_some())
    }

    /// Changes permissions.
    pub(crate) fn protect(&mut self, range: Range<u64>, protection: Protection) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.protect(range.clone(), protection))?;
        if let Err(Error::Attributes(_)) = trial.result {
            let needs = protection.execute.is_some_and(|execute| never(execute) & 1 != 0);
            if !needs || self.regime().processor.xnx {
                return wrong(format!("{protection:?} refused"));
            }
            self.judge_refused(trial).map(drop)?;
            return Ok(false);
        }
        let change = |content| match content {
            Content::Mapped { delta, mut fields } => {
                fields.read = protection.read.unwrap_or(fields.read);
                fields.write = protection.write.unwrap_or(fields.write);
                fields.execute_never = protection.execute.map_or(fields.execute_never, never);
                Content::Mapped { delta, fields }
            }
            unmapped => unmapped,
        };
        let protect = |contents: &mut Flat<Content>| contents.update(range.clone(), change);
        Ok(self.settle(&range, trial, protect, &Effect::default())?.is_some())
    }

    /// Takes write permission away, and compares what was reported with what was writable.
    pub(crate) fn write_protect(&mut self, range: Range<u64>) -> Result<Option<Harvest>, Violation> {
        let trial = self
            .perform(|tables, _, visited| tables.write_protect(range.clone(), |leaf| visited.push(leaf)))?;
        if let Ok(harvest) = &trial.result {
            self.check_harvest(harvest, &trial.visited)?;
            let writable = |content| matches!(content, Content::Mapped { fields, .. } if fields.write);
            let parts = self.contents.within(range.clone()).filter(|&(_, content)| writable(content));
            self.check_visited(&trial.visited, parts.map(|(part, _)| part).collect())?;
        }
        let protect = |contents: &mut Flat<Content>| {
            contents.update(range.clone(), |content| match content {
                Content::Mapped { delta, mut fields } => {
                    fields.write = false;
                    Content::Mapped { delta, fields }
                }
                unmapped => unmapped,
            });
        };
        self.settle(&range, trial, protect, &Effect::default())
    }

    /// Sets marks.
    pub(crate) fn mark(&mut self, range: Range<u64>, marks: Marks) -> Result<bool, Violation> {
        let trial = self.perform(|tables, _, _| tables.mark(range.clone(), marks))?;
        let inside = range.start < range.end && range.end <= self.regime().ipa_size();
        let parts = if inside { self.mapped(&range) } else { Vec::new() };
        let effect = Effect {
            dirties: if marks.dirty { parts.clone() } else { Vec::new() },
            ages: if marks.young { parts } else { Vec::new() },
            ..Effect::default()
        };
        Ok(self.settle(&range, trial, |_| {}, &effect)?.is_some())
    }

    /// Collects dirty. What it owes stays in the rig's gather.
    pub(crate) fn collect_dirty(&mut self, range: Range<u64>) -> Result<Option<Harvest>, Violation> {
        let trial = self.perform(|tables, gather, visited| {
            tables.collect_dirty(range.clone(), gather, |leaf| visited.push(leaf))
        })?;
        if let Ok(harvest) = &trial.result {
            self.check_harvest(harvest, &trial.visited)?;
        }
        let effect = Effect { takes_dirty: true, taken: vec![range.clone()], ..Effect::default() };
        self.settle(&range, trial, |_| {}, &effect)
    }

    /// Ages. What it owes stays in the rig's gather.
    pub(crate) fn age(&mut self, range: Range<u64>) -> Result<Option<Harvest>, Violation> {
        let trial = self.perform(|tables, gather, visited| {
            tables.age(range.clone(), gather, |leaf| visited.push(leaf))
        })?;
        if let Ok(harvest) = &trial.result {
            self.check_harvest(harvest, &trial.visited)?;
        }
        let effect = Effect { takes_young: true, taken: vec![range.clone()], ..Effect::default() };
        self.settle(&range, trial, |_| {}, &effect)
    }

    /// The sum that an operation returns is the sum of what it reported.
    pub(crate) fn check_harvest(&self, harvest: &Harvest, visited: &[Leaf]) -> Result<(), Violation> {
        let mut sum = Harvest::default();
        for leaf in visited {
            sum.bytes += leaf.bytes;
            sum.entries += leaf.bytes / G::size(leaf.level);
            sum.dirty |= leaf.dirty();
            sum.young |= leaf.young();
        }
        if sum != *harvest {
            return wrong(format!("the sum is {harvest:?}, the reports add up to {sum:?}"));
        }
        Ok(())
    }

    /// Exactly these addresses were reported, each once.
    pub(crate) fn check_visited(&self, visited: &[Leaf], expected: Vec<Range<u64>>) -> Result<(), Violation> {
        let end = self.regime().ipa_size();
        let (mut told, mut due) = (Set::empty(end), Set::empty(end));
        for leaf in visited {
            if told.touches(leaf.range()) {
                return wrong(format!("{:x?} was reported twice", leaf.range()));
            }
            told.insert(leaf.range());
        }
        expected.into_iter().for_each(|part| due.insert(part));
        match told.zip(&due, |told, due| told != due).first() {
            Some(range) => wrong(format!("{range:x?}: reported and due differ")),
            None => Ok(()),
        }
    }
}
