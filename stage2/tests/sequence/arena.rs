//! Frames that watch what is done to them: freed ones are poisoned and never handed out again while any
//! other is free, and their number can be limited at any moment.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::atomic::Ordering::Relaxed;

use stage2::{Entry, Frames};

/// How many more frames may be allocated; shared, so that it can change while tables hold the arena.
pub(crate) type Allowance = Rc<Cell<u64>>;

/// What a freed frame is filled with: a valid-looking descriptor that leads nowhere.
const POISON: u64 = 0xdead_dead_dead_d003;

pub(crate) struct Arena {
    /// Physical address of slot 0: beyond 48 bits where the format allows it, so that every bit counts.
    base: u64,
    granule: u64,
    slots: Vec<Slot>,
    allowance: Allowance,
    in_use: Rc<Cell<u64>>,
}

struct Slot {
    memory: Box<[Entry]>,
    /// Granules, while allocated; 0 when free or part of the slot before.
    allocated: u64,
}

impl Arena {
    /// An empty arena; also its allowance and a count of the bytes in use that outlives it.
    pub(crate) fn new(base: u64, granule: u64) -> (Self, Allowance, Rc<Cell<u64>>) {
        let allowance = Rc::new(Cell::new(u64::MAX));
        let in_use = Rc::new(Cell::new(0));
        let arena =
            Self { base, granule, slots: Vec::new(), allowance: allowance.clone(), in_use: in_use.clone() };
        (arena, allowance, in_use)
    }

    fn slot(&self, frame: u64) -> usize {
        assert!(frame >= self.base, "frame {frame:#x} was never allocated");
        let slot = ((frame - self.base) / self.granule) as usize;
        assert_eq!(self.base + slot as u64 * self.granule, frame, "misaligned frame");
        slot
    }

    /// A free run of `granules` slots whose first is a multiple of it: a new one where there is none.
    fn find(&mut self, granules: u64) -> usize {
        let step = granules as usize;
        // The oldest free slot first: the longer a freed frame stays poisoned, the more it shows.
        if step == 1
            && let Some(slot) =
                self.slots.iter().position(|slot| slot.allocated == 0 && !slot.memory.is_empty())
            && self.slots.len() > 64
        {
            return slot;
        }
        let first = self.slots.len().next_multiple_of(step);
        self.slots.resize_with(first + step, || Slot { memory: Box::default(), allocated: 0 });
        first
    }
}

impl Frames for Arena {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        if self.allowance.get() == 0 {
            return None;
        }
        let granules = size / self.granule;
        let slot = self.find(granules);
        let zeroed = (0..size / 8).map(|_| Entry::new(0)).collect();
        self.slots[slot] = Slot { memory: zeroed, allocated: granules };
        self.allowance.set(self.allowance.get().saturating_sub(1));
        self.in_use.set(self.in_use.get() + size);
        Some(self.base + slot as u64 * self.granule)
    }

    fn free(&mut self, frame: u64, size: u64) {
        let slot = self.slot(frame);
        let slot = self.slots.get_mut(slot).expect("freed a frame that was never allocated");
        assert_eq!(slot.allocated, size / self.granule, "frame {frame:#x} freed twice or with another size");
        slot.memory.iter().for_each(|entry| entry.store(POISON, Relaxed));
        slot.allocated = 0;
        self.in_use.set(self.in_use.get() - size);
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        let slot = &self.slots[self.slot(frame)];
        assert_ne!(slot.allocated, 0, "frame {frame:#x} is used after it was freed");
        &slot.memory[..entries]
    }
}
