//! Splitting blocks into tables, and collapsing tables into blocks.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::clear::Harvest;
use crate::convert::Merge;
use crate::descriptor::{CONTIGUOUS, Descriptor, HARVEST, TYPE, VALID, is_leaf, is_table, leaf_type};
use crate::error::Error;
use crate::fold::{Refusal, joinable};
use crate::frames::Frames;
use crate::geometry::{Granule, Level};
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Leaf, indices};

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Splits every block that touches `range` until no leaf there stands above level `to`: before dirty
    /// logging, say, so that the first store to a block doesn't have to. The parts are contiguous groups where
    /// groups are used; [`unfold`](Self::unfold) takes that away too. Every part is as dirty and young as the
    /// block was.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`], [`Error::Frames`].
    pub fn split(&mut self, range: Range<u64>, to: Level) -> Result<(), Error> {
        self.check(&range)?;
        let mut needed = 0u64;
        self.walker().walk(&range, |slot| {
            // A group is handed out whole: count the members that the range touches.
            let touched = slot.range().start.max(range.start)..slot.range().end.min(range.end);
            let first = (touched.start - slot.ipa) / slot.size;
            let last = (touched.end - 1 - slot.ipa) / slot.size;
            for member in first..=last {
                let at = slot.ipa + member * slot.size;
                needed += tables_below::<G>(slot.level, to, at, &range);
            }
        });
        self.reserve(needed)?;
        let mut work = self.work();
        work.split_table(work.root_table(), work.config.start, 0, &range, to);
        self.finish();
        Ok(())
    }

    /// Makes a block of the table below the entry of `level` around `ipa`. All its entries must be leaves of
    /// the next level that qualify, grouped or not. What becomes of dirty and young states that differ says
    /// `merge`; `visit` sees every leaf as it was (a group as one), the sum is returned.
    ///
    /// # Errors
    /// [`Refusal`]: they don't qualify.
    pub fn collapse(
        &mut self,
        ipa: u64,
        level: Level,
        merge: Merge,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Refusal> {
        let mut work = self.work();
        let (table, index, base) = work.table_at(ipa, level)?;
        let mut harvest = Harvest::default();
        let result = work.collapse_entry(&table[index], level, base, merge, &mut harvest, &mut visit);
        self.finish();
        result.map(|()| harvest)
    }
}

/// Tables that splitting an entry of `level` at `base` down to level `to`, wherever it touches `range`, needs.
fn tables_below<G: Granule>(level: Level, to: Level, base: u64, range: &Range<u64>) -> u64 {
    let mut tables = 0;
    let mut at = level;
    let (start, end) = (base.max(range.start), (base + G::size(level)).min(range.end));
    while at < to {
        // One for each entry of this level that is touched.
        tables += ((end - 1) >> G::shift(at)) - (start >> G::shift(at)) + 1;
        at = at.next();
    }
    tables
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// Recursion is as deep as the tables.
    fn split_table(&mut self, table: &'a [Entry], level: Level, base: u64, range: &Range<u64>, to: Level) {
        if level >= to {
            return;
        }
        let size = G::size(level);
        for index in indices::<G>(table, level, base, range) {
            let ipa = base + index as u64 * size;
            let entry = &table[index];
            let word = entry.load(Relaxed);
            if is_leaf(word, level) {
                if word & CONTIGUOUS != 0 {
                    self.unfold_group(table, level, index, ipa);
                }
                self.replace_block(entry, level, ipa, None);
            }
            let word = entry.load(Relaxed);
            if is_table(word, level) {
                self.split_table(self.child(word).0, level.next(), ipa, range, to);
            }
        }
    }

    /// Makes a block of the table below `entry`, which stands for `base`.
    pub(crate) fn collapse_entry(
        &mut self,
        entry: &Entry,
        level: Level,
        base: u64,
        merge: Merge,
        harvest: &mut Harvest,
        visit: &mut impl FnMut(Leaf),
    ) -> Result<(), Refusal> {
        if level < self.config.largest_leaf || level.is_last() {
            return Err(Refusal::Level(level));
        }
        let word = entry.load(Relaxed);
        if is_leaf(word, level) {
            return Err(Refusal::Joined);
        }
        if !is_table(word, level) {
            return Err(Refusal::Absent(base));
        }
        let below = level.next();
        let (child, _) = self.child(word);
        let first = joinable(self.config, child, below, base, merge)?;
        let (size, format) = (G::size(below), self.config.format);
        let mut gathered = 0;
        let mut part = |index: usize, word: u64| {
            // A group is handed out whole: whichever member hardware marked, it may have meant any.
            let members = if word & CONTIGUOUS != 0 { G::group(below) } else { 1 };
            let member = index & (members - 1);
            gathered = if member == 0 { word } else { gathered | word & HARVEST };
            if member + 1 < members {
                return;
            }
            let bytes = members as u64 * size;
            harvest.add(members as u64, bytes, gathered);
            visit(Leaf {
                ipa: base + (index - member) as u64 * size,
                oa: format.leaf::<G>(gathered, below),
                bytes,
                level: below,
                descriptor: Descriptor::new(gathered),
            });
        };
        let attributes = first & !(format.leaf_mask::<G>(below) | VALID | TYPE | CONTIGUOUS | HARVEST);
        let block = attributes | leaf_type(level) | format.encode(format.leaf::<G>(first, below));
        self.replace_table(entry, level, base, block, merge, &mut part);
        Ok(())
    }
}
