//! Walking: from an address to its entry, and over all leaves of a range.
//!
//! One walker serves every operation that changes leaves in place or only reads them. It hands its callback
//! the *entries* of a leaf: one for a block or page, all members for a contiguous group. So a callback cannot
//! treat the members of a group differently by accident, and a range that touches a group reaches all of it.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::attributes::Attributes;
use crate::config::Config;
use crate::descriptor::{CONTIGUOUS, Descriptor, HARVEST, is_leaf, is_table};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, floor};
use crate::marker::Marker;
use crate::tables::Tables;
use crate::tlbi::Executor;

/// A leaf: a page, a block, or a whole contiguous group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// First address.
    pub ipa: u64,
    /// Where it leads.
    pub oa: u64,
    /// Bytes that it maps: for a group, all its members together.
    pub bytes: u64,
    /// Its level.
    pub level: Level,
    /// Its descriptor. For a group the first member's, with the AF and dirty bits of all members ORed in:
    /// hardware that has cached a group as one entry marks any one member for all of them.
    pub descriptor: Descriptor,
}

impl Leaf {
    /// The addresses that it maps.
    #[inline]
    pub const fn range(&self) -> Range<u64> {
        self.ipa..self.ipa + self.bytes
    }

    /// Written since dirty was last collected.
    #[inline]
    pub const fn dirty(&self) -> bool {
        self.descriptor.dirty()
    }

    /// Accessed since the last ageing.
    #[inline]
    pub const fn young(&self) -> bool {
        self.descriptor.young()
    }

    /// Whether it is a contiguous group.
    #[inline]
    pub const fn is_group(&self) -> bool {
        self.descriptor.contiguous()
    }

    /// Its attributes.
    pub fn attributes<G: Granule>(&self, config: &Config<G>) -> Attributes {
        config.encoding.decode(self.descriptor)
    }
}

/// What stands at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    /// A valid leaf.
    Leaf(Leaf),
    /// Nothing valid: a marker or nothing at all, over the whole of one entry.
    Invalid {
        /// First address of the entry.
        ipa: u64,
        /// Bytes of the entry.
        bytes: u64,
        /// What software knows.
        marker: Option<Marker>,
    },
}

/// The entries of one leaf, as the walker hands them out.
pub(crate) struct Slot<'a> {
    /// One entry, or all members of a group.
    pub(crate) entries: &'a [Entry],
    /// The first entry, as it was when the walker looked.
    pub(crate) word: u64,
    /// Address of the first entry.
    pub(crate) ipa: u64,
    /// The level of the entries.
    pub(crate) level: Level,
    /// Bytes per entry.
    pub(crate) size: u64,
}

impl Slot<'_> {
    #[inline]
    pub(crate) fn bytes(&self) -> u64 {
        self.size * self.entries.len() as u64
    }

    #[inline]
    pub(crate) fn range(&self) -> Range<u64> {
        self.ipa..self.ipa + self.bytes()
    }

    /// The first descriptor with the harvest bits of all members.
    #[inline]
    pub(crate) fn gathered(&self) -> u64 {
        gathered(self.entries)
    }

    /// The leaf, given what was gathered of it.
    #[inline]
    pub(crate) fn leaf<G: Granule>(&self, config: &Config<G>, word: u64) -> Leaf {
        Leaf {
            ipa: self.ipa,
            oa: config.format.leaf::<G>(word, self.level),
            bytes: self.bytes(),
            level: self.level,
            descriptor: Descriptor::new(word),
        }
    }
}

/// The first descriptor, with AF and dirty of all: "changed?" is never decided on this, only reported.
#[inline]
pub(crate) fn gathered(entries: &[Entry]) -> u64 {
    let mut words = entries.iter().map(|entry| entry.load(Relaxed));
    let first = words.next().unwrap_or(0);
    words.fold(first, |all, word| all | word & HARVEST)
}

/// What a walk needs of the tables, borrowed apart from the rest of them.
pub(crate) struct Walker<'a, G: Granule, F: Frames> {
    pub(crate) config: &'a Config<G>,
    pub(crate) frames: &'a F,
    pub(crate) root: u64,
}

impl<'a, G: Granule, F: Frames> Walker<'a, G, F> {
    /// The start level's entries.
    #[inline]
    pub(crate) fn root_table(&self) -> &'a [Entry] {
        self.frames.table(self.root, self.config.root_entries())
    }

    /// The table entry at which a walk for `ipa` ends: the first on the way that isn't a table. `ipa` lies in
    /// the input address space.
    #[inline]
    pub(crate) fn descend(&self, ipa: u64) -> (&'a [Entry], Level, usize) {
        let mut table = self.root_table();
        let mut level = self.config.start;
        loop {
            let index = (ipa >> G::shift(level)) as usize & (table.len() - 1);
            let word = table[index].load(Relaxed);
            if !is_table(word, level) {
                return (table, level, index);
            }
            table = self.frames.table(self.config.format.table(word), G::ENTRIES);
            level = level.next();
        }
    }

    /// Hands the entries of every leaf that touches `range` to `visit`.
    #[inline]
    pub(crate) fn walk(&self, range: &Range<u64>, mut visit: impl FnMut(Slot<'_>)) {
        let (config, frames) = (self.config, self.frames);
        walk_table(config, frames, self.root_table(), config.start, 0, range, &mut visit);
    }
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// What stands at `ipa`.
    ///
    /// # Errors
    /// [`Error::Range`] outside the input address space.
    pub fn lookup(&self, ipa: u64) -> Result<Lookup, Error> {
        if ipa >= self.config.ipa_size() {
            let ipa_size = self.config.ipa_size();
            return Err(Error::Range { start: ipa, end: ipa.saturating_add(1), ipa_size });
        }
        let (table, level, index) = self.walker().descend(ipa);
        let size = G::size(level);
        let word = table[index].load(Relaxed);
        if !is_leaf(word, level) {
            let marker = Marker::from_word(word);
            return Ok(Lookup::Invalid { ipa: floor(ipa, size), bytes: size, marker });
        }
        let members = group_of::<G>(table, level, index, word);
        let slot = Slot {
            entries: &table[members.clone()],
            word: table[members.start].load(Relaxed),
            ipa: floor(ipa, size) - (index - members.start) as u64 * size,
            level,
            size,
        };
        Ok(Lookup::Leaf(slot.leaf(&self.config, slot.gathered())))
    }

    /// The output address of `ipa`, where it is mapped.
    pub fn translate(&self, ipa: u64) -> Option<u64> {
        match self.lookup(ipa) {
            Ok(Lookup::Leaf(leaf)) => Some(leaf.oa + (ipa - leaf.ipa)),
            _ => None,
        }
    }

    /// Every leaf that touches `range`, in order, whole even where it reaches beyond the range.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn leaves(&self, range: Range<u64>, mut visit: impl FnMut(Leaf)) -> Result<(), Error> {
        self.check(&range)?;
        self.walker().walk(&range, |slot| visit(slot.leaf(&self.config, slot.gathered())));
        Ok(())
    }
}

/// The members of the leaf at `index`: the whole group where the Contiguous bit is set, itself otherwise.
#[inline]
pub(crate) fn group_of<G: Granule>(table: &[Entry], level: Level, index: usize, word: u64) -> Range<usize> {
    if word & CONTIGUOUS == 0 {
        return index..index + 1;
    }
    let members = G::group(level);
    let first = index & !(members - 1);
    first..(first + members).min(table.len())
}

/// The entries of the table at `base` that touch `range`.
#[inline]
pub(crate) fn indices<G: Granule>(
    table: &[Entry],
    level: Level,
    base: u64,
    range: &Range<u64>,
) -> Range<usize> {
    let shift = G::shift(level);
    let first = range.start.saturating_sub(base) >> shift;
    let last = (range.end.saturating_sub(base) + (1 << shift) - 1) >> shift;
    first as usize..(last as usize).min(table.len())
}

/// Recursion is as deep as the tables: at most five levels.
pub(crate) fn walk_table<G: Granule, F: Frames, V: FnMut(Slot<'_>)>(
    config: &Config<G>,
    frames: &F,
    table: &[Entry],
    level: Level,
    base: u64,
    range: &Range<u64>,
    visit: &mut V,
) {
    let size = G::size(level);
    let Range { start: mut index, end } = indices::<G>(table, level, base, range);
    while index < end {
        let word = table[index].load(Relaxed);
        if is_leaf(word, level) {
            let members = group_of::<G>(table, level, index, word);
            // A range may begin inside a group; the group's output address is its first member's.
            let word = if members.start == index { word } else { table[members.start].load(Relaxed) };
            let ipa = base + members.start as u64 * size;
            index = members.end;
            visit(Slot { entries: &table[members], word, ipa, level, size });
            continue;
        }
        if is_table(word, level) {
            let child = frames.table(config.format.table(word), G::ENTRIES);
            let base = base + index as u64 * size;
            walk_table(config, frames, child, level.next(), base, range, visit);
        }
        index += 1;
    }
}
