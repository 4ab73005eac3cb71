//! The TLB: what a processor may remember of a walk, and for how long.
//!
//! Three kinds of entries, as real ones have them:
//!
//! - stage-2 leaves, a whole contiguous group as *one* entry;
//! - combined entries, made of stage 1 and stage 2 together. They are tagged with virtual addresses, so an
//!   invalidation by IPA doesn't reach them;
//! - pointers to tables, which let a walk begin half way down.

use std::ops::Range;

use crate::chance::Chance;
use crate::regime::Regime;
use crate::tlbi::Scope;
use crate::violation::Violation;
use crate::walker::Step;
use crate::word::{LeafWord, WRITE};

/// A cached leaf.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Cached {
    /// Addresses that it translates.
    pub(crate) range: Range<u64>,
    /// The descriptor that it was made from; S2AP\[1\] follows what this entry knows to be dirty.
    pub(crate) leaf: LeafWord,
    /// Where `range` leads.
    pub(crate) oa: u64,
    /// Whether the descriptor had the Contiguous bit.
    pub(crate) group: bool,
    /// Whether stage 1 had a part in it.
    pub(crate) combined: bool,
}

impl Cached {
    pub(crate) fn delta(&self) -> u64 {
        self.oa.wrapping_sub(self.range.start)
    }

    /// Whether a store through this entry needs no descriptor.
    pub(crate) fn dirty(&self) -> bool {
        self.leaf.has(WRITE)
    }

    fn same_slot(&self, other: &Self) -> bool {
        (&self.range, self.leaf.level, self.group, self.combined)
            == (&other.range, other.leaf.level, other.group, other.combined)
    }
}

/// More than the tests' hot addresses need, so that what goes away goes by chance or by invalidation.
const LEAVES: usize = 96;
const TABLES: usize = 32;

/// What one processor remembers.
#[derive(Debug, Default)]
pub(crate) struct Tlb {
    pub(crate) leaves: Vec<Cached>,
    pub(crate) tables: Vec<Step>,
    /// Never makes anew what it holds.
    pub(crate) sticky: bool,
}

impl Tlb {
    /// Positions of the entries that translate `ipa`.
    pub(crate) fn hits(&self, ipa: u64) -> Vec<usize> {
        let hit = |(at, entry): (usize, &Cached)| entry.range.contains(&ipa).then_some(at);
        self.leaves.iter().enumerate().filter_map(hit).collect()
    }

    /// The deepest cached table on the way to `ipa`.
    pub(crate) fn table(&self, ipa: u64) -> Option<&Step> {
        self.tables.iter().filter(|step| step.range.contains(&ipa)).max_by_key(|step| step.level)
    }

    /// Caches a table.
    pub(crate) fn fill_table(&mut self, step: &Step, chance: &Chance) {
        let known = |other: &Step| other.range == step.range && other.level == step.level;
        if let Some(old) = self.tables.iter_mut().find(|other| known(other)) {
            // One processor's cache of pointers is not everybody's: the stale one may live on elsewhere.
            if !self.sticky && chance.once(1, 2) {
                *old = step.clone();
            }
            return;
        }
        if self.tables.len() == TABLES {
            self.tables.swap_remove(chance.below(TABLES));
        }
        self.tables.push(step.clone());
    }

    /// Caches a leaf, if it can live beside what is cached already.
    pub(crate) fn fill(&mut self, regime: &Regime, new: Cached, chance: &Chance) -> Result<(), Violation> {
        let overlaps = |old: &Cached| old.range.start < new.range.end && new.range.start < old.range.end;
        for old in self.leaves.iter().filter(|old| overlaps(old)) {
            let ipa = old.range.start.max(new.range.start);
            let (a, b) = (&old.leaf.fields, &new.leaf.fields);
            if old.delta() != new.delta() || a.memory != b.memory || a.shareability != b.shareability {
                return Err(Violation::BreakBeforeMake { ipa });
            }
            if clash(regime, old, &new) {
                return Err(Violation::Conflict { ipa });
            }
        }
        if let Some(old) = self.leaves.iter_mut().find(|old| old.same_slot(&new)) {
            // A hit would have been used, not refilled: only what has fallen out is made anew.
            if !self.sticky && chance.once(1, 2) {
                *old = new;
            }
            return Ok(());
        }
        if self.leaves.len() == LEAVES {
            self.leaves.swap_remove(chance.below(LEAVES));
        }
        self.leaves.push(new);
        Ok(())
    }

    /// Two sizes for one address, at a FEAT_BBM level that aborts on them.
    pub(crate) fn conflict(&self, hits: &[usize]) -> bool {
        let size = |&at: &usize| (self.leaves[at].leaf.level, self.leaves[at].group);
        hits.iter().any(|hit| size(hit) != size(&hits[0]))
    }

    /// Forgets one entry by chance.
    pub(crate) fn evict(&mut self, chance: &Chance) {
        if !self.leaves.is_empty() {
            self.leaves.swap_remove(chance.below(self.leaves.len()));
        }
        if !self.tables.is_empty() && chance.once(1, 2) {
            self.tables.swap_remove(chance.below(self.tables.len()));
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.leaves.clear();
        self.tables.clear();
    }

    /// Forgets exactly what an instruction invalidates: no more, so that what is missing shows.
    pub(crate) fn invalidate(&mut self, scope: &Scope) {
        match scope {
            Scope::All => self.clear(),
            Scope::Stage1 => self.leaves.retain(|entry| !entry.combined),
            Scope::Stage2 { range, leaf_only, level } => {
                let touches = |other: &Range<u64>| other.start < range.end && range.start < other.end;
                let hinted = |at: i32| level.is_none_or(|level| level == at);
                self.leaves
                    .retain(|entry| entry.combined || !touches(&entry.range) || !hinted(entry.leaf.level));
                if !leaf_only {
                    self.tables.retain(|step| !touches(&step.range));
                }
            }
        }
    }
}

/// Whether two entries of different sizes may not be cached together: FEAT_BBM level 2 and 3 allow it for a
/// while; level 0 and 1 don't (a block with nT isn't cached at all).
fn clash(regime: &Regime, old: &Cached, new: &Cached) -> bool {
    let differ = old.leaf.level != new.leaf.level || old.group != new.group;
    differ && regime.processor.bbm < 2
}
