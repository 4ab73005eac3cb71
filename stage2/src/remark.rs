//! Remarking: changing what is known about addresses that are not mapped.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed, Release};
use crate::descriptor::{VALID, is_table};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level};
use crate::marker::Marker;
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::indices;

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Replaces the marker of every unmapped address of `range` by what `change` makes of it (`None` is "no
    /// marker"). Mapped addresses stay as they are. Returns the bytes whose marker changed.
    ///
    /// `change` must give the same answer each time it is asked about the same marker. No hardware caches an
    /// invalid entry, so nothing needs invalidating but tables that become superfluous.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`]; [`Error::Frames`] where a marker must be cut and there is none.
    pub fn remark(
        &mut self,
        range: Range<u64>,
        change: impl Fn(Option<Marker>) -> Option<Marker>,
    ) -> Result<u64, Error> {
        self.check(&range)?;
        let changed = |word: u64| {
            if word & VALID == 0 { Marker::word_of(change(Marker::from_word(word))) } else { word }
        };
        self.cut_ends(&range, 0, |word, _| changed(word) != word)?;
        let mut work = self.work();
        let mut bytes = 0;
        work.remark(work.root_table(), work.config.start, 0, &range, &changed, &mut bytes);
        self.finish();
        Ok(bytes)
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// Recursion is as deep as the tables.
    fn remark(
        &mut self,
        table: &'a [Entry],
        level: Level,
        base: u64,
        range: &Range<u64>,
        changed: &impl Fn(u64) -> u64,
        bytes: &mut u64,
    ) {
        let size = G::size(level);
        for index in indices::<G>(table, level, base, range) {
            let entry = &table[index];
            let word = entry.load(Relaxed);
            if is_table(word, level) {
                let base = base + index as u64 * size;
                let (child, _) = self.child(word);
                self.remark(child, level.next(), base, range, changed, bytes);
                self.unlink_uniform(entry, level, base);
            } else if changed(word) != word {
                entry.store(changed(word), Release);
                *bytes += size;
            }
        }
    }

    /// Unlinks the table below `entry`, which stands for `base`, if all its entries are the same invalid word;
    /// the entry says it then. Returns whether it did.
    pub(crate) fn unlink_uniform(&mut self, entry: &Entry, level: Level, base: u64) -> bool {
        let (child, frame) = self.child(entry.load(Relaxed));
        let word = child[0].load(Relaxed);
        if word & VALID != 0 || child.iter().any(|entry| entry.load(Relaxed) != word) {
            return false;
        }
        entry.store(word, Release);
        self.owe_tables(base..base + G::size(level));
        self.bury(frame);
        true
    }
}
