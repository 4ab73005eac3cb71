//! Conversions: the only places where a live translation changes its size, and the sequence for each.
//!
//! The architecture lets a TLB hold at most one size of translation for an address. Changing a block into
//! a table, a table into a block, or the Contiguous bit, therefore goes by *break-before-make*: write an
//! invalid entry, invalidate, write the new one. An access in between faults and must be retried by
//! whoever handles the fault. FEAT_BBM shortens that:
//!
//! | level | block and table | Contiguous bit |
//! |---|---|---|
//! | 0 | break-before-make | break-before-make |
//! | 1 | in place, with nT on the block meanwhile | break-before-make |
//! | 2, 3 | in place | in place |
//!
//! Every sequence is arranged so that no access or store can go unrecorded:
//!
//! - *Break* is an atomic exchange, so it returns what hardware wrote up to that instant; afterwards the entry
//!   is invalid and hardware writes nothing to it. A store through a stale TLB entry after that went
//!   through an entry that was dirty already, or it would have had to write the descriptor.
//! - *In place*, hardware may write the old form until it is exchanged and the new form from then on. What
//!   the exchange returns beyond what had been copied is ORed into the new form afterwards.
//! - A group's dirty bit may stand on any member on behalf of all, so a conversion gives every part the OR
//!   of all. To keep the grain of single pages when they are joined, harvest them: [`Merge::Harvest`].
//!
//! Source: DDI 0487, D8.16.1 (break-before-make), D8.6 (Contiguous bit), D8.5 (hardware updates).

use crate::atomic::{AcqRel, Entry, Relaxed, Release, take};
use crate::descriptor::{AF, CONTIGUOUS, DIRTY, HARVEST, NT, is_leaf};
use crate::features::BbmLevel;
use crate::frames::Frames;
use crate::geometry::{Granule, Level};
use crate::tables::Work;
use crate::tlbi::Executor;
use crate::walk::walk_table;

/// What joining leaves does with dirty and young states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Merge {
    /// Refuse leaves that differ. (What hardware writes during the conversion goes to the whole.)
    Uniform,
    /// The whole is dirty or young where any part was.
    Union,
    /// Hand every part to the visitor as it was, and leave the whole clean; young where any part was.
    Harvest,
}

impl Merge {
    /// The bits that parts may differ in.
    pub(crate) const fn ignores(self) -> u64 {
        match self {
            Self::Uniform => 0,
            Self::Union | Self::Harvest => HARVEST,
        }
    }

    /// The bits of all parts that go to the whole.
    const fn keeps(self) -> u64 {
        match self {
            Self::Uniform | Self::Union => HARVEST,
            Self::Harvest => AF,
        }
    }
}

/// Members of the largest group: 128 pages of 16K.
const LARGEST_GROUP: usize = 128;

impl<G: Granule, F: Frames, E: Executor> Work<'_, G, F, E> {
    /// Sets or clears the Contiguous bit of the members of one group, which begins at `base`. `visit` sees
    /// every member's index and word as it was. All members end with the same AF and dirty bits.
    pub(crate) fn convert_group(
        &mut self,
        entries: &[Entry],
        level: Level,
        base: u64,
        on: bool,
        merge: Merge,
        visit: &mut impl FnMut(usize, u64),
    ) {
        let bit = if on { CONTIGUOUS } else { 0 };
        let range = base..base + entries.len() as u64 * G::size(level);
        if E::LIVE && self.config.bbm >= BbmLevel::Level2 {
            let cleared = DIRTY & !merge.keeps();
            // Harvest first, of every member, while none of them says group. From the first Contiguous bit on, a
            // store to any page may be marked on any member: harvested then, that mark would count for the
            // member's page alone, and the page that was stored to would be lost.
            if cleared != 0 {
                for (index, entry) in entries.iter().enumerate() {
                    visit(index, update(entry, level, |word| word & !cleared));
                }
            }
            // What is known to go to the whole goes there before the invalidation: where software manages dirty,
            // S2AP[1] set afterwards would leave a read-only view of the leaf cached that nothing removes.
            let set = bit | merge.keeps() & gathered(entries, level);
            for (index, entry) in entries.iter().enumerate() {
                let old = update(entry, level, |word| word & !CONTIGUOUS | set);
                if cleared == 0 {
                    visit(index, old);
                }
            }
            self.owe_leaves(range, level);
            self.invalidate_now();
            // No TLB holds the old form now: what a store through it wrote has been written, and nothing that was
            // written since the harvest has been taken away.
            let all = gathered(entries, level);
            for entry in entries {
                update(entry, level, |word| word | all);
            }
            return;
        }
        let mut words = [0; LARGEST_GROUP];
        let mut all = 0;
        for (index, entry) in entries.iter().enumerate() {
            words[index] = if E::LIVE { entry.swap(0, AcqRel) } else { entry.load(Relaxed) };
            visit(index, words[index]);
            all |= harvest(words[index], level);
        }
        let all = all & merge.keeps();
        self.owe_leaves(range, level);
        self.invalidate_now();
        for (entry, word) in entries.iter().zip(words) {
            let made = if is_leaf(word, level) { word & !(CONTIGUOUS | HARVEST) | bit | all } else { word };
            entry.store(made, Release);
        }
        self.publish();
    }

    /// Replaces the block in `entry`, at address `base`, by a table that says the same, cut at `cut`.
    pub(crate) fn replace_block(&mut self, entry: &Entry, level: Level, base: u64, cut: Option<u64>) {
        let range = base..base + G::size(level);
        if !E::LIVE {
            let table = self.subdivide(entry.load(Relaxed), level, base, cut);
            entry.store(table, Release);
            return;
        }
        if self.config.bbm == BbmLevel::Level0 {
            let word = entry.swap(0, AcqRel);
            self.owe_leaves(range, level);
            self.invalidate_now();
            let table = self.subdivide(word, level, base, cut);
            entry.store(table, Release);
            self.publish();
            return;
        }
        if self.config.bbm == BbmLevel::Level1 {
            // From here on no TLB caches the block in a way that could clash with smaller entries.
            entry.fetch_or(NT, AcqRel);
            self.owe_leaves(range.clone(), level);
            self.invalidate_now();
        }
        let word = entry.load(Relaxed);
        let table = self.subdivide(word, level, base, cut);
        let last = entry.swap(table, AcqRel);
        let late = last & !word & HARVEST;
        if late != 0 {
            let (entries, _) = self.child(table);
            let (config, frames) = (self.config, self.frames);
            walk_table(config, frames, entries, level.next(), base, &range, &mut |slot| {
                for entry in slot.entries {
                    entry.fetch_or(late, AcqRel);
                }
            });
        }
        self.owe_leaves(range, level);
        self.invalidate_now();
    }

    /// Replaces the table below `entry`, all of whose entries are leaves that qualify, by the block `block`
    /// (without harvest bits). `visit` sees every leaf's index and word as it was.
    pub(crate) fn replace_table(
        &mut self,
        entry: &Entry,
        level: Level,
        base: u64,
        block: u64,
        merge: Merge,
        visit: &mut impl FnMut(usize, u64),
    ) {
        let below = level.next();
        let range = base..base + G::size(level);
        let (entries, frame) = self.child(entry.load(Relaxed));
        let mut gather = || {
            let mut all = 0;
            for (index, entry) in entries.iter().enumerate() {
                // A dead table holds nothing valid, whoever still looks at it.
                let old = take_entry::<E>(entry);
                visit(index, old);
                all |= harvest(old, below) & merge.keeps();
            }
            all
        };
        if !E::LIVE {
            let all = gather();
            entry.store(block | all, Release);
        } else if self.config.bbm == BbmLevel::Level0 {
            let all = gather();
            entry.store(0, Release);
            self.owe_tables(range);
            self.invalidate_now();
            entry.store(block | all, Release);
            self.publish();
        } else {
            let nt = if self.config.bbm == BbmLevel::Level1 { NT } else { 0 };
            entry.store(block | nt | gathered(entries, below) & merge.keeps(), Release);
            self.owe_tables(range);
            self.invalidate_now();
            // No walker reaches the old table any more; what hardware wrote there is final.
            let all = gather();
            entry.fetch_or(all, AcqRel);
            if nt != 0 {
                entry.fetch_and(!NT, AcqRel);
                self.publish();
            }
        }
        self.bury(frame);
    }
}

/// Takes an entry out of a table that is about to die.
#[inline]
fn take_entry<E: Executor>(entry: &Entry) -> u64 {
    if E::LIVE { take::<true>(entry, 0) } else { entry.load(Relaxed) }
}

/// AF and dirty of a leaf; nothing of anything else.
#[inline]
fn harvest(word: u64, level: Level) -> u64 {
    if is_leaf(word, level) { word & HARVEST } else { 0 }
}

/// AF and dirty of all of these leaves.
#[inline]
fn gathered(entries: &[Entry], level: Level) -> u64 {
    entries.iter().fold(0, |all, entry| all | harvest(entry.load(Relaxed), level))
}

/// Changes a leaf atomically; leaves anything else alone. Returns what was there.
#[inline]
pub(crate) fn update(entry: &Entry, level: Level, change: impl Fn(u64) -> u64) -> u64 {
    let mut word = entry.load(Relaxed);
    loop {
        if !is_leaf(word, level) {
            return word;
        }
        match entry.compare_exchange_weak(word, change(word), AcqRel, Relaxed) {
            Ok(old) => return old,
            Err(now) => word = now,
        }
    }
}
