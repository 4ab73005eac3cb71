//! Applies operations to tables and oracle alike, and compares what comes back and what is left.

use std::cell::RefCell;
use std::fmt;
use std::ops::Range;

use stage2::{
    Access, Config, Error, Executor, Existing, Granule, Harvest, Instruction, Leaf, Lookup, Run, Sequence,
    Tables, Unresolved,
};

use super::arena::{Allowance, Arena};
use super::join;
use super::operation::Operation;
use super::oracle::{Oracle, State};
use super::structure;

/// An executor of tables that are "walked": it insists on well-formed sequences.
#[derive(Default)]
pub(crate) struct Strict {
    sequences: RefCell<u64>,
}

impl Executor for Strict {
    fn execute(&self, sequence: Sequence<'_>) {
        use Instruction::*;
        let issued: Vec<Instruction> = sequence.collect();
        let well_formed = match issued.as_slice() {
            [DsbIshst] | [DsbIshst, Vmalls12e1is, DsbIsh, Isb] => true,
            [DsbIshst, by_ipa @ .., DsbIsh, Vmalle1is, DsbIsh, Isb] => {
                let by_address = |i: &Instruction| {
                    matches!(i, Ipas2e1is(_) | Ipas2le1is(_) | Ripas2e1is(_) | Ripas2le1is(_))
                };
                !by_ipa.is_empty() && by_ipa.iter().all(by_address)
            }
            _ => false,
        };
        assert!(well_formed, "not an invalidation: {issued:x?}");
        *self.sequences.borrow_mut() += 1;
    }
}

pub(crate) struct Replay<G: Granule, E: Executor> {
    pub(crate) tables: Tables<G, Arena, E>,
    pub(crate) oracle: Oracle,
    allowance: Allowance,
}

impl<G: Granule, E: Executor> Replay<G, E> {
    pub(crate) fn new(config: Config<G>, arena: Arena, allowance: Allowance, executor: E) -> Self {
        let tables = Tables::new(config, arena, executor).expect("the arena has frames");
        let oracle = Oracle::new(config.ipa_size());
        Self { tables, oracle, allowance }
    }

    /// Applies one operation, and checks everything there is to check.
    pub(crate) fn apply(&mut self, operation: &Operation) {
        let before = self.tables.frame_bytes();
        let refused = self.dispatch(operation);
        if let Some(error) = refused {
            assert_eq!(self.tables.frame_bytes(), before, "frames are lost after {error}");
        }
        let flushed = !E::LIVE || matches!(operation, Operation::Flush);
        structure::check(&self.tables, flushed);
        let whole = self.tables.whole();
        let found: Vec<Run> = self.tables.runs(whole.clone()).expect("the whole space is a range").collect();
        let expected = self.oracle.runs(&whole);
        let pairs = found.iter().zip(&expected).enumerate();
        for (index, (found, expected)) in pairs {
            assert_eq!(found, expected, "run {index}");
        }
        assert_eq!(found.len(), expected.len());
    }

    /// Returns the error, if the operation was refused as it should be.
    fn dispatch(&mut self, operation: &Operation) -> Option<Error> {
        match operation.clone() {
            Operation::Map { range, oa, attributes, existing } => {
                let expected = self.expected(&range).or_else(|| {
                    let config = self.tables.config();
                    let oa_bits = config.oa_bits();
                    if oa % G::SIZE != 0 {
                        Some(Error::Misaligned { address: oa, granule: G::SIZE })
                    } else if oa.checked_add(range.end - range.start).is_none_or(|end| end > 1 << oa_bits) {
                        Some(Error::Output { oa, oa_bits })
                    } else if let Err(error) = config.encoding().encode(&attributes) {
                        Some(error.into())
                    } else if existing == Existing::Refuse {
                        self.oracle.first_mapped(&range).map(|ipa| Error::Mapped { ipa })
                    } else {
                        None
                    }
                });
                let result = self.tables.map(range.clone(), oa, &attributes, existing);
                self.judge(result, expected, |replay, ()| {
                    let mut attributes = attributes;
                    if replay.tables.config().encoding().ds {
                        // No shareability in the leaf: it reads as what VTCR_EL2 says.
                        attributes.shareability = stage2::Shareability::Inner;
                    }
                    replay.oracle.change(&range.clone(), |part, state| {
                        if let State::Invalid(_) = state {
                            *state = State::Mapped { oa: oa + (part.start - range.start), attributes };
                        }
                    });
                })
            }
            Operation::GetAndClear { range, clear } => {
                let expected = self.expected(&range);
                let mut visits = Vec::new();
                let result = self.tables.get_and_clear(range.clone(), clear, |leaf| visits.push(leaf));
                self.judge(result, expected, |replay, harvest| {
                    replay.check_visits(&range, &visits, harvest, |_| true);
                    replay.oracle.change(&range, |_, state| *state = State::Invalid(clear.leave));
                })
            }
            Operation::TearDown => {
                let mut visits = Vec::new();
                let harvest = self.tables.tear_down(|leaf| visits.push(leaf));
                let whole = self.tables.whole();
                self.check_visits(&whole, &visits, harvest, |_| true);
                self.oracle.change(&whole, |_, state| *state = State::Invalid(None));
                None
            }
            Operation::Remark { range, to } => {
                let expected = self.expected(&range);
                let change = |marker: Option<stage2::Marker>| to[marker.map_or(0, |marker| marker as usize)];
                let result = self.tables.remark(range.clone(), change);
                self.judge(result, expected, |replay, bytes| {
                    let mut changed = 0;
                    replay.oracle.change(&range, |part, state| {
                        if let State::Invalid(marker) = state
                            && change(*marker) != *marker
                        {
                            changed += part.end - part.start;
                            *marker = change(*marker);
                        }
                    });
                    assert_eq!(bytes, changed);
                })
            }
            Operation::Protect { range, protection } => {
                let expected = self.expected(&range);
                let result = self.tables.protect(range.clone(), protection);
                self.judge(result, expected, |replay, ()| {
                    replay.oracle.change_mapped(&range, |attributes| {
                        attributes.read = protection.read.unwrap_or(attributes.read);
                        attributes.write = protection.write.unwrap_or(attributes.write);
                        attributes.execute = protection.execute.unwrap_or(attributes.execute);
                    });
                })
            }
            Operation::WriteProtect { range } => {
                let expected = self.expected(&range);
                let mut visits = Vec::new();
                let result = self.tables.write_protect(range.clone(), |leaf| visits.push(leaf));
                self.judge(result, expected, |replay, harvest| {
                    replay.check_visits(&range, &visits, harvest, |attributes| attributes.write);
                    replay.oracle.change_mapped(&range, |attributes| attributes.write = false);
                })
            }
            Operation::Mark { range, marks } => {
                let expected = self.expected(&range);
                let result = self.tables.mark(range.clone(), marks);
                self.judge(result, expected, |replay, bytes| {
                    let mut changed = 0;
                    replay.oracle.change(&range, |part, state| {
                        if let State::Mapped { attributes, .. } = state {
                            let old = *attributes;
                            attributes.young |= marks.young;
                            attributes.dirty |= marks.dirty;
                            changed += if *attributes == old { 0 } else { part.end - part.start };
                        }
                    });
                    assert_eq!(bytes, changed);
                })
            }
            Operation::Fault { ipa, access } => {
                self.fault(ipa, access);
                None
            }
            Operation::CollectDirty { range } => {
                let expected = self.expected(&range);
                let leaves = self.leaves(&range, Leaf::dirty);
                let (mut gather, mut visits) = (self.tables.gather(), Vec::new());
                let result = self.tables.collect_dirty(range, &mut gather, |leaf| visits.push(leaf));
                self.tables.invalidate(&mut gather);
                self.judge(result, expected, |replay, harvest| {
                    assert_eq!(visits, leaves);
                    assert_eq!(harvest, sum::<G>(&leaves));
                    for leaf in &leaves {
                        replay.oracle.change_mapped(&leaf.range(), |attributes| attributes.dirty = false);
                    }
                })
            }
            Operation::Age { range } => {
                let expected = self.expected(&range);
                let leaves = self.leaves(&range, Leaf::young);
                let (mut gather, mut visits) = (self.tables.gather(), Vec::new());
                let result = self.tables.age(range, &mut gather, |leaf| visits.push(leaf));
                self.tables.invalidate(&mut gather);
                self.judge(result, expected, |replay, harvest| {
                    assert_eq!(visits, leaves);
                    assert_eq!(harvest, sum::<G>(&leaves));
                    for leaf in &leaves {
                        replay.oracle.change_mapped(&leaf.range(), |attributes| attributes.young = false);
                    }
                })
            }
            Operation::Fold { ipa, level, merge } => {
                join::fold(self, ipa, level, merge);
                None
            }
            Operation::Collapse { ipa, level, merge } => {
                join::collapse(self, ipa, level, merge);
                None
            }
            Operation::Optimise { range, merge } => {
                let expected = self.expected(&range);
                join::optimise(self, range, merge, expected)
            }
            Operation::Unfold { range } => {
                let expected = self.expected(&range);
                let result = self.tables.unfold(range.clone());
                self.judge(result, expected, |replay, ()| {
                    assert_eq!(replay.leaves(&range, Leaf::is_group), []);
                })
            }
            Operation::Split { range, to } => {
                let expected = self.expected(&range);
                let result = self.tables.split(range.clone(), to);
                self.judge(result, expected, |replay, ()| {
                    assert_eq!(replay.leaves(&range, |leaf| leaf.level < to), []);
                })
            }
            Operation::Flush => {
                self.tables.flush();
                assert!(self.tables.pending().is_empty());
                None
            }
            Operation::Allow { frames } => {
                self.allowance.set(frames);
                None
            }
        }
    }

    fn fault(&mut self, ipa: u64, access: Access) {
        let mut gather = self.tables.gather();
        let result = self.tables.set_access_flags(ipa, access, &mut gather);
        self.tables.invalidate(&mut gather);
        if ipa >= self.tables.config().ipa_size() {
            assert_eq!(result, Err(Unresolved::Range(ipa)));
            assert!(self.tables.lookup(ipa).is_err());
            return;
        }
        match self.oracle.at(ipa) {
            State::Invalid(marker) => {
                let page = ipa - ipa % G::SIZE;
                let pending = self.tables.pending().overlaps(&(page..page + G::SIZE));
                assert_eq!(result, Err(Unresolved::Unmapped { marker, pending }));
                assert_eq!(self.tables.translate(ipa), None);
            }
            State::Mapped { oa, attributes } => {
                assert_eq!(self.tables.translate(ipa), Some(oa));
                let allowed = match access {
                    Access::Read => attributes.read,
                    Access::Write => attributes.write,
                    Access::Execute => attributes.execute != stage2::Execute::None,
                };
                if !allowed {
                    assert!(matches!(result, Err(Unresolved::Denied { .. })), "{result:?}");
                    return;
                }
                let store = access == Access::Write;
                let changed = result.expect("the leaf allows it");
                // A leaf may be dirty by the software bit alone; the store that makes it so in hardware too
                // changes the descriptor but not the attributes.
                assert!(
                    changed || attributes.young && (attributes.dirty || !store),
                    "a stale leaf stays stale"
                );
                assert!(!changed || !attributes.young || store, "changed what was right already");
                let mut gather = self.tables.gather();
                assert_eq!(self.tables.set_access_flags(ipa, access, &mut gather), Ok(false));
                assert!(gather.is_empty());
                let Ok(Lookup::Leaf(leaf)) = self.tables.lookup(ipa) else { panic!("{ipa:#x} is mapped") };
                self.oracle.change_mapped(&leaf.range(), |attributes| {
                    attributes.young = true;
                    attributes.dirty |= store;
                });
            }
        }
    }

    /// The error that every operation on a bad range must give.
    pub(crate) fn expected(&self, range: &Range<u64>) -> Option<Error> {
        let ipa_size = self.tables.config().ipa_size();
        if range.start >= range.end || range.end > ipa_size {
            return Some(Error::Range { start: range.start, end: range.end, ipa_size });
        }
        let address = [range.start, range.end].into_iter().find(|address| address % G::SIZE != 0)?;
        Some(Error::Misaligned { address, granule: G::SIZE })
    }

    /// Applies `done` where the operation did what it should; returns the error where it was refused. Only a
    /// lack of frames may refuse what is expected to work.
    pub(crate) fn judge<T: fmt::Debug>(
        &mut self,
        result: Result<T, Error>,
        expected: Option<Error>,
        done: impl FnOnce(&mut Self, T),
    ) -> Option<Error> {
        match (result, expected) {
            (Ok(value), None) => {
                done(self, value);
                None
            }
            (Err(error @ Error::Frames { needed }), None) => {
                assert!(self.allowance.get() < needed, "{needed} frames were to be had");
                Some(error)
            }
            (Err(error), Some(expected)) if error == expected => Some(error),
            (result, expected) => panic!("{result:?} where {expected:?} was expected"),
        }
    }

    /// Leaves that touch `range` and that `want` chooses; none where the range is bad.
    pub(crate) fn leaves(&self, range: &Range<u64>, want: impl Fn(&Leaf) -> bool) -> Vec<Leaf> {
        let mut leaves = Vec::new();
        if self.tables.leaves(range.clone(), |leaf| leaves.push(leaf)).is_ok() {
            leaves.retain(want);
        }
        leaves
    }

    /// Checks that the leaves visited are exactly the mapped parts of `range` that `want` chooses, each as the
    /// oracle still knows it, and that their sum is `harvest`.
    fn check_visits(
        &self,
        range: &Range<u64>,
        visits: &[Leaf],
        harvest: Harvest,
        want: impl Fn(&stage2::Attributes) -> bool,
    ) {
        let mut visits = visits.iter();
        let mut expected = Harvest::default();
        for (part, state) in self.oracle.stretches(range) {
            let State::Mapped { mut oa, attributes } = state else { continue };
            if !want(&attributes) {
                continue;
            }
            let mut at = part.start;
            while at < part.end {
                let leaf = visits.next().expect("a leaf was not visited");
                assert_eq!((leaf.ipa, leaf.oa), (at, oa));
                assert_eq!(leaf.attributes(self.tables.config()), attributes, "{leaf:x?}");
                assert!(leaf.range().end <= part.end, "{leaf:x?} reaches out of {part:x?}");
                at += leaf.bytes;
                oa += leaf.bytes;
                expected.merge(sum::<G>(&[*leaf]));
            }
        }
        assert_eq!(visits.next(), None, "a leaf too many was visited");
        assert_eq!(harvest, expected);
    }
}

/// What a harvest of these leaves must say.
pub(crate) fn sum<G: Granule>(leaves: &[Leaf]) -> Harvest {
    let mut sum = Harvest::default();
    for leaf in leaves {
        sum.merge(Harvest {
            bytes: leaf.bytes,
            entries: leaf.bytes / G::size(leaf.level),
            dirty: leaf.dirty(),
            young: leaf.young(),
        });
    }
    sum
}
