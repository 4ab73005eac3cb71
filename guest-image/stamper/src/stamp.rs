//! What a stamped page holds, and what is wrong with one that holds something else.
//!
//! A page is 512 little-endian words of 8 bytes. The first four are its address, its generation,
//! the pattern's name and a checksum of these three; every other word that the pattern covers is
//! the checksum plus its index times a constant, so that each word is good for one page, one
//! generation and one place in the page only.

use core::fmt;

pub use board::ram::PAGE_SIZE;
use thiserror::Error;

/// Words of a page.
pub const WORDS: usize = 512;
/// Words of a cache line.
const LINE: usize = 8;
/// Words of the header: address, generation, pattern, checksum.
const HEADER: usize = 4;

/// One page of memory.
pub type Page = [u64; WORDS];

/// How much of a page is written and checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pattern {
    /// The first and the last cache line, and the first word of each line between: whoever loses a
    /// line is seen, at a fraction of the stores.
    #[default]
    Lines,
    /// Every word.
    Full,
}

impl Pattern {
    /// Its name in the header, also the magic number of a stamped page.
    const fn magic(self) -> u64 {
        u64::from_le_bytes(match self {
            Self::Lines => *b"STAMPED1",
            Self::Full => *b"STAMPEDF",
        })
    }

    fn from_magic(word: u64) -> Option<Self> {
        [Self::Lines, Self::Full].into_iter().find(|pattern| pattern.magic() == word)
    }

    /// Calls `visit` for the index of each word behind the header that the pattern covers, until
    /// it returns false.
    #[inline(always)]
    fn each(self, mut visit: impl FnMut(usize) -> bool) {
        match self {
            Self::Lines => {
                let _all = (HEADER..LINE).all(&mut visit)
                    && (LINE..WORDS - LINE).step_by(LINE).all(&mut visit)
                    && (WORDS - LINE..WORDS).all(&mut visit);
            }
            Self::Full => {
                let _all = (HEADER..WORDS).all(visit);
            }
        }
    }
}

/// What one page is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Guest physical address of the page.
    pub address: u64,
    /// Number of the pass that wrote it, from 1.
    pub generation: u64,
    /// How much of it was written.
    pub pattern: Pattern,
}

/// What is wrong with a page. Displayed as the fields of a `bad` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Damage {
    /// It reads as zero: lost.
    #[error("kind=zero")]
    Zero,
    /// It is whole, but of another generation.
    #[error("kind=stale generation={generation}")]
    Stale {
        /// The generation that it has.
        generation: u64,
    },
    /// It is a whole header of another page.
    #[error("kind=moved from={from:#x} generation={generation}")]
    Moved {
        /// The address that it has.
        from: u64,
        /// The generation that it has.
        generation: u64,
    },
    /// It was stamped with another pattern.
    #[error("kind=pattern")]
    Pattern,
    /// Its header is right, a word behind it is not.
    #[error("kind=torn offset={offset:#x} found={found:#x} expected={expected:#x}")]
    Torn {
        /// Byte offset of the first wrong word.
        offset: usize,
        /// What is there.
        found: u64,
        /// What should be there.
        expected: u64,
    },
    /// It should hold the same word everywhere, such as zero.
    #[error("kind=filled offset={offset:#x} found={found:#x} expected={expected:#x}")]
    Filled {
        /// Byte offset of the first wrong word.
        offset: usize,
        /// What is there.
        found: u64,
        /// What should be there.
        expected: u64,
    },
    /// Its header is none.
    #[error("kind=garbage word0={word0:#x} word1={word1:#x}")]
    Garbage {
        /// The first word.
        word0: u64,
        /// The second word.
        word1: u64,
    },
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address={:#x}", self.address)
    }
}

impl Stamp {
    /// Writes the stamp into its page.
    pub fn write(&self, page: &mut Page) {
        let checksum = self.checksum();
        page[0] = self.address;
        page[1] = self.generation;
        page[2] = self.pattern.magic();
        page[3] = checksum;
        self.pattern.each(|index| {
            page[index] = word(checksum, index);
            true
        });
    }

    /// Checks the page against the stamp.
    pub fn check(&self, page: &Page) -> Result<(), Damage> {
        let checksum = self.checksum();
        if page[..HEADER] != [self.address, self.generation, self.pattern.magic(), checksum] {
            return Err(self.diagnose(page));
        }
        let mut result = Ok(());
        self.pattern.each(|index| {
            let (found, expected) = (page[index], word(checksum, index));
            if found != expected {
                result = Err(Damage::Torn { offset: index * 8, found, expected });
            }
            found == expected
        });
        result
    }

    /// What is wrong with a page whose header is not the stamp's.
    #[cold]
    fn diagnose(&self, page: &Page) -> Damage {
        if page.iter().all(|&word| word == 0) {
            return Damage::Zero;
        }
        let garbage = Damage::Garbage { word0: page[0], word1: page[1] };
        let Some(pattern) = Pattern::from_magic(page[2]) else {
            return garbage;
        };
        let found = Self { address: page[0], generation: page[1], pattern };
        if page[3] != found.checksum() {
            garbage
        } else if found.address != self.address {
            Damage::Moved { from: found.address, generation: found.generation }
        } else if found.generation != self.generation {
            Damage::Stale { generation: found.generation }
        } else {
            Damage::Pattern
        }
    }

    /// Checksum of the header's first three words.
    fn checksum(&self) -> u64 {
        mix(mix(mix(self.address).wrapping_add(self.generation)).wrapping_add(self.pattern.magic()))
    }
}

/// What a covered word of a page with this checksum holds.
fn word(checksum: u64, index: usize) -> u64 {
    // 2^64 / the golden ratio, odd: all multiples differ.
    checksum.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The finaliser of splitmix64: a bijection in which each bit of the input flips half of the output.
fn mix(mut x: u64) -> u64 {
    x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { address: 0x4020_0000, generation: 7, pattern: Pattern::Lines };

    fn page(stamp: Stamp) -> Page {
        let mut page = [0; WORDS];
        stamp.write(&mut page);
        page
    }

    fn full() -> Stamp {
        Stamp { pattern: Pattern::Full, ..STAMP }
    }

    #[test]
    fn what_was_written_is_good() {
        assert_eq!(STAMP.check(&page(STAMP)), Ok(()));
        assert_eq!(full().check(&page(full())), Ok(()));
    }

    #[test]
    fn header_holds_address_and_generation() {
        let page = page(STAMP);
        assert_eq!(page[..2], [0x4020_0000, 7]);
        assert_eq!(&page[2].to_le_bytes(), b"STAMPED1");
    }

    #[test]
    fn lines_touches_every_cache_line_and_full_every_word() {
        let covered = |stamp| page(stamp).iter().filter(|&&word| word != 0).count();
        assert_eq!(covered(full()), WORDS);
        assert_eq!(covered(STAMP), 8 + 62 + 8);
        assert!(page(STAMP).chunks(LINE).all(|line| line[0] != 0));
    }

    #[test]
    fn a_lost_page_is_zero() {
        assert_eq!(STAMP.check(&[0; WORDS]), Err(Damage::Zero));
    }

    #[test]
    fn an_older_generation_is_stale() {
        let old = page(Stamp { generation: 6, ..STAMP });
        assert_eq!(STAMP.check(&old), Err(Damage::Stale { generation: 6 }));
    }

    #[test]
    fn a_page_of_another_address_has_moved() {
        let other = page(Stamp { address: 0x4020_1000, ..STAMP });
        assert_eq!(STAMP.check(&other), Err(Damage::Moved { from: 0x4020_1000, generation: 7 }));
    }

    #[test]
    fn another_pattern_is_seen() {
        assert_eq!(full().check(&page(STAMP)), Err(Damage::Pattern));
    }

    #[test]
    fn any_lost_cache_line_is_seen() {
        for stamp in [STAMP, full()] {
            for line in 0..WORDS / LINE {
                let mut page = page(stamp);
                page[line * LINE..][..LINE].fill(0);
                assert!(stamp.check(&page).is_err(), "{stamp:?}, line {line}");
            }
        }
    }

    #[test]
    fn any_flipped_bit_of_a_full_page_is_seen() {
        for bit in 0..WORDS * 64 {
            let mut page = page(full());
            page[bit / 64] ^= 1 << (bit % 64);
            assert!(full().check(&page).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_first_torn_word_is_named() {
        let old = page(Stamp { generation: 6, ..full() });
        let mut page = page(full());
        page[256..].copy_from_slice(&old[256..]);
        let expected = word(full().checksum(), 256);
        assert_eq!(full().check(&page), Err(Damage::Torn { offset: 0x800, found: old[256], expected }));
    }

    #[test]
    fn anything_else_is_garbage() {
        let mut page = page(STAMP);
        page[1] = 8;
        assert_eq!(STAMP.check(&page), Err(Damage::Garbage { word0: 0x4020_0000, word1: 8 }));
        assert_eq!(STAMP.check(&[1; WORDS]), Err(Damage::Garbage { word0: 1, word1: 1 }));
    }

    #[test]
    fn damage_reads_as_fields() {
        let moved = Damage::Moved { from: 0x1000, generation: 3 };
        assert_eq!(format!("{STAMP} {moved}"), "address=0x40200000 kind=moved from=0x1000 generation=3");
    }
}
