//! Frames from the heap, for tables in user space.
//!
//! A frame's "physical address" is a slot number, shifted by the granule: nothing but [`HeapFrames::table`]
//! turns it into memory, and that is an ordinary slice index. So no pointer is ever made up.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::marker::PhantomData;

use crate::atomic::{Entry, Relaxed};
use crate::frames::Frames;
use crate::geometry::Granule;

/// Table frames from the heap.
#[derive(Debug, Default)]
pub struct HeapFrames<G: Granule> {
    /// By slot number; empty where the slot is free, or part of a larger frame that starts further down.
    slots: Vec<Box<[Entry]>>,
    /// Free slots.
    free: Vec<usize>,
    in_use: u64,
    granule: PhantomData<G>,
}

impl<G: Granule> HeapFrames<G> {
    /// No frames yet.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), in_use: 0, granule: PhantomData }
    }

    /// Bytes of frames handed out.
    pub const fn in_use(&self) -> u64 {
        self.in_use
    }
}

/// Freed frames whose memory is kept for the next allocation.
const KEPT: usize = 64;

impl<G: Granule> Frames for HeapFrames<G> {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        if size < G::SIZE || !size.is_power_of_two() {
            return None;
        }
        let entries = usize::try_from(size / 8).ok()?;
        let slots = usize::try_from(size / G::SIZE).ok()?;
        let slot = match self.free.pop() {
            Some(slot) if slots == 1 => slot,
            other => {
                self.free.extend(other);
                let slot = self.slots.len().next_multiple_of(slots);
                self.free.extend(self.slots.len()..slot);
                self.slots.resize_with(slot + slots, Box::default);
                slot
            }
        };
        let memory = &mut self.slots[slot];
        if memory.len() == entries {
            memory.iter().for_each(|entry| entry.store(0, Relaxed));
        } else {
            *memory = (0..entries).map(|_| Entry::new(0)).collect();
        }
        self.in_use += size;
        Some((slot as u64) << G::SHIFT)
    }

    fn free(&mut self, frame: u64, size: u64) {
        let slot = (frame >> G::SHIFT) as usize;
        if size != G::SIZE || self.free.len() >= KEPT {
            self.slots[slot] = Box::default();
        }
        self.free.extend(slot..slot + (size >> G::SHIFT) as usize);
        self.in_use -= size;
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        &self.slots[(frame >> G::SHIFT) as usize][..entries]
    }
}
