//! Cutting: making an address the boundary of entries.
//!
//! A structural operation on a range first cuts at both ends. After that no block, group or marker straddles
//! an end, and the operation handles whole entries and whole groups only. Cutting keeps every translation,
//! permission and marker as it is. What was gathered of a leaf, dirty and young, is passed on to each of its
//! parts: which part it was can't be known any more, and forgetting it would lose a write.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed, Release};
use crate::convert::Merge;
use crate::descriptor::{CONTIGUOUS, NT, TYPE, VALID, is_leaf, leaf_type};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, aligned, floor};
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Walker, group_of};

/// Where a cut would have to split: an entry that isn't a table, and how many levels deeper the cut lies.
struct Straddled {
    /// Address and size of the entry.
    entry: Range<u64>,
    level: Level,
    /// The level at which the cut is a boundary.
    depth: Level,
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Cuts at both ends of `range`, wherever `want` says that the word of a straddling entry is going to
    /// change, and reserves `more` frames beside those for the cuts.
    pub(crate) fn cut_ends(
        &mut self,
        range: &Range<u64>,
        more: u64,
        want: impl Fn(u64, Level) -> bool,
    ) -> Result<(), Error> {
        let head = self.straddled(range.start, &want);
        let tail = self.straddled(range.end, &want);
        let mut needed = more;
        for straddled in [&head, &tail].into_iter().flatten() {
            needed += u64::from(straddled.depth.number().abs_diff(straddled.level.number()));
        }
        if let (Some(head), Some(tail)) = (&head, &tail) {
            // Both ends in one entry: the tables that both walks pass through are needed once.
            let mut level = head.level.next();
            while head.entry == tail.entry && level <= head.depth && level <= tail.depth {
                let span = G::size(level) * G::ENTRIES as u64;
                if floor(range.start, span) != floor(range.end, span) {
                    break;
                }
                needed -= 1;
                if level.is_last() {
                    break;
                }
                level = level.next();
            }
        }
        self.reserve(needed)?;
        let mut work = self.work();
        for ipa in [range.start, range.end] {
            if ipa < work.config.ipa_size() {
                work.cut(ipa, &want);
            }
        }
        Ok(())
    }

    fn straddled(&self, ipa: u64, want: &impl Fn(u64, Level) -> bool) -> Option<Straddled> {
        if ipa >= self.config.ipa_size() {
            return None;
        }
        let (table, level, index) = self.walker().descend(ipa);
        let size = G::size(level);
        if aligned(ipa, size) || !want(table[index].load(Relaxed), level) {
            return None;
        }
        let start = floor(ipa, size);
        let mut depth = level;
        while !aligned(ipa, G::size(depth)) {
            depth = depth.next();
        }
        Some(Straddled { entry: start..start + size, level, depth })
    }
}

impl<G: Granule, F: Frames, E: Executor> Work<'_, G, F, E> {
    /// Makes `ipa` a boundary.
    fn cut(&mut self, ipa: u64, want: &impl Fn(u64, Level) -> bool) {
        let walker = Walker { config: self.config, frames: self.frames, root: self.root };
        let (table, level, index) = walker.descend(ipa);
        let word = table[index].load(Relaxed);
        if !want(word, level) {
            return;
        }
        let base = floor(ipa, G::size(level));
        let inside = base != ipa;
        if is_leaf(word, level) && word & CONTIGUOUS != 0 {
            // A boundary of the group is a boundary already.
            if inside || index != group_of::<G>(table, level, index, word).start {
                self.unfold_group(table, level, index, base);
            }
        }
        if inside {
            self.split_entry(&table[index], level, base, Some(ipa));
        }
    }

    /// Replaces the leaf or invalid word of `entry` by a table that says the same. With `cut`, deeper tables
    /// are made until the cut is a boundary. `base` is the entry's own address.
    pub(crate) fn split_entry(&mut self, entry: &Entry, level: Level, base: u64, cut: Option<u64>) {
        let word = entry.load(Relaxed);
        if is_leaf(word, level) {
            self.replace_block(entry, level, base, cut);
        } else {
            // Nothing valid is replaced, so nothing needs breaking; but the entry may have been broken a moment
            // ago. What it said then, a block or a pointer to a table, must be gone before a table is made of it.
            if self.pending.overlaps(&(base..base + G::size(level))) {
                self.invalidate_now();
            }
            let table = self.subdivide(word, level, base, cut);
            entry.store(table, Release);
            self.publish();
        }
    }

    /// A new table that says what `word`, an entry of `level` at `base` without the Contiguous bit, says;
    /// returns the descriptor that points to it. Groups are built where the cut doesn't run through them.
    /// Recursion is as deep as the tables.
    pub(crate) fn subdivide(&mut self, word: u64, level: Level, base: u64, cut: Option<u64>) -> u64 {
        let (entries, frame) = self.new_table();
        let below = level.next();
        let size = G::size(below);
        let cut = cut.filter(|&cut| cut > base && cut < base + G::size(level));
        let at = cut.map_or(usize::MAX, |cut| ((cut - base) / size) as usize);
        let inside = cut.filter(|&cut| !aligned(cut, size));
        if !is_leaf(word, level) {
            entries.iter().for_each(|entry| entry.store(word, Relaxed));
            if inside.is_some() {
                let child = self.subdivide(word, below, base + at as u64 * size, cut);
                entries[at].store(child, Relaxed);
            }
            return self.table_word(frame);
        }
        let format = self.config.format;
        let attributes = word & !(format.leaf_mask::<G>(level) | VALID | TYPE | CONTIGUOUS | nt(level));
        let oa = format.leaf::<G>(word, level);
        let plain = attributes | leaf_type(below);
        let group = self.config.group(below);
        let members = group.max(1);
        for (number, chunk) in entries.chunks(members).enumerate() {
            let first = number * members;
            let through = at > first && at < first + chunk.len() || inside.is_some() && at == first;
            let contiguous = if group > 1 && !through { CONTIGUOUS } else { 0 };
            for (offset, entry) in chunk.iter().enumerate() {
                let oa = oa + (first + offset) as u64 * size;
                entry.store(plain | contiguous | format.encode(oa), Relaxed);
            }
        }
        if inside.is_some() {
            let leaf = entries[at].load(Relaxed);
            let child = self.subdivide(leaf, below, base + at as u64 * size, cut);
            entries[at].store(child, Relaxed);
        }
        self.table_word(frame)
    }

    /// Takes the Contiguous bit from the group around `index`; `ipa` is the address of that entry.
    pub(crate) fn unfold_group(&mut self, table: &[Entry], level: Level, index: usize, ipa: u64) {
        let members = group_of::<G>(table, level, index, CONTIGUOUS);
        let base = ipa - (index - members.start) as u64 * G::size(level);
        self.convert_group(&table[members], level, base, false, Merge::Union, &mut |_, _| {});
    }
}

/// nT stands in blocks only; in a page of the 64K granule the same bit is part of the address.
const fn nt(level: Level) -> u64 {
    if level.is_last() { 0 } else { NT }
}
