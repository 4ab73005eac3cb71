//! Every interleaving: operations against a processor that marks descriptors at any instant, and against each
//! other.
//!
//! ```text
//! RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target/loom cargo test -p stage2 --test loom
//! ```
//!
//! Under `--cfg loom` the crate's entries are loom's atomics. Loom runs each test again and again, once for
//! every order in which the threads' accesses to entries can meet, with two preemptions at most
//! (`LOOM_MAX_PREEMPTIONS` changes that).
//!
//! The tables are as small as tables get: with 34 bits of input address and start level 1 there are sixteen
//! entries of 1 GiB, which are one contiguous group, or sixteen blocks. Pages need three levels: their tests look
//! at one page.
#![cfg(loom)]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::ops::Range;

use loom::sync::atomic::Ordering::{AcqRel, Acquire, Release};
use loom::sync::{Arc, Mutex};
use loom::thread;
use stage2::{
    Access, Attributes, BbmLevel, Clear, Config, Entry, Executor, Existing, Features, Frames, G4K, Gather,
    Harvest, Leaf, Level, Merge, Options, Protection, Sequence, Tables,
};

const AF: u64 = 1 << 10;
const WRITE: u64 = 1 << 7;
const SOFT_DIRTY: u64 = 1 << 55;
const DBM: u64 = 1 << 51;
const VALID: u64 = 1;

const BLOCK: Range<u64> = 0..1 << 30;
const GROUP: Range<u64> = 0..16 << 30;
const PAGE: Range<u64> = 0..1 << 12;

/// Frames that a processor can look at while the tables are borrowed: as many entries as are ever asked for.
#[derive(Clone, Debug, Default)]
struct Memory(std::sync::Arc<Vec<Vec<Entry>>>, usize);

impl Memory {
    /// Room for a start level of 16 entries and `tables` tables below it.
    fn new(tables: usize) -> Self {
        let sizes = std::iter::once(16).chain(std::iter::repeat_n(512, tables));
        Self(std::sync::Arc::new(sizes.map(|size| (0..size).map(|_| Entry::new(0)).collect()).collect()), 0)
    }
}

impl Frames for Memory {
    fn allocate(&mut self, _: u64) -> Option<u64> {
        // Loom starts each run with fresh, zeroed entries, and no test uses a frame twice.
        let frame = self.1;
        self.1 += 1;
        (frame < self.0.len()).then_some((frame as u64) << 12)
    }

    fn free(&mut self, _: u64, _: u64) {}

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        &self.0[(frame >> 12) as usize][..entries]
    }
}

/// What a processor holds in its TLB: whether it still knows the leaf as it was at first. An invalidation waits
/// for the access under way, and ends that.
#[derive(Clone, Debug)]
struct Tlb(Arc<Mutex<bool>>);

impl Executor for Tlb {
    fn execute(&self, mut sequence: Sequence<'_>) {
        // A barrier alone is no invalidation.
        if sequence.nth(1).is_some() {
            *self.0.lock().unwrap() = false;
        }
    }
}

type Live = Tables<G4K, Memory, Tlb>;

/// Tables, and what the processor that walks them needs.
fn tables(range: Range<u64>, attributes: &Attributes, bbm: BbmLevel) -> (Live, Processor) {
    let options = Options { start: Some(Level::L1), bbm: Some(bbm), ..Options::new(34) };
    let config = Config::new(&Features::ALL, options).unwrap();
    let memory = Memory::new(if range.end < BLOCK.end { 2 } else { 0 });
    let tlb = Tlb(Arc::new(Mutex::new(true)));
    let mut tables = Tables::new(config, memory.clone(), tlb.clone()).unwrap();
    tables.map(range.clone(), 0, attributes, Existing::Refuse).unwrap();
    let mut frame = 0;
    if range.end < BLOCK.end {
        // Down two tables, whose frames come in whatever order.
        for _ in 0..2 {
            frame = (memory.0[frame][0].load(Acquire) >> 12) as usize;
        }
    }
    (tables, Processor { memory, tlb, frame })
}

/// A processor that accesses the leaf.
#[derive(Clone, Debug)]
struct Processor {
    memory: Memory,
    tlb: Tlb,
    frame: usize,
}

impl Processor {
    fn entry(&self, index: usize) -> &Entry {
        &self.memory.0[self.frame][index]
    }

    fn word(&self, index: usize) -> u64 {
        self.entry(index).load(Acquire)
    }

    /// A store to the block at `index`. While the TLB holds the whole group as one entry, hardware marks member
    /// `cached` on its behalf. Returns whether the store was done: if not, it has faulted.
    fn store(&self, index: usize, cached: usize) -> bool {
        let known = self.tlb.0.lock().unwrap();
        let entry = self.entry(if *known { cached } else { index });
        mark(entry, AF | WRITE)
    }

    /// A load.
    fn load(&self, index: usize) -> bool {
        mark(self.entry(index), AF)
    }
}

/// The atomic update of a descriptor by hardware; false where it has become invalid or read-only.
fn mark(entry: &Entry, bits: u64) -> bool {
    let mut word = entry.load(Acquire);
    loop {
        if word & VALID == 0 || bits & WRITE != 0 && word & DBM == 0 {
            return false;
        }
        if word & bits == bits {
            return true;
        }
        match entry.compare_exchange(word, word | bits, AcqRel, Acquire) {
            Ok(_) => return true,
            Err(now) => word = now,
        }
    }
}

/// Loom lets a relaxed load see any value that the entry may have had, so two threads that write all sixteen
/// members have more outcomes than can be visited: the tests leave one or two members to write.
fn explore(test: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(2));
    builder.max_branches = 100_000;
    builder.check(test);
}

fn dirty(word: u64) -> bool {
    word & (WRITE | SOFT_DIRTY) != 0
}

/// One collection; how many leaves it reported.
fn collect(tables: &Live, range: Range<u64>) -> usize {
    let mut gather = tables.gather();
    let mut count = 0;
    tables.collect_dirty(range, &mut gather, |leaf: Leaf| count += usize::from(leaf.dirty())).unwrap();
    gather.clear();
    count
}

/// One ageing; how many leaves it reported.
fn age(tables: &Live, range: Range<u64>) -> usize {
    let mut gather = tables.gather();
    let mut count = 0;
    tables.age(range, &mut gather, |leaf: Leaf| count += usize::from(leaf.young())).unwrap();
    gather.clear();
    count
}

fn members(range: &Range<u64>) -> usize {
    if *range == GROUP { 16 } else { 1 }
}

/// Collects against a store: reported, or dirty afterwards, and not both.
fn collect_against_store(range: Range<u64>, member: usize) {
    explore(move || {
        let (tables, cpu) = tables(range.clone(), &Attributes::RAM, BbmLevel::Level0);
        let store = thread::spawn({
            let cpu = cpu.clone();
            move || assert!(cpu.store(0, member))
        });
        let told = collect(&tables, range.clone());
        store.join().unwrap();
        let left = (0..members(&range)).filter(|&index| dirty(cpu.word(index))).count();
        assert_eq!(told + left, 1, "lost or counted twice");
    });
}

#[test]
fn a_store_to_a_page_is_collected_exactly_once() {
    collect_against_store(PAGE, 0);
}

#[test]
fn a_store_to_a_block_is_collected_exactly_once() {
    collect_against_store(BLOCK, 0);
}

#[test]
fn a_store_to_a_group_is_collected_exactly_once() {
    for member in [0, 7, 15] {
        collect_against_store(GROUP, member);
    }
}

#[test]
fn two_collectors_share_one_dirty_bit() {
    for (range, marked) in [(BLOCK, 0), (GROUP, 0), (GROUP, 9)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM, BbmLevel::Level0);
            assert!(cpu.store(0, marked));
            let tables = Arc::new(tables);
            let other = thread::spawn({
                let (tables, range) = (Arc::clone(&tables), range.clone());
                move || collect(&tables, range)
            });
            let told = collect(&tables, range.clone()) + other.join().unwrap();
            assert_eq!(told, 1, "lost or counted twice");
            assert!((0..members(&range)).all(|index| !dirty(cpu.word(index))));
        });
    }
}

#[test]
fn two_collectors_and_a_store_lose_nothing() {
    for (range, member) in [(BLOCK, 0), (GROUP, 9)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM, BbmLevel::Level0);
            assert!(cpu.store(0, 3.min(members(&range) - 1)));
            let tables = Arc::new(tables);
            let other = thread::spawn({
                let (tables, range) = (Arc::clone(&tables), range.clone());
                move || collect(&tables, range)
            });
            let store = thread::spawn({
                let cpu = cpu.clone();
                move || assert!(cpu.store(0, member))
            });
            let told = collect(&tables, range.clone()) + other.join().unwrap();
            store.join().unwrap();
            let left = (0..members(&range)).filter(|&index| dirty(cpu.word(index))).count();
            // Two marks at most were made; where the second fell on the first they are one.
            assert!((1..=2).contains(&(told + left)), "{told} told, {left} left");
        });
    }
}

#[test]
fn ageing_reports_each_access_exactly_once() {
    for (range, member) in [(PAGE, 0), (BLOCK, 0), (GROUP, 0), (GROUP, 15)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM.old(), BbmLevel::Level0);
            let load = thread::spawn({
                let cpu = cpu.clone();
                move || assert!(cpu.load(member))
            });
            let told = age(&tables, range.clone());
            load.join().unwrap();
            let left = (0..members(&range)).filter(|&index| cpu.word(index) & AF != 0).count();
            assert_eq!(told + left, 1, "lost or counted twice");
        });
    }
}

#[test]
fn ageing_leaves_a_store_dirty() {
    for (range, member) in [(BLOCK, 0), (GROUP, 0), (GROUP, 15)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM, BbmLevel::Level0);
            let store = thread::spawn({
                let cpu = cpu.clone();
                move || assert!(cpu.store(0, member))
            });
            age(&tables, range.clone());
            store.join().unwrap();
            assert!(dirty(cpu.word(member)), "ageing lost a store");
        });
    }
}

#[test]
fn ageing_and_collecting_dont_disturb_each_other() {
    for (range, young, written) in [(BLOCK, 0, 0), (GROUP, 3, 9), (GROUP, 9, 3)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM.old(), BbmLevel::Level0);
            assert!(cpu.load(young));
            assert!(cpu.store(written, written));
            let tables = Arc::new(tables);
            let other = thread::spawn({
                let (tables, range) = (Arc::clone(&tables), range.clone());
                move || age(&tables, range)
            });
            assert_eq!(collect(&tables, range.clone()), 1);
            assert_eq!(other.join().unwrap(), 1);
            assert!((0..members(&range)).all(|index| cpu.word(index) & (AF | WRITE) == 0));
        });
    }
}

/// Without hardware dirty state: a fault makes the leaf dirty, the store follows, a collector is at work.
#[test]
fn a_store_that_faulted_is_collected_or_left() {
    for (range, index) in [(PAGE, 0), (BLOCK, 0), (GROUP, 0), (GROUP, 15)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM.old(), BbmLevel::Level0);
            let tables = Arc::new(tables);
            let store = thread::spawn({
                let (tables, cpu) = (Arc::clone(&tables), cpu.clone());
                move || {
                    let mut gather = tables.gather();
                    let ipa = (index as u64) << 30;
                    tables.set_access_flags(ipa, Access::Write, &mut gather).unwrap();
                    gather.clear();
                    // The store is repeated; if it was collected meanwhile, it faults again.
                    cpu.word(index) & WRITE != 0
                }
            });
            let told = collect(&tables, range.clone());
            let stored = store.join().unwrap();
            let left = (0..members(&range)).any(|index| dirty(cpu.word(index)));
            assert!(!stored || told == 1 || left, "a store went unseen");
        });
    }
}

/// A fault on a load sets the access flag and nothing else, whatever hardware does meanwhile.
#[test]
fn a_fault_on_a_load_leaves_a_store_dirty() {
    for (range, old, written) in [(PAGE, 0, 0), (BLOCK, 0, 0), (GROUP, 5, 5), (GROUP, 5, 9)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM, BbmLevel::Level0);
            cpu.entry(old).fetch_and(!AF, AcqRel);
            let store = thread::spawn({
                let cpu = cpu.clone();
                move || assert!(cpu.store(written, written))
            });
            let mut gather = tables.gather();
            tables.set_access_flags(0, Access::Read, &mut gather).unwrap();
            gather.clear();
            store.join().unwrap();
            assert!(dirty(cpu.word(written)), "a fault lost a store");
            assert!((0..members(&range)).all(|index| cpu.word(index) & AF != 0));
        });
    }
}

#[test]
fn two_faults_and_hardware_agree() {
    for (range, old, clean) in [(BLOCK, 0, 0), (GROUP, 3, 9), (GROUP, 9, 9)] {
        explore(move || {
            let (tables, cpu) = tables(range.clone(), &Attributes::RAM.dirty(), BbmLevel::Level0);
            cpu.entry(old).fetch_and(!AF, AcqRel);
            cpu.entry(clean).fetch_and(!WRITE, AcqRel);
            let tables = Arc::new(tables);
            let fault = |tables: &Live| {
                let mut gather = tables.gather();
                let changed = tables.set_access_flags(0, Access::Write, &mut gather).unwrap();
                gather.clear();
                changed
            };
            let other = thread::spawn({
                let tables = Arc::clone(&tables);
                move || fault(&tables)
            });
            let store = thread::spawn({
                let cpu = cpu.clone();
                move || assert!(cpu.store(clean, clean))
            });
            fault(&tables);
            other.join().unwrap();
            store.join().unwrap();
            assert!((0..members(&range)).all(|index| cpu.word(index) & (AF | WRITE) == AF | WRITE));
        });
    }
}

/// Runs a structural operation against a store to the block or member `page`, which hardware marks on
/// `cached` while it holds the old translation. Whatever was stored must be told, or be dirty afterwards.
fn structural(
    range: Range<u64>,
    bbm: BbmLevel,
    (page, cached): (usize, usize),
    operation: impl Fn(&mut Live, Range<u64>) -> bool + Send + Sync + 'static,
) {
    explore(move || {
        let (mut tables, cpu) = tables(range.clone(), &Attributes::RAM, bbm);
        let store = thread::spawn({
            let cpu = cpu.clone();
            move || cpu.store(page, cached)
        });
        let told = operation(&mut tables, range.clone());
        let stored = store.join().unwrap();
        let mut left = dirty(cpu.word(page));
        // Where the leaf is still a group, any member speaks for all.
        if cpu.word(page) & 1 << 52 != 0 {
            left = (0..16).any(|index| dirty(cpu.word(index)));
        }
        assert!(!stored || told || left, "a store was lost");
        assert!(stored || !left, "dirty was made up");
    });
}

#[test]
fn clearing_reports_every_store() {
    let clear = |tables: &mut Live, range| {
        let harvest: Harvest = tables.get_and_clear(range, Clear::default(), |_| {}).unwrap();
        tables.flush();
        harvest.dirty
    };
    structural(PAGE, BbmLevel::Level0, (0, 0), clear);
    structural(BLOCK, BbmLevel::Level0, (0, 0), clear);
    for cached in [0, 7, 15] {
        structural(GROUP, BbmLevel::Level0, (7, cached), clear);
    }
}

#[test]
fn protecting_keeps_every_store() {
    let protect = |tables: &mut Live, range| {
        tables.protect(range, Protection { write: Some(false), ..Protection::default() }).unwrap();
        tables.flush();
        false
    };
    let write_protect = |tables: &mut Live, range| {
        tables.write_protect(range, |_| {}).unwrap();
        tables.flush();
        false
    };
    structural(BLOCK, BbmLevel::Level0, (0, 0), protect);
    structural(BLOCK, BbmLevel::Level0, (0, 0), write_protect);
    for cached in [0, 7, 15] {
        structural(GROUP, BbmLevel::Level0, (7, cached), protect);
        structural(GROUP, BbmLevel::Level0, (7, cached), write_protect);
    }
}

#[test]
fn unfolding_keeps_every_store() {
    let unfold = |tables: &mut Live, range| {
        tables.unfold(range).unwrap();
        false
    };
    for bbm in [BbmLevel::Level0, BbmLevel::Level3] {
        for cached in [0, 7, 15] {
            structural(GROUP, bbm, (7, cached), unfold);
        }
    }
}

#[test]
fn folding_keeps_or_reports_every_store() {
    for bbm in [BbmLevel::Level0, BbmLevel::Level3] {
        for merge in [Merge::Uniform, Merge::Union, Merge::Harvest] {
            structural(GROUP, bbm, (7, 7), move |tables, range| {
                // The processor knows the blocks one by one.
                let mut told = false;
                tables.unfold(range.clone()).unwrap();
                *tables.executor().0.lock().unwrap() = true;
                let _ = tables
                    .fold(range.start, Level::L1, merge, |leaf| told |= leaf.ipa == 7 << 30 && leaf.dirty());
                told
            });
        }
    }
}

/// A gather is plain data: dropping it unexecuted is the caller's business, and these tests say so.
#[test]
fn a_gather_of_the_fault_side_names_what_it_changed() {
    explore(|| {
        let (tables, cpu) = tables(GROUP, &Attributes::RAM, BbmLevel::Level0);
        assert!(cpu.store(0, 5));
        let mut gather: Gather = tables.gather();
        tables.collect_dirty(GROUP, &mut gather, |_| {}).unwrap();
        assert!(gather.overlaps(&GROUP));
        tables.invalidate(&mut gather);
        assert!(!*cpu.tlb.0.lock().unwrap());
    });
}

/// The tests, tested: a collector that loads and stores instead of exchanging is found out.
#[test]
#[should_panic(expected = "lost or counted twice")]
fn caught_a_collector_that_stores() {
    explore(|| {
        let (tables, cpu) = tables(BLOCK, &Attributes::RAM, BbmLevel::Level0);
        let store = thread::spawn({
            let cpu = cpu.clone();
            move || assert!(cpu.store(0, 0))
        });
        let word = cpu.word(0);
        cpu.entry(0).store(word & !WRITE, Release);
        store.join().unwrap();
        let left = usize::from(dirty(cpu.word(0)));
        assert_eq!(usize::from(dirty(word)) + left, 1, "lost or counted twice");
        drop(tables);
    });
}
