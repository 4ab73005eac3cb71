//! Folding: pages or blocks into a contiguous group and back.

use core::fmt;
use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::clear::Harvest;
use crate::config::Config;
use crate::convert::Merge;
use crate::descriptor::{CONTIGUOUS, Descriptor, HARVEST, is_leaf, is_table};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, aligned, floor};
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Leaf, group_of, indices};

/// Why leaves are not joined. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The address is outside the input address space, or no walk passes the level there.
    Range(u64),
    /// The level has no groups, or none are to be used; or no blocks of this level.
    Level(Level),
    /// The group is larger than the input address space.
    TooLarge,
    /// They are joined already.
    Joined,
    /// This address isn't mapped.
    Absent(u64),
    /// This address is mapped by a deeper table.
    Table(u64),
    /// The output address of the first is not a multiple of the whole.
    Misaligned(u64),
    /// The output address of this one doesn't follow on that of the one before.
    Gap(u64),
    /// This one differs from the first in attributes or software bits.
    Differs(u64),
    /// This one differs from the first in dirty or young, and [`Merge::Uniform`] was asked for.
    Uneven(u64),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(ipa) => write!(f, "{ipa:#x} has no entry at this level"),
            Self::Level(level) => write!(f, "nothing can be joined at {level} in this configuration"),
            Self::TooLarge => f.write_str("the group is larger than the input address space"),
            Self::Joined => f.write_str("joined already"),
            Self::Absent(ipa) => write!(f, "{ipa:#x} is not mapped"),
            Self::Table(ipa) => write!(f, "{ipa:#x} is mapped by smaller leaves"),
            Self::Misaligned(oa) => write!(f, "output address {oa:#x} is not aligned to the whole"),
            Self::Gap(ipa) => write!(f, "the output address at {ipa:#x} does not follow on"),
            Self::Differs(ipa) => write!(f, "{ipa:#x} has other attributes"),
            Self::Uneven(ipa) => write!(f, "{ipa:#x} differs in dirty or young"),
        }
    }
}

impl core::error::Error for Refusal {}

/// Checks that `entries` of `level`, which begin at `base`, may become one translation: all leaves, outputs
/// that follow on each other from a multiple of the whole, and no difference but in `ignored` bits. Returns
/// the first one's word.
pub(crate) fn joinable<G: Granule>(
    config: &Config<G>,
    entries: &[Entry],
    level: Level,
    base: u64,
    merge: Merge,
) -> Result<u64, Refusal> {
    let size = G::size(level);
    let format = config.format;
    let mask = format.leaf_mask::<G>(level);
    let ignored = mask | CONTIGUOUS | merge.ignores();
    let first = entries[0].load(Relaxed);
    let start = format.leaf::<G>(first, level);
    for (index, entry) in entries.iter().enumerate() {
        let ipa = base + index as u64 * size;
        let word = entry.load(Relaxed);
        if is_table(word, level) {
            return Err(Refusal::Table(ipa));
        }
        if !is_leaf(word, level) {
            return Err(Refusal::Absent(ipa));
        }
        if index == 0 && !aligned(start, size * entries.len() as u64) {
            return Err(Refusal::Misaligned(start));
        }
        if format.leaf::<G>(word, level) != start + index as u64 * size {
            return Err(Refusal::Gap(ipa));
        }
        let difference = (word ^ first) & !ignored;
        if difference & !HARVEST != 0 {
            return Err(Refusal::Differs(ipa));
        }
        if difference != 0 {
            return Err(Refusal::Uneven(ipa));
        }
    }
    Ok(first)
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Sets the Contiguous bit on the group of `level` around `ipa`. What becomes of dirty and young states
    /// that differ says `merge`; `visit` sees every member as it was, the sum is returned.
    ///
    /// # Errors
    /// [`Refusal`]: they don't qualify.
    pub fn fold(
        &mut self,
        ipa: u64,
        level: Level,
        merge: Merge,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Refusal> {
        if !self.config.contiguous || G::group(level) == 1 || level < self.config.largest_leaf {
            return Err(Refusal::Level(level));
        }
        if G::group_size(level) > self.config.ipa_size() {
            return Err(Refusal::TooLarge);
        }
        let mut work = self.work();
        let (table, index, base) = work.table_at(ipa, level)?;
        let mut harvest = Harvest::default();
        let members = group_of::<G>(table, level, index, CONTIGUOUS);
        let first = base - (index - members.start) as u64 * G::size(level);
        let result = work.fold_group(&table[members], level, first, merge, &mut harvest, &mut visit);
        self.finish();
        result.map(|()| harvest)
    }

    /// Takes the Contiguous bit from every group that touches `range`. Every member of a group that was
    /// dirty or young is so afterwards.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn unfold(&mut self, range: Range<u64>) -> Result<(), Error> {
        self.check(&range)?;
        let mut work = self.work();
        work.unfold_table(work.root_table(), work.config.start, 0, &range);
        self.finish();
        Ok(())
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// The table of `level` on the way to `ipa`, the index in it, and the address of that entry.
    pub(crate) fn table_at(&self, ipa: u64, level: Level) -> Result<(&'a [Entry], usize, u64), Refusal> {
        if ipa >= self.config.ipa_size() || level < self.config.start {
            return Err(Refusal::Range(ipa));
        }
        let mut table = self.root_table();
        let mut at = self.config.start;
        loop {
            let index = (ipa >> G::shift(at)) as usize & (table.len() - 1);
            if at == level {
                return Ok((table, index, floor(ipa, G::size(at))));
            }
            let word = table[index].load(Relaxed);
            if !is_table(word, at) {
                return Err(if is_leaf(word, at) { Refusal::Range(ipa) } else { Refusal::Absent(ipa) });
            }
            table = self.child(word).0;
            at = at.next();
        }
    }

    /// Folds the members of one group, which begins at `base`.
    pub(crate) fn fold_group(
        &mut self,
        entries: &[Entry],
        level: Level,
        base: u64,
        merge: Merge,
        harvest: &mut Harvest,
        visit: &mut impl FnMut(Leaf),
    ) -> Result<(), Refusal> {
        let first = joinable(self.config, entries, level, base, merge)?;
        if first & CONTIGUOUS != 0 {
            return Err(Refusal::Joined);
        }
        let (size, format) = (G::size(level), self.config.format);
        let mut part = |index: usize, word: u64| {
            harvest.add(1, size, word);
            visit(Leaf {
                ipa: base + index as u64 * size,
                oa: format.leaf::<G>(word, level),
                bytes: size,
                level,
                descriptor: Descriptor::new(word),
            });
        };
        self.convert_group(entries, level, base, true, merge, &mut part);
        Ok(())
    }

    /// Recursion is as deep as the tables.
    fn unfold_table(&mut self, table: &'a [Entry], level: Level, base: u64, range: &Range<u64>) {
        let size = G::size(level);
        for index in indices::<G>(table, level, base, range) {
            let word = table[index].load(Relaxed);
            let ipa = base + index as u64 * size;
            if is_table(word, level) {
                self.unfold_table(self.child(word).0, level.next(), ipa, range);
            } else if is_leaf(word, level) && word & CONTIGUOUS != 0 {
                self.unfold_group(table, level, index, ipa);
            }
        }
    }
}
