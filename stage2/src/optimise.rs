//! Optimising: joining again what has become uniform.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::clear::Harvest;
use crate::convert::Merge;
use crate::descriptor::{CONTIGUOUS, is_leaf, is_table};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level};
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Leaf, indices};

/// What [`Tables::optimise`] did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Optimised {
    /// Groups folded.
    pub folded: u64,
    /// Tables that became blocks.
    pub collapsed: u64,
    /// Tables that became one invalid entry.
    pub emptied: u64,
    /// What the joined leaves were.
    pub harvest: Harvest,
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Joins, from the bottom up, what lies wholly inside `range` and qualifies: tables into blocks, leaves
    /// into groups, tables that say one invalid thing into one entry. `merge` and `visit` as for
    /// [`fold`](Self::fold) and [`collapse`](Self::collapse).
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn optimise(
        &mut self,
        range: Range<u64>,
        merge: Merge,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Optimised, Error> {
        self.check(&range)?;
        let mut done = Optimised::default();
        let mut work = self.work();
        let (root, start) = (work.root_table(), work.config.start);
        work.optimise_table(root, start, 0, &range, merge, &mut done, &mut visit);
        work.fold_table(root, start, 0, &range, merge, &mut done, &mut visit);
        self.finish();
        Ok(done)
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// Works on the tables below a table; the table's own entries are for the caller, who may be able to
    /// collapse it whole. Recursion is as deep as the tables.
    #[expect(clippy::too_many_arguments, reason = "one recursion, its position and what it collects")]
    fn optimise_table(
        &mut self,
        table: &'a [Entry],
        level: Level,
        base: u64,
        range: &Range<u64>,
        merge: Merge,
        done: &mut Optimised,
        visit: &mut impl FnMut(Leaf),
    ) {
        if level.is_last() {
            return;
        }
        let size = G::size(level);
        for index in indices::<G>(table, level, base, range) {
            let entry = &table[index];
            let word = entry.load(Relaxed);
            if !is_table(word, level) {
                continue;
            }
            let ipa = base + index as u64 * size;
            let (child, _) = self.child(word);
            self.optimise_table(child, level.next(), ipa, range, merge, done, visit);
            if range.start <= ipa && ipa + size <= range.end {
                if self.unlink_uniform(entry, level, ipa) {
                    done.emptied += 1;
                    continue;
                }
                let harvest = &mut done.harvest;
                if self.collapse_entry(entry, level, ipa, merge, harvest, visit).is_ok() {
                    done.collapsed += 1;
                    continue;
                }
            }
            self.fold_table(child, level.next(), ipa, range, merge, done, visit);
        }
    }

    /// Folds the groups of one table that lie inside the range.
    #[expect(clippy::too_many_arguments, reason = "one table, its position and what it collects")]
    fn fold_table(
        &mut self,
        table: &'a [Entry],
        level: Level,
        base: u64,
        range: &Range<u64>,
        merge: Merge,
        done: &mut Optimised,
        visit: &mut impl FnMut(Leaf),
    ) {
        let members = self.config.group(level);
        if members == 1 || level < self.config.largest_leaf {
            return;
        }
        let size = G::size(level);
        let part = indices::<G>(table, level, base, range);
        let mut first = part.start.next_multiple_of(members);
        while first + members <= part.end {
            let ipa = base + first as u64 * size;
            let word = table[first].load(Relaxed);
            let inside = range.start <= ipa && ipa + members as u64 * size <= range.end;
            if inside && is_leaf(word, level) && word & CONTIGUOUS == 0 {
                let entries = &table[first..first + members];
                let harvest = &mut done.harvest;
                if self.fold_group(entries, level, ipa, merge, harvest, visit).is_ok() {
                    done.folded += 1;
                }
            }
            first += members;
        }
    }
}
