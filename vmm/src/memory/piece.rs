//! Ranges of guest-physical addresses that have been checked: whole units, in RAM, in order.

use std::io;
use std::ops::Range;

use vm_memory::{Address, GuestMemoryBackend};

use crate::config::Size;

use super::mapping::Harmless;
use super::{GuestMemory, Region};

/// Why a list of ranges was refused. Nothing was done to any of them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A range that doesn't begin and end on a unit's boundary.
    #[error("{:#x}..{:#x} is not whole units of {}", range.start, range.end, Size(*unit))]
    NotWholeUnits {
        /// The range.
        range: Range<u64>,
        /// Bytes per unit.
        unit: u64,
    },
    /// A range of which a part is not guest RAM.
    #[error("{:#x}..{:#x} leaves guest RAM at {at:#x}", range.start, range.end)]
    NotRam {
        /// The range.
        range: Range<u64>,
        /// Its first address that is not RAM.
        at: u64,
    },
    /// A range that begins before the one before it ends.
    #[error("{:#x}..{:#x} comes after a range that ends at {before:#x}", range.start, range.end)]
    OutOfOrder {
        /// The range.
        range: Range<u64>,
        /// The end of the one before it.
        before: u64,
    },
}

/// A range of guest RAM that lies in one region and is not empty.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece<'a> {
    region: &'a Region,
    offset: u64,
    len: u64,
}

impl<'a> Piece<'a> {
    /// The pieces of `ranges`: ascending, merged where they touch in one region. Empty ranges have none.
    pub(super) fn of(memory: &'a GuestMemory, unit: u64, ranges: &[Range<u64>]) -> Result<Vec<Self>, Error> {
        let mut pieces: Vec<Self> = Vec::with_capacity(ranges.len());
        let mut before = 0;
        for range in ranges {
            let range = range.clone();
            if !range.start.is_multiple_of(unit) || !range.end.is_multiple_of(unit) {
                return Err(Error::NotWholeUnits { range, unit });
            }
            if range.start < before || range.end < range.start {
                return Err(Error::OutOfOrder { range, before });
            }
            before = range.end;
            let mut at = range.start;
            while at < range.end {
                let piece = Self::starting(memory, at, range.end)
                    .ok_or_else(|| Error::NotRam { range: range.clone(), at })?;
                at += piece.len;
                match pieces.last_mut() {
                    Some(last) if last.touches(&piece) => last.len += piece.len,
                    _ => pieces.push(piece),
                }
            }
        }
        Ok(pieces)
    }

    /// The piece from `at` to `end` or to the end of the region; `None` where `at` is not RAM.
    fn starting(memory: &'a GuestMemory, at: u64, end: u64) -> Option<Self> {
        let region = memory.find_region(vm_memory::GuestAddress(at))?;
        let offset = at.checked_sub(region.guest().raw_value())?;
        let len = end.checked_sub(at)?.min(region.size().checked_sub(offset)?);
        (len > 0).then_some(Self { region, offset, len })
    }

    /// Whether `next` begins where this ends, in the same region.
    fn touches(&self, next: &Self) -> bool {
        std::ptr::eq(self.region, next.region) && self.offset + self.len == next.offset
    }

    /// What remains behind the first `bytes`.
    pub(super) fn behind(self, bytes: u64) -> Option<Self> {
        (bytes < self.len).then(|| Self { offset: self.offset + bytes, len: self.len - bytes, ..self })
    }

    /// Puts anonymous memory in its place. Returns the number of system calls.
    pub(super) fn replace(&self, huge: bool) -> io::Result<u64> {
        self.region.replace(self.offset, self.len)?;
        let mut calls = 1;
        // A wish, but all of guest memory has the same: mappings that differ don't join.
        for advice in [Some(Harmless::NoDump), huge.then_some(Harmless::Huge)].into_iter().flatten() {
            calls += 1;
            if let Err(error) = self.region.advise(self.offset, self.len, advice) {
                tracing::debug!(?advice, %error, "the host doesn't take this advice");
            }
        }
        Ok(calls)
    }

    /// The region that it lies in.
    pub(super) fn region(&self) -> &'a Region {
        self.region
    }

    /// Bytes, at least 1.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Its guest-physical addresses.
    pub(super) fn guest(&self) -> Range<u64> {
        let start = self.region.guest().raw_value() + self.offset;
        start..start + self.len
    }

    /// Its place in the memory object that backs the guest.
    pub(super) fn object(&self) -> Range<u64> {
        let start = self.region.object() + self.offset;
        start..start + self.len
    }

    /// Its addresses in this process.
    pub(super) fn host(&self) -> Range<usize> {
        let start = self.region.host() + self.offset as usize;
        start..start + self.len as usize
    }
}

/// What remains of `pieces` behind their first `bytes`, in order.
pub(super) fn behind<'a>(pieces: &[Piece<'a>], mut bytes: u64) -> Vec<Piece<'a>> {
    let mut rest = Vec::new();
    for piece in pieces {
        rest.extend(piece.behind(bytes));
        bytes = bytes.saturating_sub(piece.len);
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    const PAGE: u64 = 65536;

    fn ranges(memory: &GuestMemory, list: &[Range<u64>]) -> Result<Vec<Range<u64>>, Error> {
        Ok(Piece::of(memory, PAGE, list)?.iter().map(Piece::guest).collect())
    }

    /// Two regions of 4 units: one at 8 units, one right behind it; and a third behind a gap.
    fn memory() -> GuestMemory {
        testing::anon(&[(8 * PAGE, 4 * PAGE), (12 * PAGE, 4 * PAGE), (20 * PAGE, 4 * PAGE)])
    }

    #[test]
    fn ranges_merge_where_they_touch_but_not_across_regions() {
        let memory = memory();
        let list = [8 * PAGE..9 * PAGE, 9 * PAGE..10 * PAGE, 11 * PAGE..11 * PAGE, 11 * PAGE..13 * PAGE];
        let expected = [8 * PAGE..10 * PAGE, 11 * PAGE..12 * PAGE, 12 * PAGE..13 * PAGE];
        assert_eq!(ranges(&memory, &list).unwrap(), expected);
    }

    #[test]
    fn what_is_not_whole_units_in_ram_in_order_is_refused() {
        let memory = memory();
        let refused = |list: &[Range<u64>]| ranges(&memory, list).unwrap_err();
        let alone = |range: &Range<u64>| refused(std::slice::from_ref(range));
        for range in [8 * PAGE + 4096..9 * PAGE, 8 * PAGE..8 * PAGE + 4096] {
            assert_eq!(alone(&range), Error::NotWholeUnits { range, unit: PAGE });
        }
        for (range, at) in [
            (0..PAGE, 0),
            (7 * PAGE..9 * PAGE, 7 * PAGE),
            (8 * PAGE..17 * PAGE, 16 * PAGE),
            (20 * PAGE..25 * PAGE, 24 * PAGE),
            (u64::MAX - PAGE + 1 - PAGE..u64::MAX - PAGE + 1, u64::MAX - PAGE + 1 - PAGE),
        ] {
            assert_eq!(alone(&range), Error::NotRam { range, at });
        }
        let (low, high) = (8 * PAGE..10 * PAGE, 10 * PAGE..11 * PAGE);
        assert_eq!(refused(&[high.clone(), low.clone()]), Error::OutOfOrder { range: low, before: high.end });
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let reversed = 10 * PAGE..9 * PAGE;
        assert_eq!(alone(&reversed), Error::OutOfOrder { range: reversed, before: 0 });
    }

    #[test]
    fn what_is_behind_the_first_bytes_starts_in_the_middle() {
        let memory = memory();
        let pieces = Piece::of(&memory, PAGE, &[8 * PAGE..10 * PAGE, 20 * PAGE..22 * PAGE]).unwrap();
        let rest = |bytes| behind(&pieces, bytes).iter().map(Piece::guest).collect::<Vec<_>>();
        assert_eq!(rest(0), [8 * PAGE..10 * PAGE, 20 * PAGE..22 * PAGE]);
        assert_eq!(rest(PAGE), [9 * PAGE..10 * PAGE, 20 * PAGE..22 * PAGE]);
        assert_eq!(rest(3 * PAGE), [21 * PAGE..22 * PAGE]);
        assert_eq!(rest(4 * PAGE), []);
    }
}
