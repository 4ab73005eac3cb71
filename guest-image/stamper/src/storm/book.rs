//! What each page holds, as far as its owner knows, and which pages the balloon has.

use board::ram::{PAGE_SIZE, Ram};
use core::ops::Range;

use crate::stamp::{Damage, Page, Pattern, Stamp};

/// What a page holds when it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// The stamp of this generation, from 1.
    Stamped(u32),
    /// Zeros.
    Blank,
}

impl Content {
    /// Checks a page that must hold this.
    pub fn check(self, address: u64, pattern: Pattern, page: &Page) -> Result<(), Damage> {
        match self {
            Self::Stamped(generation) => {
                Stamp { address, generation: generation.into(), pattern }.check(page)
            }
            Self::Blank => filled(page, 0),
        }
    }

    /// What a page holds that may have been cleared since it held this: it is whole, or it is zero. Anything
    /// else is damage.
    pub fn or_cleared(self, address: u64, pattern: Pattern, page: &Page) -> Result<Self, Damage> {
        if filled(page, 0).is_ok() {
            return Ok(Self::Blank);
        }
        self.check(address, pattern, page).map(|()| self)
    }
}

/// Checks a page that must hold nothing but `word`.
pub fn filled(page: &Page, word: u64) -> Result<(), Damage> {
    // Without a branch for each word: most pages are what they should be.
    if page.iter().fold(0, |differ, &found| differ | (found ^ word)) == 0 {
        return Ok(());
    }
    let index = page.iter().position(|&found| found != word).unwrap_or(0);
    Err(Damage::Filled { offset: index * 8, found: page[index], expected: word })
}

/// One page of the [`Book`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Not ours: the image, stacks, tables, or no memory at all.
    Foreign,
    /// The guest's.
    Owned(Content),
    /// In the balloon. It held this, and may have been cleared.
    Held(Content),
}

/// An [`Entry`] in 4 bytes: its kind above its generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Packed(u32);

/// Bits of a generation: as many batches of stamps as there can be in one storm.
const BITS: u32 = 29;
/// The largest generation.
pub const LAST_GENERATION: u32 = (1 << BITS) - 1;

impl Packed {
    const fn pack(entry: Entry) -> Self {
        match entry {
            Entry::Foreign => Self(0),
            Entry::Owned(Content::Blank) => Self(1 << BITS),
            Entry::Owned(Content::Stamped(generation)) => Self(2 << BITS | generation),
            Entry::Held(Content::Blank) => Self(3 << BITS),
            Entry::Held(Content::Stamped(generation)) => Self(4 << BITS | generation),
        }
    }

    const fn unpack(self) -> Entry {
        let generation = self.0 & LAST_GENERATION;
        match self.0 >> BITS {
            1 => Entry::Owned(Content::Blank),
            2 => Entry::Owned(Content::Stamped(generation)),
            3 => Entry::Held(Content::Blank),
            4 => Entry::Held(Content::Stamped(generation)),
            _ => Entry::Foreign,
        }
    }
}

/// Every page between the first and the last that is ours, by index.
#[derive(Debug)]
pub struct Book<'a> {
    base: u64,
    pages: &'a mut [Packed],
    owned: u64,
    held: u64,
}

impl<'a> Book<'a> {
    /// How many entries a book of this memory needs.
    pub fn len_for(ram: &Ram) -> u64 {
        match ram.spans() {
            [first, .., last] => (last.end - first.start) / PAGE_SIZE,
            [only] => only.size() / PAGE_SIZE,
            [] => 0,
        }
    }

    /// A book of this memory, all of it owned and blank, in as many `pages` as [`len_for`](Self::len_for) says.
    pub fn new(ram: &Ram, pages: &'a mut [Packed]) -> Self {
        let base = ram.spans().first().map_or(0, |span| span.start);
        pages.fill(Packed::pack(Entry::Foreign));
        for span in ram.spans() {
            let range = ((span.start - base) / PAGE_SIZE) as usize..((span.end - base) / PAGE_SIZE) as usize;
            pages[range].fill(Packed::pack(Entry::Owned(Content::Blank)));
        }
        Self { base, pages, owned: ram.pages(), held: 0 }
    }

    /// Pages in it, foreign ones too.
    pub fn len(&self) -> u64 {
        self.pages.len() as u64
    }

    /// Whether it has no page.
    pub fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Pages that are the guest's.
    pub const fn owned(&self) -> u64 {
        self.owned
    }

    /// Pages that the balloon has.
    pub const fn held(&self) -> u64 {
        self.held
    }

    /// Index of the first page at or above `address`, which may be past the last.
    pub const fn first_at(&self, address: u64) -> u64 {
        address.saturating_sub(self.base).div_ceil(PAGE_SIZE)
    }

    /// Address of a page.
    pub const fn address(&self, index: u64) -> u64 {
        self.base + index * PAGE_SIZE
    }

    /// What is known about a page; foreign past the last.
    pub fn get(&self, index: u64) -> Entry {
        self.pages.get(index as usize).map_or(Entry::Foreign, |packed| packed.unpack())
    }

    /// Notes what is known about a page, which is not foreign.
    pub fn set(&mut self, index: u64, entry: Entry) {
        let Some(packed) = self.pages.get_mut(index as usize) else { return };
        match packed.unpack() {
            Entry::Foreign => return,
            Entry::Owned(_) => self.owned -= 1,
            Entry::Held(_) => self.held -= 1,
        }
        match entry {
            Entry::Foreign => {}
            Entry::Owned(_) => self.owned += 1,
            Entry::Held(_) => self.held += 1,
        }
        *packed = Packed::pack(entry);
    }

    /// The first page at or behind `from`, going round at the end, that is `wanted`.
    pub fn find(&self, from: u64, wanted: impl Fn(Entry) -> bool) -> Option<u64> {
        let from = from.min(self.len());
        (from..self.len()).chain(0..from).find(|&index| wanted(self.get(index)))
    }

    /// A range of indices, cut off at the last page.
    pub fn clip(&self, range: Range<u64>) -> Range<u64> {
        range.start.min(self.len())..range.end.min(self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::WORDS;
    use board::ram::Span;

    const GENERATION: u32 = 7;
    const ADDRESS: u64 = 0x4020_0000;

    fn stamped(generation: u32) -> Page {
        let mut page = [0; WORDS];
        let generation = generation.into();
        Stamp { address: ADDRESS, generation, pattern: Pattern::Full }.write(&mut page);
        page
    }

    fn or_cleared(content: Content, page: &Page) -> Result<Content, Damage> {
        content.or_cleared(ADDRESS, Pattern::Full, page)
    }

    #[test]
    fn a_released_page_is_whole_or_zero() {
        let held = Content::Stamped(GENERATION);
        assert_eq!(or_cleared(held, &stamped(GENERATION)), Ok(held));
        assert_eq!(or_cleared(held, &[0; WORDS]), Ok(Content::Blank));
        assert_eq!(or_cleared(Content::Blank, &[0; WORDS]), Ok(Content::Blank));
    }

    #[test]
    fn older_bytes_after_a_release_are_damage() {
        let stale = or_cleared(Content::Stamped(GENERATION), &stamped(GENERATION - 1));
        assert_eq!(stale, Err(Damage::Stale { generation: u64::from(GENERATION) - 1 }));
        let old = stamped(GENERATION);
        let found = old[0];
        assert_eq!(or_cleared(Content::Blank, &old), Err(Damage::Filled { offset: 0, found, expected: 0 }));
    }

    #[test]
    fn half_a_release_is_damage() {
        let mut page = stamped(GENERATION);
        page[WORDS / 2..].fill(0);
        assert!(or_cleared(Content::Stamped(GENERATION), &page).is_err());
        page.fill(0);
        page[WORDS - 1] = 1;
        let expected = Damage::Filled { offset: (WORDS - 1) * 8, found: 1, expected: 0 };
        assert_eq!(or_cleared(Content::Blank, &page), Err(expected));
    }

    #[test]
    fn every_entry_survives_packing() {
        for content in [Content::Blank, Content::Stamped(1), Content::Stamped(LAST_GENERATION)] {
            for entry in [Entry::Foreign, Entry::Owned(content), Entry::Held(content)] {
                assert_eq!(Packed::pack(entry).unpack(), entry);
            }
        }
    }

    #[test]
    fn the_book_counts_who_has_what() {
        let mut ram = Ram::default();
        ram.add(Span::new(0x1000, 0x3000)).unwrap();
        ram.add(Span::new(0x6000, 0x2000)).unwrap();
        let mut pages = vec![Packed::default(); Book::len_for(&ram) as usize];
        let mut book = Book::new(&ram, &mut pages);
        assert_eq!((book.len(), book.owned(), book.held()), (7, 5, 0));
        assert_eq!((book.get(3), book.get(5)), (Entry::Foreign, Entry::Owned(Content::Blank)));
        assert_eq!((book.address(5), book.first_at(0x5001), book.first_at(0)), (0x6000, 5, 0));
        let held = |entry| matches!(entry, Entry::Held(_));
        assert_eq!(book.find(0, held), None);
        for index in 0..7 {
            book.set(index, Entry::Held(Content::Blank));
        }
        assert_eq!((book.owned(), book.held()), (0, 5));
        assert_eq!(book.find(4, |entry| entry == Entry::Foreign), Some(4));
        book.set(1, Entry::Owned(Content::Stamped(9)));
        assert_eq!((book.owned(), book.held()), (1, 4));
        assert_eq!(book.find(2, |entry| matches!(entry, Entry::Owned(_))), Some(1));
        assert_eq!((book.get(99), book.clip(5..99)), (Entry::Foreign, 5..7));
    }
}
