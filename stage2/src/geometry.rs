//! Sizes: granules, levels, blocks, contiguous groups, and the shape of the start level.
//!
//! Source: DDI 0487, D8.2 (translation process, concatenated tables) and D8.6 (Contiguous bit).

use core::fmt;

mod sealed {
    pub trait Sealed {}
}

/// A lookup level, -1 to 3. Level 3 holds pages; the smaller the number, the larger an entry.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Level(i8);

impl Level {
    /// Level -1: only with the 4K granule and 52-bit input addresses.
    pub const MINUS_1: Self = Self(-1);
    /// Level 0.
    pub const L0: Self = Self(0);
    /// Level 1.
    pub const L1: Self = Self(1);
    /// Level 2.
    pub const L2: Self = Self(2);
    /// Level 3, the level of pages.
    pub const L3: Self = Self(3);

    /// The level with this number, if there is one.
    pub const fn new(number: i32) -> Option<Self> {
        match number {
            -1..=3 => Some(Self(number as i8)),
            _ => None,
        }
    }

    /// Its number, -1 to 3.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }

    /// Whether entries of this level are pages.
    pub const fn is_last(self) -> bool {
        self.0 == 3
    }

    /// The next level of the walk; level 3 is its own, so that no arithmetic on levels can leave the table.
    pub const fn next(self) -> Self {
        if self.0 < 3 { Self(self.0 + 1) } else { self }
    }
}

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "L{}", self.0)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A translation granule: the size of a page and of a table.
pub trait Granule: sealed::Sealed + Copy + Eq + fmt::Debug + Send + Sync + 'static {
    /// log2 of the granule in bytes.
    const SHIFT: u32;
    /// The granule in bytes.
    const SIZE: u64 = 1 << Self::SHIFT;
    /// Address bits that one level resolves.
    const STRIDE: u32 = Self::SHIFT - 3;
    /// Descriptors in one table.
    const ENTRIES: usize = 1 << Self::STRIDE;
    /// `VTCR_EL2.TG0`.
    const TG0: u64;
    /// The TG field of a TLBI operand (its encoding differs from [`TG0`](Self::TG0); zero says nothing
    /// there, and in a range operand invalidates nothing).
    const TLBI_TG: u64;
    /// log2 of the members of a contiguous group at levels 0 to 3; 0 where the level has none.
    const GROUPS: [u32; 4];

    /// log2 of what one entry of `level` maps. (The 64K granule has no level -1: the number then means nothing.)
    #[inline(always)]
    fn shift(level: Level) -> u32 {
        Self::SHIFT + (3 - level.number()) as u32 * Self::STRIDE
    }

    /// Bytes that one entry of `level` maps.
    #[inline(always)]
    fn size(level: Level) -> u64 {
        1u64.wrapping_shl(Self::shift(level))
    }

    /// Members of a contiguous group at `level`; 1 where the level has none.
    #[inline(always)]
    fn group(level: Level) -> usize {
        if level.number() < 0 { 1 } else { 1 << Self::GROUPS[level.number() as usize] }
    }

    /// Bytes that a contiguous group at `level` maps; the entry's own size where the level has none.
    #[inline(always)]
    fn group_size(level: Level) -> u64 {
        Self::size(level) * Self::group(level) as u64
    }
}

/// The 4 KiB granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G4K;
/// The 16 KiB granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G16K;
/// The 64 KiB granule.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct G64K;

impl sealed::Sealed for G4K {}
impl sealed::Sealed for G16K {}
impl sealed::Sealed for G64K {}

impl Granule for G4K {
    const SHIFT: u32 = 12;
    const TG0: u64 = 0b00;
    const TLBI_TG: u64 = 0b01;
    // 16 pages = 64K, 16 x 2M = 32M, 16 x 1G = 16G.
    const GROUPS: [u32; 4] = [0, 4, 4, 4];
}

impl Granule for G16K {
    const SHIFT: u32 = 14;
    const TG0: u64 = 0b10;
    const TLBI_TG: u64 = 0b10;
    // 128 pages = 2M, 32 x 32M = 1G.
    const GROUPS: [u32; 4] = [0, 0, 5, 7];
}

impl Granule for G64K {
    const SHIFT: u32 = 16;
    const TG0: u64 = 0b01;
    const TLBI_TG: u64 = 0b11;
    // 32 pages = 2M, 32 x 512M = 16G.
    const GROUPS: [u32; 4] = [0, 0, 5, 5];
}

/// The most tables that the start level may concatenate, as log2.
pub const CONCATENATION: u32 = 4;

/// The input sizes, in bits, that a walk from `start` can resolve: at least one bit at the start level,
/// at most a whole table times sixteen.
pub fn input_bits<G: Granule>(start: Level) -> core::ops::RangeInclusive<u32> {
    let low = G::shift(start);
    low + 1..=(low + G::STRIDE + CONCATENATION).min(52)
}

/// The start level with the fewest lookups for an input size: the deepest that concatenation reaches.
pub fn start_level<G: Granule>(ipa_bits: u32) -> Option<Level> {
    start_levels::<G>().find(|&level| input_bits::<G>(level).contains(&ipa_bits))
}

/// The start levels that the granule has, deepest first.
pub fn start_levels<G: Granule>() -> impl Iterator<Item = Level> {
    let top = match G::SHIFT {
        12 => -1,
        14 => 0,
        _ => 1,
    };
    (top..=3).rev().filter_map(Level::new)
}

/// Rounds down to a multiple of `size`, a power of two.
#[inline(always)]
pub(crate) const fn floor(address: u64, size: u64) -> u64 {
    address & !(size - 1)
}

/// Whether `address` is a multiple of `size`, a power of two.
#[inline(always)]
pub(crate) const fn aligned(address: u64, size: u64) -> bool {
    address & (size - 1) == 0
}
