//! A mark for each page of a region, set by whoever uses it and taken by whoever wants to know.

use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

use vm_memory::bitmap::{Bitmap, RefSlice, WithBitmapSlice};

use super::bitmap::{self, WORD};

/// Words per part: 4 KiB of them, for 128 MiB of 4K pages.
const PART: u64 = 512;

/// A bit for each host page of a region. Marking costs a load and a fence while nobody tracks, and memory only for
/// the parts of a region that are marked while somebody does.
#[derive(Debug)]
pub struct Marks {
    tracked: AtomicBool,
    page: u64,
    parts: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

impl Marks {
    /// For a region of `size` bytes on a host with pages of `page` bytes.
    pub fn new(size: u64, page: u64) -> Self {
        let parts = size.div_ceil(page).div_ceil(PART * WORD);
        Self { tracked: AtomicBool::new(false), page, parts: (0..parts).map(|_| OnceLock::new()).collect() }
    }

    /// Turns tracking on, with nothing marked, or off.
    pub fn track(&self, on: bool) {
        self.tracked.store(false, Ordering::SeqCst);
        for word in self.parts.iter().filter_map(OnceLock::get).flatten() {
            word.store(0, Ordering::Relaxed);
        }
        self.tracked.store(on, Ordering::SeqCst);
        // Pairs with the one in `mark_dirty`.
        fence(Ordering::SeqCst);
    }

    /// Visits the runs of bytes in `bytes`, whole pages of the region, that are marked, and clears them.
    pub fn take(&self, bytes: Range<u64>, visit: &mut dyn FnMut(Range<u64>)) {
        let pages = bytes.start / self.page..bytes.end.div_ceil(self.page);
        let all = bitmap::words(&pages);
        let taken = all.clone().map(|index| match self.word(index) {
            // What was written before the mark is there to be read once it has been seen.
            Some(word) => {
                let mask = bitmap::mask(index, &pages);
                word.fetch_and(!mask, Ordering::AcqRel) & mask
            }
            None => 0,
        });
        bitmap::runs(taken, all.start * WORD, &mut |run| visit(run.start * self.page..run.end * self.page));
    }

    /// The word at `index`, if its part was ever marked.
    fn word(&self, index: u64) -> Option<&AtomicU64> {
        self.parts.get((index / PART) as usize)?.get()?.get((index % PART) as usize)
    }
}

impl<'a> WithBitmapSlice<'a> for Marks {
    type S = RefSlice<'a, Self>;
}

impl Bitmap for Marks {
    /// Called after the bytes have been written.
    fn mark_dirty(&self, offset: usize, len: usize) {
        // The write before `tracked`: where this sees that nobody tracks yet, whoever starts to sees the bytes.
        fence(Ordering::SeqCst);
        if len == 0 || !self.tracked.load(Ordering::Relaxed) {
            return;
        }
        let end = (offset as u64).saturating_add(len as u64);
        let pages = offset as u64 / self.page..end.div_ceil(self.page);
        for index in bitmap::words(&pages) {
            // vm-memory has checked that the bytes are in the region.
            let Some(part) = self.parts.get((index / PART) as usize) else { return };
            let part = part.get_or_init(|| (0..PART).map(|_| AtomicU64::new(0)).collect());
            if let Some(word) = part.get((index % PART) as usize) {
                word.fetch_or(bitmap::mask(index, &pages), Ordering::AcqRel);
            }
        }
    }

    fn dirty_at(&self, offset: usize) -> bool {
        let page = offset as u64 / self.page;
        self.word(page / WORD).is_some_and(|word| word.load(Ordering::Acquire) >> (page % WORD) & 1 == 1)
    }

    fn slice_at(&self, offset: usize) -> RefSlice<'_, Self> {
        RefSlice::new(self, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(dirty: &Marks, bytes: Range<u64>) -> Vec<Range<u64>> {
        let mut found = Vec::new();
        dirty.take(bytes, &mut |run| found.push(run));
        found
    }

    #[test]
    fn every_page_that_a_write_touches_is_taken_once_in_host_pages() {
        for page in [4096u64, 16384, 65536] {
            let dirty = Marks::new(1000 * page, page);
            dirty.track(true);
            let at = |n: u64| (n * page) as usize;
            dirty.mark_dirty(at(3) + 5, 1);
            dirty.mark_dirty(at(63) + 1, page as usize);
            dirty.mark_dirty(at(200) - 1, 2);
            dirty.mark_dirty(at(999), page as usize);
            dirty.mark_dirty(at(500), 0);
            assert!(dirty.dirty_at(at(64)) && !dirty.dirty_at(at(65)));
            // Half of a run now, the rest with everything.
            assert_eq!(taken(&dirty, 64 * page..65 * page), [64 * page..65 * page]);
            let all =
                [3 * page..4 * page, 63 * page..64 * page, 199 * page..201 * page, 999 * page..1000 * page];
            assert_eq!(taken(&dirty, 0..1000 * page), all);
            assert_eq!(taken(&dirty, 0..1000 * page), []);
        }
    }

    #[test]
    fn nothing_is_kept_for_a_region_that_nobody_tracks() {
        let dirty = Marks::new(1 << 40, 4096);
        dirty.mark_dirty(0, 1 << 20);
        assert!(dirty.parts.iter().all(|part| part.get().is_none()));
        dirty.track(true);
        dirty.mark_dirty(1 << 39, 1);
        assert_eq!(dirty.parts.iter().filter(|part| part.get().is_some()).count(), 1);
        dirty.track(true);
        assert_eq!(taken(&dirty, 0..1 << 40), []);
    }

    #[test]
    fn no_page_is_lost_between_writers_and_a_taker() {
        const PAGES: u64 = 256;
        let dirty = Marks::new(PAGES * 4096, 4096);
        dirty.track(true);
        let bytes: Vec<AtomicU64> = (0..PAGES).map(|_| AtomicU64::new(0)).collect();
        let seen = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..2u64)
                .map(|writer| {
                    let (dirty, bytes) = (&dirty, &bytes);
                    scope.spawn(move || {
                        for round in 0..20_000u64 {
                            let page = (round * 7 + writer * 13) % PAGES;
                            bytes[page as usize].fetch_add(1, Ordering::Relaxed);
                            dirty.mark_dirty(page as usize * 4096, 1);
                        }
                    })
                })
                .collect();
            // What is seen at a take is at least what was written when the bit was set.
            let mut seen = vec![0; PAGES as usize];
            let mut look = || {
                dirty.take(0..PAGES * 4096, &mut |run| {
                    for page in run.start / 4096..run.end / 4096 {
                        seen[page as usize] = bytes[page as usize].load(Ordering::Relaxed);
                    }
                });
            };
            while writers.iter().any(|writer| !writer.is_finished()) {
                look();
            }
            look();
            seen
        });
        let written: Vec<_> = bytes.iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        assert_eq!(seen, written);
    }
}
