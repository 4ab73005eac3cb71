//! A table in few bytes: the distinct forms of its entries, and for each entry which one it has.
//!
//! The *form* of an entry is the entry less what its place adds to it. Leaves that map one stretch differ in their
//! output address alone, which grows by a page from each to the next: less that, they are the same word. An invalid
//! entry (bit 0 clear) is its own form. Taking away and adding again leaves bit 0 alone, so an entry and its form
//! determine each other at every place: *whatever* stands in a table comes back bit by bit.
//!
//! | forms | bits an entry | a table of 512 | of 2048 | of 8192 |
//! |---|---|---|---|---|
//! | 1 | 0 | 8 bytes | 8 bytes | 8 bytes |
//! | 2 | 1 | 80 | 272 | 1040 |
//! | 3, 4 | 2 | 160 | 544 | 2080 |
//! | 5 to 16 | 4 | 384 | 1152 | 4224 |
//!
//! A table with more forms has no palette.

use alloc::boxed::Box;
use alloc::vec::Vec;

use crate::atomic::{Entry, Relaxed};
use crate::geometry::Granule;

/// The most forms that a palette holds.
const FORMS: usize = 16;

/// A packed table: the forms, then the entries' indices into them, the first in the lowest bits.
#[derive(Debug)]
pub(crate) struct Palette(Box<[u64]>);

/// What the place of an entry adds to it, if it is valid: of pages, the output address.
#[inline(always)]
const fn step<G: Granule>(word: u64, index: usize) -> u64 {
    ((index as u64) << G::SHIFT) & (word & 1).wrapping_neg()
}

#[inline(always)]
fn form<G: Granule>(entry: &Entry, index: usize) -> u64 {
    let word = entry.load(Relaxed);
    word.wrapping_sub(step::<G>(word, index))
}

#[inline(always)]
fn entry<G: Granule>(form: u64, index: usize) -> Entry {
    Entry::new(form.wrapping_add(step::<G>(form, index)))
}

/// Bits of an index into so many forms. They divide 64, so that no index lies in two words.
const fn width(forms: usize) -> usize {
    match forms {
        0..=1 => 0,
        2 => 1,
        3..=4 => 2,
        _ => 4,
    }
}

/// Words that the indices of a table take.
const fn indices<G: Granule>(width: usize) -> usize {
    G::ENTRIES * width / 64
}

/// Indices of `WIDTH` bits, as many in a word as it has room for.
fn gather<const WIDTH: usize>(indices: &[u8]) -> impl Iterator<Item = u64> + '_ {
    indices.chunks_exact(64 / WIDTH).map(|chunk| {
        let bits = chunk.iter().enumerate().map(|(offset, &index)| u64::from(index) << (offset * WIDTH));
        bits.fold(0, |word, bits| word | bits)
    })
}

/// The forms found so far.
struct Known {
    forms: [u64; FORMS],
    count: usize,
    /// By a hash of the form: where it probably stands. Forms come in any order, which no processor foresees; a search
    /// for each would cost more than all the rest.
    hint: [u8; 256],
}

impl Known {
    /// Where a form stands, if there was room for it.
    #[inline]
    fn index(&mut self, form: u64) -> Option<u8> {
        let hash = (form.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        let hint = self.hint[hash];
        let at = usize::from(hint);
        if self.forms[at % FORMS] == form && at < self.count {
            return Some(hint);
        }
        let known = &self.forms[..self.count];
        let at = match known.iter().position(|&other| other == form) {
            Some(at) => at,
            None if self.count == FORMS => return None,
            None => {
                self.forms[self.count] = form;
                self.count += 1;
                self.count - 1
            }
        };
        self.hint[hash] = at as u8;
        Some(at as u8)
    }
}

impl Palette {
    /// Packs the entries of a whole table, if they have few enough forms.
    pub(crate) fn of<G: Granule>(entries: &[Entry]) -> Option<Self> {
        let mut known = Known { forms: [0; FORMS], count: 0, hint: [0; 256] };
        let mut each = Vec::with_capacity(G::ENTRIES);
        for (index, entry) in entries.iter().enumerate() {
            each.push(known.index(form::<G>(entry, index))?);
        }
        let width = width(known.count);
        let mut words = Vec::with_capacity(known.count + indices::<G>(width));
        words.extend_from_slice(&known.forms[..known.count]);
        match width {
            0 => {}
            1 => words.extend(gather::<1>(&each)),
            2 => words.extend(gather::<2>(&each)),
            _ => words.extend(gather::<4>(&each)),
        }
        Some(Self(words.into()))
    }

    /// The table, in a piece of memory of its own.
    pub(crate) fn table<G: Granule>(&self) -> Box<[Entry]> {
        match self.width::<G>() {
            0 => (0..G::ENTRIES).map(|index| entry::<G>(self.0[0], index)).collect(),
            1 => self.spread::<G, 1>(),
            2 => self.spread::<G, 2>(),
            _ => self.spread::<G, 4>(),
        }
    }

    fn spread<G: Granule, const WIDTH: usize>(&self) -> Box<[Entry]> {
        let (known, indices) = self.0.split_at(self.0.len() - indices::<G>(WIDTH));
        let mut forms = [0; FORMS];
        forms[..known.len()].copy_from_slice(known);
        let mut table = Vec::with_capacity(G::ENTRIES);
        for (chunk, word) in indices.iter().enumerate() {
            table.extend((0..64 / WIDTH).map(|offset| {
                let at = word >> (offset * WIDTH) & ((1 << WIDTH) - 1);
                entry::<G>(forms[at as usize], chunk * (64 / WIDTH) + offset)
            }));
        }
        table.into()
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.0)
    }

    /// The bits of an index, which the length tells: with a bit more for each entry come more words than there can be
    /// forms with a bit less.
    const fn width<G: Granule>(&self) -> usize {
        let len = self.0.len();
        if len == 1 {
            0
        } else if len <= indices::<G>(1) + 2 {
            1
        } else if len <= indices::<G>(2) + 4 {
            2
        } else {
            4
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{G4K, G16K, G64K};

    fn table<G: Granule>(word: impl FnMut(usize) -> u64) -> Vec<Entry> {
        (0..G::ENTRIES).map(word).map(Entry::new).collect()
    }

    /// Bytes of the palette, if there is one, and it says what the table says.
    fn packed<G: Granule>(entries: &[Entry]) -> Option<usize> {
        let palette = Palette::of::<G>(entries)?;
        let words = |table: &[Entry]| -> Vec<_> { table.iter().map(|entry| entry.load(Relaxed)).collect() };
        assert_eq!(words(&palette.table::<G>()), words(entries), "a packed table says something else");
        Some(palette.bytes())
    }

    /// So many forms, in turn: leaves, markers and what is neither.
    fn forms<G: Granule>(forms: usize) -> Vec<Entry> {
        table::<G>(|index| match index % forms {
            0 => 0b10,
            1 => 0xffff_ffff_ffff_0003u64.wrapping_add((index as u64) << G::SHIFT),
            form => ((index as u64) << G::SHIFT) + ((form as u64) << 56 | 0x4_0000_0783),
        })
    }

    fn limits<G: Granule>() {
        let sizes = [(1, 0), (2, 1), (3, 2), (4, 2), (5, 4), (15, 4), (16, 4)];
        for (count, bits) in sizes {
            let bytes = 8 * count + G::ENTRIES * bits / 8;
            assert_eq!(packed::<G>(&forms::<G>(count)), Some(bytes), "{count} forms");
        }
        assert_eq!(packed::<G>(&forms::<G>(17)), None);
    }

    #[test]
    fn a_table_takes_bits_for_its_forms_and_seventeen_are_too_many() {
        limits::<G4K>();
        limits::<G16K>();
        limits::<G64K>();
    }

    #[test]
    fn forms_that_come_last_are_kept() {
        for last in [0, 1, 0x7ff, u64::MAX] {
            let entries = table::<G4K>(|index| if index == 511 { last } else { 0b100 });
            assert_eq!(packed::<G4K>(&entries), Some(80));
        }
    }

    proptest! {
        /// Any words at all, so many of them different.
        #[test]
        fn whatever_stands_in_a_table_comes_back(
            palette in prop::collection::vec(any::<u64>(), 1..20),
            picks in prop::collection::vec(any::<prop::sample::Index>(), 512),
            linear: bool,
        ) {
            let word = |index: usize| palette[picks[index].index(palette.len())];
            let entries = table::<G4K>(|index| {
                word(index).wrapping_add(if linear { step::<G4K>(word(index), index) } else { 0 })
            });
            let bytes = packed::<G4K>(&entries);
            let distinct: alloc::collections::BTreeSet<_> =
                entries.iter().enumerate().map(|(index, entry)| form::<G4K>(entry, index)).collect();
            prop_assert_eq!(bytes.is_some(), distinct.len() <= FORMS);
        }
    }
}
