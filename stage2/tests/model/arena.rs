//! The arena: physical memory for tables. Free frames are poisoned, and every step knows which are free.

use std::cell::RefCell;

use stage2::Entry;

use crate::violation::Violation;

use std::sync::atomic::Ordering::Relaxed;

/// What a free frame holds: a valid-looking descriptor that leads nowhere.
const POISON: u64 = 0x0fff_dead_dead_d003;

/// A frame of memory, or part of a larger one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Slot {
    Free,
    /// The first granule of an allocation of so many bytes.
    Head(u64),
    /// A later granule of one.
    Tail,
}

#[derive(Debug)]
struct State {
    slots: Vec<Slot>,
    /// Free slots, the one freed last at the end: it is the first to be used again.
    free: Vec<usize>,
    /// Allocations that still succeed.
    budget: u64,
}

/// Table frames at made-up physical addresses.
#[derive(Debug)]
pub(crate) struct Arena {
    memory: Box<[Entry]>,
    shift: u32,
    base: u64,
    state: RefCell<State>,
}

impl Arena {
    /// `root` bytes for a start level and `frames` granules beside it, from the physical address `base` on.
    pub(crate) fn new(shift: u32, base: u64, root: u64, frames: usize) -> Self {
        let slots = (root >> shift) as usize + frames;
        let entries = slots << (shift - 3);
        let memory = (0..entries).map(|_| Entry::new(POISON)).collect();
        let state =
            State { slots: vec![Slot::Free; slots], free: (0..slots).rev().collect(), budget: u64::MAX };
        Self { memory, shift, base, state: RefCell::new(state) }
    }

    /// Lets so many more allocations succeed.
    pub(crate) fn set_budget(&self, budget: u64) {
        self.state.borrow_mut().budget = budget;
    }

    fn slot(&self, frame: u64) -> Option<usize> {
        let slot = (frame.checked_sub(self.base)? >> self.shift) as usize;
        let aligned = frame & ((1 << self.shift) - 1) == 0;
        (aligned && slot < self.memory.len() >> (self.shift - 3)).then_some(slot)
    }

    fn words(&self, slot: usize, bytes: u64) -> &[Entry] {
        let first = slot << (self.shift - 3);
        &self.memory[first..first + (bytes / 8) as usize]
    }

    /// A zeroed frame, aligned to its size.
    pub(crate) fn allocate(&self, size: u64) -> Option<u64> {
        let mut state = self.state.borrow_mut();
        if state.budget == 0 {
            return None;
        }
        let count = (size >> self.shift) as usize;
        let free = |state: &State, slot: usize| {
            (slot..slot + count).all(|slot| state.slots.get(slot) == Some(&Slot::Free))
        };
        let slot = if count == 1 {
            *state.free.last()?
        } else {
            (0..state.slots.len()).step_by(count).find(|&slot| free(&state, slot))?
        };
        state.slots[slot..slot + count].fill(Slot::Tail);
        state.slots[slot] = Slot::Head(size);
        state.free.retain(|free| !(slot..slot + count).contains(free));
        state.budget -= 1;
        self.words(slot, size).iter().for_each(|entry| entry.store(0, Relaxed));
        Some(self.base + ((slot as u64) << self.shift))
    }

    /// Takes a frame back and poisons it.
    pub(crate) fn free(&self, frame: u64, size: u64) -> Result<(), Violation> {
        let mut state = self.state.borrow_mut();
        let Some(slot) = self.slot(frame) else {
            return Err(Violation::Frames { why: "freed, but never allocated", frame });
        };
        if state.slots[slot] != Slot::Head(size) {
            return Err(Violation::Frames { why: "freed twice, or with another size", frame });
        }
        let count = (size >> self.shift) as usize;
        state.slots[slot..slot + count].fill(Slot::Free);
        state.free.extend((slot..slot + count).rev());
        self.words(slot, size).iter().for_each(|entry| entry.store(POISON, Relaxed));
        Ok(())
    }

    /// Gives an allocated frame to its owner; what an owner asks for beyond that is its own mistake.
    pub(crate) fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        let slot = self.slot(frame).expect("the crate asks for frames that it was given");
        let state = self.state.borrow();
        let Slot::Head(size) = state.slots[slot] else {
            panic!("the crate looks into frame {frame:#x}, which is free");
        };
        drop(state);
        &self.words(slot, size)[..entries]
    }

    /// What a walker finds; a walk into a free frame is a violation.
    pub(crate) fn entry(&self, frame: u64, index: usize) -> Result<&Entry, Violation> {
        let freed = Violation::FreedTable { frame };
        let Some(slot) = self.slot(frame) else { return Err(freed) };
        match self.state.borrow().slots[slot] {
            Slot::Head(size) if (index as u64) < size / 8 => Ok(&self.words(slot, size)[index]),
            _ => Err(freed),
        }
    }

    /// A whole table, as a walker would find it.
    pub(crate) fn entries(&self, frame: u64, count: usize) -> Result<&[Entry], Violation> {
        self.entry(frame, count - 1)?;
        Ok(&self.words(self.slot(frame).unwrap_or(0), count as u64 * 8)[..count])
    }

    /// Frames handed out.
    pub(crate) fn allocated(&self) -> Vec<u64> {
        let state = self.state.borrow();
        let heads = state.slots.iter().enumerate().filter(|(_, slot)| matches!(slot, Slot::Head(_)));
        heads.map(|(slot, _)| self.base + ((slot as u64) << self.shift)).collect()
    }

    /// Bytes handed out.
    pub(crate) fn in_use(&self) -> u64 {
        let size = |slot: &Slot| if let Slot::Head(size) = slot { *size } else { 0 };
        self.state.borrow().slots.iter().map(size).sum()
    }

    /// A copy of every frame handed out.
    pub(crate) fn snapshot(&self) -> Vec<(u64, Vec<u64>)> {
        let state = self.state.borrow();
        let copy = |(slot, kind): (usize, &Slot)| match kind {
            Slot::Head(size) => {
                let words = self.words(slot, *size).iter().map(|entry| entry.load(Relaxed)).collect();
                Some((self.base + ((slot as u64) << self.shift), words))
            }
            _ => None,
        };
        state.slots.iter().enumerate().filter_map(copy).collect()
    }
}
