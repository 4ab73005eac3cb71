//! Chance: a stream of decisions that a seed repeats exactly.

use std::cell::Cell;

/// SplitMix64. Hardware may do many things at many moments; this says which and when.
#[derive(Debug)]
pub(crate) struct Chance(Cell<u64>);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    pub(crate) fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Less than `limit`, which isn't zero.
    pub(crate) fn below(&self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// True `part` times in `whole`.
    pub(crate) fn once(&self, part: usize, whole: usize) -> bool {
        self.below(whole) < part
    }
}
