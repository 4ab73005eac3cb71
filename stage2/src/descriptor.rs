//! Descriptors: one 64-bit entry, bit by bit.
//!
//! Source: DDI 0487, D8.3 (VMSAv8-64 descriptor formats, stage 2).
//!
//! | bits | leaf | table |
//! |---|---|---|
//! | 0 | valid | valid |
//! | 1 | 1 page (level 3), 0 block | 1 |
//! | 5:2 | MemAttr | |
//! | 7:6 | S2AP: 7 write, 6 read | |
//! | 9:8 | SH; with DS=1 OA\[51:50\] | with DS=1 OA\[51:50\] |
//! | 10 | AF | |
//! | 11 | FnXS | |
//! | 15:12 | 64K with 52-bit OA: OA\[51:48\] | the same |
//! | 16 | nT (blocks) | |
//! | 49:n or 47:n | OA | OA of the next table |
//! | 51 | DBM | |
//! | 52 | Contiguous | |
//! | 54:53 | XN | |
//! | 58:55 | software | |

use core::fmt;

use crate::geometry::{Granule, Level, floor};
use crate::marker::Marker;

pub(crate) const VALID: u64 = 1 << 0;
pub(crate) const TYPE: u64 = 1 << 1;
pub(crate) const S2AP_R: u64 = 1 << 6;
pub(crate) const S2AP_W: u64 = 1 << 7;
pub(crate) const SH_SHIFT: u32 = 8;
pub(crate) const AF: u64 = 1 << 10;
pub(crate) const NT: u64 = 1 << 16;
pub(crate) const DBM: u64 = 1 << 51;
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
pub(crate) const XN_SHIFT: u32 = 53;
/// Software's dirty bit: what a leaf without write permission was before it lost it.
pub(crate) const SW_DIRTY: u64 = 1 << 55;
/// The software bits left to the user of the crate: 58:56.
pub(crate) const SW_SHIFT: u32 = 56;
/// Any of these says "dirty".
pub(crate) const DIRTY: u64 = S2AP_W | SW_DIRTY;
/// What hardware sets on its own, and what a harvest therefore ORs over a group.
pub(crate) const HARVEST: u64 = DIRTY | AF;

/// One descriptor, as it stands in memory.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(transparent)]
pub struct Descriptor(u64);

impl Descriptor {
    /// The descriptor with these bits.
    #[inline]
    pub const fn new(bits: u64) -> Self {
        Self(bits)
    }

    /// Its bits.
    #[inline]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Whether a walker at `level` translates through it: a block or page, not a table.
    #[inline]
    pub const fn is_leaf(self, level: Level) -> bool {
        is_leaf(self.0, level)
    }

    /// Whether a walker at `level` goes on through it.
    #[inline]
    pub const fn is_table(self, level: Level) -> bool {
        is_table(self.0, level)
    }

    /// The marker that it carries, if it is invalid and carries one.
    #[inline]
    pub const fn marker(self) -> Option<Marker> {
        Marker::from_word(self.0)
    }

    /// The access flag.
    #[inline]
    pub const fn young(self) -> bool {
        self.0 & AF != 0
    }

    /// Whether the leaf has been written since dirty was last collected: S2AP\[1\], or the software bit
    /// that keeps it when write permission is taken away.
    #[inline]
    pub const fn dirty(self) -> bool {
        self.0 & DIRTY != 0
    }

    /// Whether the leaf may be written, at once (S2AP\[1\]) or by becoming dirty (DBM).
    #[inline]
    pub const fn writable(self) -> bool {
        self.0 & (DBM | S2AP_W) != 0
    }

    /// Whether the leaf may be read.
    #[inline]
    pub const fn readable(self) -> bool {
        self.0 & S2AP_R != 0
    }

    /// The Contiguous bit.
    #[inline]
    pub const fn contiguous(self) -> bool {
        self.0 & CONTIGUOUS != 0
    }
}

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#018x}", self.0)
    }
}

#[inline(always)]
pub(crate) const fn is_leaf(word: u64, level: Level) -> bool {
    word & (VALID | TYPE) == leaf_type(level)
}

#[inline(always)]
pub(crate) const fn is_table(word: u64, level: Level) -> bool {
    !level.is_last() && word & (VALID | TYPE) == VALID | TYPE
}

/// The low two bits of a leaf: 0b11 for a page, 0b01 for a block.
#[inline(always)]
pub(crate) const fn leaf_type(level: Level) -> u64 {
    if level.is_last() { VALID | TYPE } else { VALID }
}

/// Where a descriptor holds its output address.
///
/// The low part stands in place. With 52-bit output addresses the top bits don't fit between the
/// attributes and stand lower down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Format {
    low: u64,
    high: u64,
    shift: u32,
}

impl Format {
    /// OA\[47:n\] in place.
    pub const fn bits_48<G: Granule>() -> Self {
        Self { low: span(47, G::SHIFT), high: 0, shift: 0 }
    }

    /// The 64K granule with 52-bit output addresses: OA\[51:48\] in bits 15:12.
    pub const fn lpa<G: Granule>() -> Self {
        Self { low: span(47, G::SHIFT), high: span(15, 12), shift: 36 }
    }

    /// The 4K and 16K granules with `VTCR_EL2.DS` = 1: OA\[49:n\] in place, OA\[51:50\] in bits 9:8.
    pub const fn ds<G: Granule>() -> Self {
        Self { low: span(49, G::SHIFT), high: span(9, 8), shift: 42 }
    }

    /// Output address bits that the format holds: 48 or 52.
    pub const fn oa_bits(self) -> u32 {
        if self.high == 0 { 48 } else { 52 }
    }

    /// The bits of a descriptor that hold `oa`.
    #[inline(always)]
    pub const fn encode(self, oa: u64) -> u64 {
        (oa & self.low) | ((oa >> self.shift) & self.high)
    }

    /// The output address of a table descriptor.
    #[inline(always)]
    pub const fn table(self, word: u64) -> u64 {
        (word & self.low) | ((word & self.high) << self.shift)
    }

    /// The output address of a leaf at `level`: below the block size stand other fields (nT) or nothing.
    #[inline(always)]
    pub fn leaf<G: Granule>(self, word: u64, level: Level) -> u64 {
        floor(self.table(word), G::size(level))
    }

    /// The descriptor bits that can hold part of the output address of a leaf at `level`.
    #[inline(always)]
    pub(crate) fn leaf_mask<G: Granule>(self, level: Level) -> u64 {
        floor(self.low, G::size(level)) | self.high
    }

    /// Bytes within which the address of consecutive leaves can be advanced by plain addition: up to the
    /// first bit that doesn't stand in place.
    #[inline(always)]
    pub(crate) const fn contiguous_span(self) -> u64 {
        self.low + (self.low & self.low.wrapping_neg())
    }
}

/// The bits `high` down to `low`, both included.
const fn span(high: u32, low: u32) -> u64 {
    (1 << (high + 1)) - (1 << low)
}
