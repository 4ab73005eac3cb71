//! Ranges of memory: which pages are owned, and whose share is which.

use core::fmt;

use arrayvec::ArrayVec;
use thiserror::Error;

/// Bytes of a page of these images, whatever granule their translation tables have.
pub const PAGE_SIZE: u64 = 4096;

/// The most pieces that memory may be in.
pub const MAX_SPANS: usize = 64;

/// A half-open range of guest physical addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First byte.
    pub start: u64,
    /// First byte behind it; not below `start`.
    pub end: u64,
}

impl Span {
    /// The range of `size` bytes at `start`, cut off at the end of the address space.
    pub const fn new(start: u64, size: u64) -> Self {
        Self { start, end: start.saturating_add(size) }
    }

    /// Bytes in it.
    pub const fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    pub const fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The whole pages that it touches.
    pub const fn outer_pages(&self) -> Self {
        let start = self.start & !(PAGE_SIZE - 1);
        match self.end.checked_next_multiple_of(PAGE_SIZE) {
            Some(end) => Self { start, end },
            None => Self { start, end: !(PAGE_SIZE - 1) },
        }
    }

    /// The whole pages in it.
    pub const fn inner_pages(&self) -> Self {
        let end = self.end & !(PAGE_SIZE - 1);
        match self.start.checked_next_multiple_of(PAGE_SIZE) {
            Some(start) if start < end => Self { start, end },
            _ => Self { start: end, end },
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{:#x}", self.start, self.size())
    }
}

/// Memory in more pieces than there is room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("memory is in more than {MAX_SPANS} pieces at {0}")]
pub struct TooManySpans(pub Span);

/// Ranges of memory, sorted, none empty, none touching another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ram {
    spans: ArrayVec<Span, MAX_SPANS>,
}

impl Ram {
    /// The ranges, sorted.
    pub fn spans(&self) -> &[Span] {
        &self.spans
    }

    /// Whole pages in it.
    pub fn pages(&self) -> u64 {
        self.spans.iter().map(|span| span.size() / PAGE_SIZE).sum()
    }

    /// Adds a range; what is there already counts once.
    pub fn add(&mut self, mut span: Span) -> Result<(), TooManySpans> {
        if span.is_empty() {
            return Ok(());
        }
        self.spans.retain(|other| {
            let apart = other.end < span.start || span.end < other.start;
            if !apart {
                span = Span { start: span.start.min(other.start), end: span.end.max(other.end) };
            }
            apart
        });
        let at = self.spans.partition_point(|other| other.start < span.start);
        self.spans.try_insert(at, span).map_err(|_| TooManySpans(span))
    }

    /// Takes a range out.
    pub fn remove(&mut self, hole: Span) -> Result<(), TooManySpans> {
        if hole.is_empty() {
            return Ok(());
        }
        let mut left = Self::default();
        for span in &self.spans {
            let below = Span { start: span.start, end: span.end.min(hole.start).max(span.start) };
            let above = Span { start: span.start.max(hole.end).min(span.end), end: span.end };
            left.add(below)?;
            left.add(above)?;
        }
        *self = left;
        Ok(())
    }

    /// Keeps whole pages only.
    pub fn trim_to_pages(&mut self) {
        for span in &mut self.spans {
            *span = span.inner_pages();
        }
        self.spans.retain(|span| !span.is_empty());
    }

    /// Takes `size` bytes, whole pages, out of the first range that has room, from its start.
    pub fn carve(&mut self, size: u64) -> Option<Span> {
        let at = self.spans.iter().position(|span| span.size() >= size)?;
        let span = &mut self.spans[at];
        let carved = Span::new(span.start, size);
        span.start = carved.end;
        if span.is_empty() {
            self.spans.remove(at);
        }
        Some(carved)
    }

    /// The pages of one of `count` equal shares, as ranges. Shares differ by at most one page, and
    /// each page is in exactly one of them.
    pub fn share(&self, index: u64, count: u64) -> impl Iterator<Item = Span> {
        let bound = |index: u64| {
            // 128 bits: pages times CPUs may be more than 64 hold.
            (u128::from(self.pages()) * u128::from(index) / u128::from(count)) as u64
        };
        let (first, last) = (bound(index), bound(index + 1));
        let mut before = 0;
        self.spans.iter().filter_map(move |span| {
            let pages = span.size() / PAGE_SIZE;
            let start = first.saturating_sub(before).min(pages);
            let end = last.saturating_sub(before).min(pages);
            before += pages;
            (start < end)
                .then(|| Span { start: span.start + start * PAGE_SIZE, end: span.start + end * PAGE_SIZE })
        })
    }
}

impl fmt::Display for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, span) in self.spans.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{span}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram(spans: &[(u64, u64)]) -> Ram {
        let mut ram = Ram::default();
        for &(start, end) in spans {
            ram.add(Span { start, end }).unwrap();
        }
        ram
    }

    fn pairs(ram: &Ram) -> Vec<(u64, u64)> {
        ram.spans().iter().map(|span| (span.start, span.end)).collect()
    }

    #[test]
    fn added_ranges_are_sorted_and_merged() {
        assert_eq!(pairs(&ram(&[(8, 10), (0, 2), (2, 4), (9, 12), (5, 5)])), [(0, 4), (8, 12)]);
        assert_eq!(pairs(&ram(&[(0, 2), (4, 6), (8, 10), (1, 9)])), [(0, 10)]);
    }

    #[test]
    fn removed_ranges_leave_what_is_around_them() {
        let all = ram(&[(0, 10), (20, 30)]);
        for (hole, left) in [
            ((0, 30), &[][..]),
            ((10, 20), &[(0, 10), (20, 30)]),
            ((5, 5), &[(0, 10), (20, 30)]),
            ((3, 4), &[(0, 3), (4, 10), (20, 30)]),
            ((0, 4), &[(4, 10), (20, 30)]),
            ((5, 25), &[(0, 5), (25, 30)]),
            ((25, 90), &[(0, 10), (20, 25)]),
        ] {
            let mut ram = all.clone();
            ram.remove(Span { start: hole.0, end: hole.1 }).unwrap();
            assert_eq!(pairs(&ram), left, "without {hole:?}");
        }
    }

    #[test]
    fn too_many_pieces_are_an_error() {
        let mut ram = Ram::default();
        for index in 0..MAX_SPANS as u64 {
            ram.add(Span::new(index * 16, 8)).unwrap();
        }
        let span = Span::new(MAX_SPANS as u64 * 16, 8);
        assert_eq!(ram.add(span), Err(TooManySpans(span)));
        assert!(ram.remove(Span::new(2, 1)).is_err());
        assert_eq!(ram.spans().len(), MAX_SPANS, "a refused removal changes nothing");
    }

    #[test]
    fn partial_pages_are_not_owned_and_are_left_alone() {
        let mut ram = ram(&[(0x800, 0x3800), (0x4001, 0x4fff)]);
        ram.trim_to_pages();
        assert_eq!(pairs(&ram), [(0x1000, 0x3000)]);
        assert_eq!(Span { start: 0x1fff, end: 0x2001 }.outer_pages(), Span { start: 0x1000, end: 0x3000 });
    }

    #[test]
    fn spans_at_the_end_of_the_address_space_do_not_wrap() {
        let top = Span::new(u64::MAX - 10, 100);
        assert_eq!(top.end, u64::MAX);
        assert_eq!(top.outer_pages().end, !0xfff);
        assert!(top.inner_pages().is_empty());
    }

    #[test]
    fn carving_takes_from_the_first_that_has_room() {
        let mut ram = ram(&[(0x1000, 0x2000), (0x4000, 0x8000)]);
        assert_eq!(ram.carve(0x2000), Some(Span::new(0x4000, 0x2000)));
        assert_eq!(ram.carve(0x1000), Some(Span::new(0x1000, 0x1000)));
        assert_eq!(pairs(&ram), [(0x6000, 0x8000)]);
        assert_eq!(ram.carve(0x3000), None);
    }

    #[test]
    fn shares_cover_every_page_once() {
        let ram = ram(&[(0x1000, 0x4000), (0x10_0000, 0x11_0000), (0x20_0000, 0x20_1000)]);
        for count in [1, 2, 3, 7, 20, 64] {
            let mut covered = Ram::default();
            let mut pages = 0;
            for index in 0..count {
                let share: u64 = ram.share(index, count).map(|span| span.size() / PAGE_SIZE).sum();
                assert!(share == 20 / count || share == 20 / count + 1, "{share} of {count}");
                pages += share;
                for span in ram.share(index, count) {
                    covered.add(span).unwrap();
                }
            }
            assert_eq!((pages, &covered), (20, &ram), "{count} shares");
        }
    }

    #[test]
    fn ranges_read_as_start_and_size() {
        let ram = ram(&[(0x4000_0000, 0x6000_0000), (0x8000_0000, 0x8000_1000)]);
        assert_eq!(ram.to_string(), "0x40000000+0x20000000,0x80000000+0x1000");
    }
}
