//! Page numbers, as the guest sends them: 32 bits each, little-endian, in units of 4 KiB whatever its pages
//! and the host's are (virtio 1.3, 5.5.6).

use std::ops::Range;

use crate::config::BalloonConfig;
use crate::memory::GuestMemory;
use crate::virtio::chain::Buffer;

/// Bytes of a number.
const NUMBER: usize = 4;

/// Bytes looked at at once: 16,384 numbers, 64 times what Linux sends.
const PIECE: usize = 64 << 10;

/// Reads page numbers; it keeps what it needs for that.
#[derive(Debug, Default)]
pub(super) struct Pfns {
    bytes: Vec<u8>,
    ranges: Vec<Range<u64>>,
}

impl Pfns {
    /// Hands the pages that `buffer` names to `each`, as ranges of guest-physical bytes in the guest's order,
    /// neighbours joined, so many at once as there is room for, until that returns false. Whether they are
    /// RAM is not looked at. No more than `most` numbers are, and none of a piece that isn't in memory.
    ///
    /// Returns whether `each` did.
    pub(super) fn read(
        &mut self,
        buffer: &Buffer,
        memory: &GuestMemory,
        most: u64,
        mut each: impl FnMut(&[Range<u64>]) -> bool,
    ) -> bool {
        let end = (buffer.len() / NUMBER as u64).min(most).saturating_mul(NUMBER as u64);
        let mut at = 0;
        while at < end {
            let len = (end - at).min(PIECE as u64) as usize;
            self.bytes.resize(len, 0);
            if buffer.read(memory, at, &mut self.bytes).is_err() {
                break;
            }
            self.ranges.clear();
            for number in self.bytes.as_chunks::<NUMBER>().0 {
                join(&mut self.ranges, page(u32::from_le_bytes(*number)));
            }
            if !each(&self.ranges) {
                return false;
            }
            at += len as u64;
        }
        true
    }
}

/// The bytes of a page: in 64 bits, where no number overflows.
fn page(number: u32) -> Range<u64> {
    let start = u64::from(number) * BalloonConfig::PAGE;
    start..start + BalloonConfig::PAGE
}

/// Adds a range, to the last one where it goes on there: upward, or downward as Linux' allocator gives them.
fn join(ranges: &mut Vec<Range<u64>>, range: Range<u64>) {
    match ranges.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        Some(last) if last.start == range.end => last.start = range.start,
        _ => ranges.push(range),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_in_both_directions_and_repeats_are_not() {
        let mut ranges = Vec::new();
        for number in [5, 6, 7, 3, 2, 9, 9] {
            join(&mut ranges, page(number));
        }
        assert_eq!(ranges, [0x5000..0x8000, 0x2000..0x4000, 0x9000..0xa000, 0x9000..0xa000]);
    }

    #[test]
    fn must_pass_7_the_largest_page_number_does_not_overflow() {
        assert_eq!(page(u32::MAX), 0xfff_ffff_f000..0x1000_0000_0000);
    }
}
