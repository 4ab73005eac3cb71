//! What the unit tests share: executors that record, frames that run out, and a look at the raw words.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::descriptor::{CONTIGUOUS, HARVEST, is_leaf, is_table};
use crate::*;

/// Records the instructions that it is given.
#[derive(Debug, Default)]
pub(crate) struct Recorder(pub(crate) RefCell<Vec<Instruction>>);

impl Executor for Recorder {
    fn execute(&self, sequence: Sequence<'_>) {
        self.0.borrow_mut().extend(sequence);
    }
}

impl Recorder {
    /// What was recorded since the last call.
    pub(crate) fn take(&self) -> Vec<Instruction> {
        self.0.take()
    }

    /// The TLBI instructions alone.
    pub(crate) fn take_tlbi(&self) -> Vec<Instruction> {
        let mut all = self.take();
        all.retain(|i| !matches!(i, Instruction::DsbIsh | Instruction::DsbIshst | Instruction::Isb));
        all
    }
}

/// Frames of which there are only so many, and which poison what is freed.
#[derive(Debug)]
pub(crate) struct Limited<G: Granule> {
    pub(crate) inner: HeapFrames<G>,
    pub(crate) left: u64,
}

impl<G: Granule> Limited<G> {
    pub(crate) const fn new(left: u64) -> Self {
        Self { inner: HeapFrames::new(), left }
    }
}

impl<G: Granule> Frames for Limited<G> {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        self.left = self.left.checked_sub(1)?;
        self.inner.allocate(size)
    }

    fn free(&mut self, frame: u64, size: u64) {
        for entry in self.inner.table(frame, (size / 8) as usize) {
            entry.store(0xdead_dead_dead_dead, Relaxed);
        }
        self.left += 1;
        self.inner.free(frame, size);
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        self.inner.table(frame, entries)
    }
}

pub(crate) type Ledger<G> = Tables<G, HeapFrames<G>, NoMmu>;
pub(crate) type Live<G> = Tables<G, Limited<G>, Recorder>;

pub(crate) fn ledger<G: Granule>(ipa_bits: u32) -> Ledger<G> {
    Tables::new(Config::passive(ipa_bits).unwrap(), HeapFrames::new(), NoMmu).unwrap()
}

/// Tables that pretend to be walked, with everything on.
pub(crate) fn live<G: Granule>(ipa_bits: u32, bbm: BbmLevel) -> Live<G> {
    live_with(&Features::ALL, Options { bbm: Some(bbm), ..Options::new(ipa_bits) })
}

pub(crate) fn live_with<G: Granule>(features: &Features, options: Options) -> Live<G> {
    let config = Config::new(features, options).unwrap();
    Tables::new(config, Limited::new(1 << 20), Recorder::default()).unwrap()
}

/// The word at which a walk for `ipa` ends, and the entry.
pub(crate) fn entry<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>, ipa: u64) -> &Entry {
    let (table, _, index) = tables.walker().descend(ipa);
    &table[index]
}

pub(crate) fn word<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>, ipa: u64) -> u64 {
    entry(tables, ipa).load(Relaxed)
}

/// Every entry that isn't a table: address, level, word.
pub(crate) fn dump<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>) -> Vec<(u64, i32, u64)> {
    fn go<G: Granule, F: Frames, E: Executor>(
        tables: &Tables<G, F, E>,
        table: &[Entry],
        level: Level,
        base: u64,
        out: &mut Vec<(u64, i32, u64)>,
        count: &mut u64,
    ) {
        *count += 1;
        for (index, entry) in table.iter().enumerate() {
            let word = entry.load(Relaxed);
            let ipa = base + index as u64 * G::size(level);
            if is_table(word, level) {
                let child = tables.frames.table(tables.config.format.table(word), G::ENTRIES);
                go(tables, child, level.next(), ipa, out, count);
            } else {
                out.push((ipa, level.number(), word));
            }
        }
    }
    let (mut out, mut count) = (Vec::new(), 0);
    go(tables, tables.walker().root_table(), tables.config.start, 0, &mut out, &mut count);
    if tables.pending.is_empty() {
        let held = tables.config.root_size() + (count - 1) * G::SIZE;
        assert_eq!(tables.frame_bytes(), held, "frames held and frames linked");
    }
    out
}

/// Checks what must hold of any tables: invalid words are markers or nothing; Contiguous stands on whole
/// groups whose members differ in nothing but the address. `alike`: not even in AF and dirty.
pub(crate) fn assert_sound<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>, alike: bool) {
    for (ipa, level, word) in dump(tables) {
        let level = Level::new(level).unwrap();
        if !is_leaf(word, level) {
            assert!(word == 0 || Marker::from_word(word).is_some(), "{ipa:#x}: junk {word:#x}");
            continue;
        }
        if word & CONTIGUOUS == 0 {
            continue;
        }
        let size = G::size(level);
        let first = ipa & !(G::group_size(level) - 1);
        assert!(G::group(level) > 1 && first + G::group_size(level) <= tables.config.ipa_size());
        let head = self::word(tables, first);
        assert_eq!(tables.walker().descend(first).1, level);
        let ignored = tables.config.format.leaf_mask::<G>(level) | if alike { 0 } else { HARVEST };
        assert_eq!(head & !ignored, word & !ignored, "{ipa:#x}: members differ");
        let oa = |word| tables.config.format.leaf::<G>(word, level);
        assert_eq!(oa(head) % G::group_size(level), 0, "{first:#x}: group misaligned");
        assert_eq!(oa(word), oa(head) + (ipa - first) / size * size, "{ipa:#x}: gap");
    }
}

/// A generator of numbers that repeats exactly (xorshift64*).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }
}

/// All leaves of a range.
pub(crate) fn leaves<G: Granule, F: Frames, E: Executor>(
    tables: &Tables<G, F, E>,
    range: Range<u64>,
) -> Vec<Leaf> {
    let mut out = Vec::new();
    tables.leaves(range, |leaf| out.push(leaf)).unwrap();
    out
}
