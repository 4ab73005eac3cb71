//! Runs: maximal uniform stretches of the address space.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::attributes::Attributes;
use crate::descriptor::{
    AF, CONTIGUOUS, DIRTY, Descriptor, NT, S2AP_W, SW_DIRTY, TYPE, VALID, is_leaf, is_table,
};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, floor};
use crate::marker::Marker;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::{gathered, group_of};

/// What a run holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Mapped, with outputs that follow on each other from `oa`. Blocks, groups and pages are told apart by
    /// [`Tables::leaves`]; a run goes across them.
    Mapped {
        /// Output address of the first byte.
        oa: u64,
        /// The same all along. What is being ignored reads as `false`.
        attributes: Attributes,
    },
    /// Not mapped, with this marker.
    Marked(Marker),
    /// Not mapped, nothing known.
    Unmapped,
}

/// A maximal uniform stretch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its addresses, clipped to the range asked for.
    pub range: Range<u64>,
    /// What they hold.
    pub content: Content,
}

impl Run {
    /// Its length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The runs of a range, in order and without gaps. What hardware changes meanwhile may or may not show.
#[derive(Debug)]
#[must_use = "an iterator does nothing by itself"]
pub struct Runs<'a, G: Granule, F: Frames, E: Executor> {
    tables: &'a Tables<G, F, E>,
    at: u64,
    end: u64,
    ignored: u64,
    here: Option<Here<'a>>,
}

/// A table on the way, the deepest that holds the next address: one walk from the root serves all its entries.
#[derive(Debug)]
struct Here<'a> {
    table: &'a [Entry],
    level: Level,
    /// Address of its first entry.
    base: u64,
}

impl<'a> Here<'a> {
    fn new<G: Granule, F: Frames, E: Executor>(tables: &'a Tables<G, F, E>, ipa: u64) -> Self {
        let (table, level, index) = tables.walker().descend(ipa);
        let size = G::size(level);
        Self { table, level, base: floor(ipa, size) - index as u64 * size }
    }
}

/// What makes neighbours alike: a leaf's bits without address and size, or an invalid word; and for a leaf the
/// output address minus the input address.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    word: u64,
    delta: u64,
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// The runs of `range`.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn runs(&self, range: Range<u64>) -> Result<Runs<'_, G, F, E>, Error> {
        self.check(&range)?;
        Ok(Runs { tables: self, at: range.start, end: range.end, ignored: 0, here: None })
    }
}

impl<G: Granule, F: Frames, E: Executor> Runs<'_, G, F, E> {
    /// Lets a run go on where only young differs.
    pub const fn ignoring_young(mut self) -> Self {
        self.ignored |= AF;
        self
    }

    /// Lets a run go on where only dirty differs.
    pub const fn ignoring_dirty(mut self) -> Self {
        self.ignored |= DIRTY;
        self
    }

    #[inline]
    fn key(&self, word: u64, level: Level, ipa: u64) -> Key {
        if !is_leaf(word, level) {
            return Key { word, delta: 0 };
        }
        let format = self.tables.config.format;
        let nt = if level.is_last() { 0 } else { NT };
        let size = format.leaf_mask::<G>(level) | TYPE | CONTIGUOUS | nt;
        let mut bits = word & !(size | self.ignored);
        // One dirty is as good as the other.
        if self.ignored & DIRTY == 0 && word & DIRTY != 0 {
            bits = bits & !S2AP_W | SW_DIRTY;
        }
        Key { word: bits, delta: format.leaf::<G>(word, level).wrapping_sub(ipa) }
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Iterator for Runs<'a, G, F, E> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let start = self.at;
        let mut run = None;
        while self.at < self.end {
            let here = self.here.take().unwrap_or_else(|| Here::new(self.tables, self.at));
            if !self.extend(&mut run, &here) {
                // The next run begins in the same table.
                self.here = Some(here);
                break;
            }
        }
        let key = run?;
        let content = if key.word & VALID != 0 {
            let attributes = self.tables.config.encoding.decode(Descriptor::new(key.word));
            Content::Mapped { oa: start.wrapping_add(key.delta), attributes }
        } else {
            Marker::from_word(key.word).map_or(Content::Unmapped, Content::Marked)
        };
        Some(Run { range: start..self.at, content })
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Runs<'a, G, F, E> {
    /// Takes the entries from `self.at` on into the run, up to the next table or the end of this one. Returns
    /// whether the run may go on beyond. Afterwards `self.at` is the first address that it didn't take.
    #[inline]
    fn extend(&mut self, run: &mut Option<Key>, here: &Here<'a>) -> bool {
        let Here { table, level, base } = *here;
        let size = G::size(level);
        let mut index = ((self.at - base) >> G::shift(level)) as usize;
        let mut ipa = base + index as u64 * size;
        // The last entry's word, advanced to what the next one says if nothing changes.
        let mut expected = 0;
        while ipa < self.end
            && let Some(entry) = table.get(index)
        {
            let word = entry.load(Relaxed);
            if word == expected && word & (VALID | CONTIGUOUS) == VALID {
                (index, ipa, expected) = (index + 1, ipa + size, word.wrapping_add(size));
                continue;
            }
            if is_table(word, level) {
                break;
            }
            let (mut first, mut next, mut all) = (ipa, index + 1, word);
            if is_leaf(word, level) && word & CONTIGUOUS != 0 {
                let members = group_of::<G>(table, level, index, word);
                first = ipa - (index - members.start) as u64 * size;
                next = members.end;
                all = gathered(&table[members]);
            }
            let key = self.key(all, level, first);
            if *run.get_or_insert(key) != key {
                self.at = ipa;
                return false;
            }
            ipa += (next - index) as u64 * size;
            index = next;
            expected = word.wrapping_add(size);
        }
        self.at = ipa.min(self.end);
        true
    }
}
