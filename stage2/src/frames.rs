//! Frames: where tables live.

use crate::atomic::{Entry, Relaxed};

/// Supplies the memory of the tables.
///
/// A frame is named by its physical address. To tables that only software reads any name will do, as long as
/// it is aligned like an address and [`table`](Self::table) finds the memory again.
pub trait Frames {
    /// Takes a frame of `size` bytes (a power of two: the granule, or the whole of a concatenated start
    /// level), **zeroed** and aligned to `size`; `None` when there is none left.
    fn allocate(&mut self, size: u64) -> Option<u64>;

    /// Takes a frame back. No walker uses it any more; its content is arbitrary.
    fn free(&mut self, frame: u64, size: u64);

    /// The first `entries` descriptors of a frame that was allocated and not yet freed. Must return exactly
    /// that many, and the same memory each time.
    fn table(&self, frame: u64, entries: usize) -> &[Entry];
}

impl<F: Frames + ?Sized> Frames for &mut F {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        (**self).allocate(size)
    }

    fn free(&mut self, frame: u64, size: u64) {
        (**self).free(frame, size);
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        (**self).table(frame, entries)
    }
}

/// Frames in a list that is threaded through their own first entries.
///
/// A link is an *invalid* descriptor (bit 0 clear, bit 1 set to tell address 0 from the end), so that a
/// walker which still holds a pointer to a dead table finds nothing in it.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    head: u64,
    len: u64,
}

const LINK: u64 = 1 << 1;

impl Chain {
    pub(crate) const fn len(&self) -> u64 {
        self.len
    }

    pub(crate) fn push<F: Frames>(&mut self, frames: &F, frame: u64) {
        frames.table(frame, 1)[0].store(self.head, Relaxed);
        self.head = frame | LINK;
        self.len += 1;
    }

    /// The frame pushed last, its first entry zeroed again.
    pub(crate) fn pop<F: Frames>(&mut self, frames: &F) -> Option<u64> {
        if self.head == 0 {
            return None;
        }
        let frame = self.head & !LINK;
        let first = &frames.table(frame, 1)[0];
        self.head = first.load(Relaxed);
        first.store(0, Relaxed);
        self.len -= 1;
        Some(frame)
    }
}
