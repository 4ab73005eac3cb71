//! What the balloon holds of blocks that are not whole, and whole blocks that wait for their discard.
//!
//! Only with VIRTIO_BALLOON_F_MUST_TELL_HOST: the driver has promised not to use what it put in, so it may wait here. A
//! block of which nothing is held has no entry; nor has one that was discarded whole (the ledger says `Released` for
//! all of it).

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::{PFN, ranges};

/// A block of which the balloon holds a part.
#[derive(Debug, PartialEq, Eq)]
struct Partial {
    /// Held by the balloon.
    held: Bits,
    /// Of these, not yet discarded.
    pending: Bits,
}

/// The blocks, by their first address.
#[derive(Debug)]
pub(super) struct Carry {
    /// Bytes per block: a power of two, a multiple of [`PFN`].
    block: u64,
    ram: Vec<Range<u64>>,
    partial: BTreeMap<u64, Partial>,
    whole: BTreeSet<u64>,
}

impl Carry {
    pub(super) fn new(block: u64, ram: Vec<Range<u64>>) -> Self {
        Self { block, ram, partial: BTreeMap::new(), whole: BTreeSet::new() }
    }

    /// Takes hold of `range`, whole page frames inside RAM. `released` says whether a block was discarded whole.
    pub(super) fn hold(&mut self, range: Range<u64>, mut released: impl FnMut(Range<u64>) -> bool) {
        for (block, part) in pieces(range, self.block) {
            if self.whole.contains(&block) {
                continue;
            }
            if !self.partial.contains_key(&block) {
                if released(self.range(block)) {
                    continue;
                }
                let held = self.outside(block);
                let pending = Bits::new(self.frames());
                self.partial.insert(block, Partial { held, pending });
            }
            let Some(partial) = self.partial.get_mut(&block) else { continue };
            for frame in part {
                if partial.held.set(frame, true) {
                    partial.pending.set(frame, true);
                }
            }
            if partial.held.all() {
                self.partial.remove(&block);
                self.whole.insert(block);
            }
        }
    }

    /// Lets go of `range`, whole page frames inside RAM. Returns the blocks, clipped to RAM, of which nothing is held
    /// any more.
    pub(super) fn let_go(
        &mut self,
        range: Range<u64>,
        mut released: impl FnMut(Range<u64>) -> bool,
    ) -> Vec<Range<u64>> {
        let mut empty = Vec::new();
        for (block, part) in pieces(range, self.block) {
            let waiting = self.whole.remove(&block);
            if !self.partial.contains_key(&block) {
                if !waiting && !released(self.range(block)) {
                    continue;
                }
                let frames = self.frames();
                let mut pending = Bits::new(frames);
                let mut held = Bits::new(frames);
                let outside = self.outside(block);
                for frame in 0..frames {
                    held.set(frame, true);
                    pending.set(frame, waiting && !outside.get(frame));
                }
                self.partial.insert(block, Partial { held, pending });
            }
            let outside = self.outside(block);
            let Some(partial) = self.partial.get_mut(&block) else { continue };
            for frame in part {
                partial.held.set(frame, false);
                partial.pending.set(frame, false);
            }
            if partial.held == outside {
                self.partial.remove(&block);
                empty.push(self.range(block));
            }
        }
        empty
    }

    /// Bytes of whole blocks that wait.
    pub(super) fn due(&self) -> u64 {
        self.whole.len() as u64 * self.block
    }

    /// Bytes that are held and not yet discarded.
    pub(super) fn pending(&self) -> u64 {
        self.due() + self.partial.values().map(|partial| partial.pending.count() * PFN).sum::<u64>()
    }

    /// Takes the whole blocks, merged.
    pub(super) fn take_whole(&mut self) -> Vec<Range<u64>> {
        let whole = std::mem::take(&mut self.whole);
        ranges::merged(whole.into_iter().map(|block| self.range(block)).collect())
    }

    /// Takes the whole blocks and whatever whole `unit`s are pending of the others, merged. The latter stay held.
    pub(super) fn take_all(&mut self, unit: u64) -> Vec<Range<u64>> {
        let mut all = self.take_whole();
        for (&block, partial) in &mut self.partial {
            let units: Vec<_> = partial.units(unit).collect();
            for frames in units {
                for frame in frames.clone() {
                    partial.pending.set(frame, false);
                }
                all.push(block + frames.start as u64 * PFN..block + frames.end as u64 * PFN);
            }
        }
        ranges::merged(all)
    }

    /// Whether [`take_all`](Self::take_all) would find anything.
    pub(super) fn is_waiting(&self, unit: u64) -> bool {
        !self.whole.is_empty() || self.partial.values().any(|partial| partial.units(unit).next().is_some())
    }

    /// Nothing is held.
    pub(super) fn forget(&mut self) {
        self.partial.clear();
        self.whole.clear();
    }

    fn frames(&self) -> usize {
        (self.block / PFN) as usize
    }

    /// The block's addresses that are RAM.
    fn range(&self, block: u64) -> Range<u64> {
        let ram = self.ram.iter().find(|ram| ram.start < block + self.block && block < ram.end);
        ram.map_or(block..block, |ram| block.max(ram.start)..(block + self.block).min(ram.end))
    }

    /// The frames of a block that are not RAM count as held, so that the rest can be whole.
    fn outside(&self, block: u64) -> Bits {
        let mut bits = Bits::new(self.frames());
        let inside = self.range(block);
        if inside != (block..block + self.block) {
            for frame in 0..self.frames() {
                bits.set(frame, !inside.contains(&(block + frame as u64 * PFN)));
            }
        }
        bits
    }
}

impl Partial {
    /// The whole `unit`s that are pending, as frames of the block.
    fn units(&self, unit: u64) -> impl Iterator<Item = Range<usize>> + '_ {
        let frames = (unit / PFN).max(1) as usize;
        // While a balloon is emptied this is asked for every descriptor, and of no block anything is pending.
        let len = if self.pending.is_empty() { 0 } else { self.pending.len };
        let starts = (0..len).step_by(frames);
        starts.map(move |start| start..start + frames).filter(|range| {
            range.end <= self.pending.len && range.clone().all(|frame| self.pending.get(frame))
        })
    }
}

/// `range` cut at multiples of `block`: each block's first address, and the frames in it.
fn pieces(range: Range<u64>, block: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let first = range.start / block * block;
    (first..range.end).step_by(block as usize).map(move |at| {
        let start = range.start.max(at) - at;
        let end = range.end.min(at + block) - at;
        (at, (start / PFN) as usize..(end / PFN) as usize)
    })
}

/// A set of frames of one block.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Bits {
    words: Box<[u64]>,
    len: usize,
}

impl Bits {
    fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)].into(), len }
    }

    fn get(&self, at: usize) -> bool {
        self.words[at / 64] >> (at % 64) & 1 != 0
    }

    /// Returns whether that is a change.
    fn set(&mut self, at: usize, on: bool) -> bool {
        let (word, bit) = (&mut self.words[at / 64], 1 << (at % 64));
        let was = *word & bit != 0;
        if on {
            *word |= bit
        } else {
            *word &= !bit
        }
        was != on
    }

    fn count(&self) -> u64 {
        self.words.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn all(&self) -> bool {
        self.count() == self.len as u64
    }

    fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: u64 = 0x10000;

    fn carry() -> Carry {
        Carry::new(BLOCK, vec![0..0x8_8000])
    }

    fn frame(n: u64) -> Range<u64> {
        n * PFN..(n + 1) * PFN
    }

    const NEVER: fn(Range<u64>) -> bool = |_| false;

    #[test]
    fn a_block_is_whole_when_all_of_it_is_held() {
        let mut carry = carry();
        for n in 0..15 {
            carry.hold(frame(n), NEVER);
            assert_eq!((carry.due(), carry.pending()), (0, (n + 1) * PFN));
        }
        // Twice is once.
        carry.hold(frame(3), NEVER);
        carry.hold(frame(15), NEVER);
        assert_eq!(carry.due(), BLOCK);
        assert_eq!(carry.take_whole(), [0..BLOCK]);
        assert_eq!((carry.due(), carry.pending()), (0, 0));
    }

    #[test]
    fn a_deflate_takes_its_pages_out_of_a_partial_block() {
        let mut carry = carry();
        carry.hold(0..15 * PFN, NEVER);
        assert_eq!(carry.let_go(frame(4), NEVER), []);
        carry.hold(frame(15), NEVER);
        assert_eq!(carry.due(), 0, "frame 4 is the guest's");
        assert_eq!(carry.take_all(PFN), [0..4 * PFN, 5 * PFN..16 * PFN]);
        // Now only the last one is missing, and only it is to be discarded.
        carry.hold(frame(4), NEVER);
        assert_eq!(carry.take_whole(), [0..BLOCK]);
    }

    #[test]
    fn a_deflate_takes_a_whole_block_apart_that_waits() {
        let mut carry = carry();
        carry.hold(0..BLOCK, NEVER);
        assert_eq!(carry.let_go(frame(0), NEVER), []);
        assert_eq!(carry.due(), 0);
        assert_eq!(carry.take_all(PFN), [PFN..BLOCK]);
        assert_eq!(carry.let_go(PFN..BLOCK, NEVER), [0..BLOCK], "nothing is held");
        assert!(!carry.is_waiting(PFN));
    }

    #[test]
    fn a_deflate_of_a_discarded_block_leaves_the_rest_held() {
        let mut carry = carry();
        assert_eq!(carry.let_go(frame(2), |block| block == (0..BLOCK)), []);
        assert_eq!(carry.pending(), 0, "the rest has been discarded");
        carry.hold(frame(2), NEVER);
        assert_eq!(carry.take_whole(), [0..BLOCK]);
        // One that was never held.
        assert_eq!(carry.let_go(frame(20), NEVER), []);
        assert!(carry.partial.is_empty());
    }

    #[test]
    fn less_than_a_unit_stays_pending() {
        let mut carry = carry();
        carry.hold(PFN..9 * PFN, NEVER);
        assert!(carry.is_waiting(0x4000));
        assert_eq!(carry.take_all(0x4000), [0x4000..0x8000]);
        assert!(!carry.is_waiting(0x4000));
        assert_eq!(carry.pending(), 4 * PFN, "frames 1 to 3 and 8");
    }

    #[test]
    fn the_last_block_ends_with_ram() {
        let mut carry = carry();
        carry.hold(0x8_0000..0x8_8000, NEVER);
        assert_eq!(carry.take_whole(), [0x8_0000..0x8_8000]);
        assert_eq!(carry.let_go(0x8_0000..0x8_8000, |_| true), [0x8_0000..0x8_8000]);
    }
}
