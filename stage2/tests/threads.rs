//! Real threads: processors that mark descriptors for all they are worth, against every operation.
//!
//! Loom visits every order of a few accesses, and finds the windows that are a few instructions wide. This is the
//! opposite: whole tables that come apart and are joined while processors walk them, millions of accesses in
//! whatever order the machine makes. Each simulated processor writes down what it stored; whoever operates on the tables writes
//! down what was reported; at the end of each round nothing may be missing.
#![cfg(not(loom))]
#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, RwLock};

use stage2::{
    Access, Attributes, BbmLevel, Clear, Config, Entry, Executor, Existing, Features, Frames, G4K,
    HeapFrames, Leaf, Level, Merge, NoMmu, Options, Protection, Sequence, Tables,
};

const PAGE: u64 = 1 << 12;
const PAGES: u64 = 1024;
const ALL: Range<u64> = 0..PAGES * PAGE;
const AF: u64 = 1 << 10;
const WRITE: u64 = 1 << 7;
const DBM: u64 = 1 << 51;
const CONTIGUOUS: u64 = 1 << 52;
const ADDRESS: u64 = 0x0000_ffff_ffff_f000;

/// Frames that processors can walk while the tables are borrowed: they are never given back before the end.
#[derive(Debug)]
struct Memory(Box<[Box<[Entry]>]>);

#[derive(Debug)]
struct Pool(Arc<Memory>, u64);

impl Frames for Pool {
    fn allocate(&mut self, _: u64) -> Option<u64> {
        let frame = self.1;
        self.1 += 1;
        ((frame as usize) < self.0.0.len()).then_some(frame * PAGE)
    }

    fn free(&mut self, _: u64, _: u64) {}

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        &self.0.0[(frame / PAGE) as usize][..entries]
    }
}

/// Counts invalidations. It is locked during each access: an invalidation waits for the access under way, and
/// what was cached before it isn't used after it.
#[derive(Clone, Debug, Default)]
struct Barrier(Arc<Mutex<u64>>);

impl Executor for Barrier {
    fn execute(&self, mut sequence: Sequence<'_>) {
        // A barrier alone invalidates nothing.
        if sequence.nth(1).is_some() {
            *self.0.lock().unwrap() += 1;
        }
    }
}

/// What one processor remembers of its walks: for each page the table and index of its leaf, and whether that
/// was a member of a group.
#[derive(Debug, Default)]
struct Tlb {
    /// The invalidation since which it holds.
    since: u64,
    places: HashMap<u64, (usize, usize, bool)>,
}

/// Walks for `ipa`.
fn walk(memory: &Memory, ipa: u64) -> Option<(usize, usize, bool)> {
    let (mut frame, mut level) = (0, 1);
    loop {
        let index = (ipa >> (12 + 9 * (3 - level))) as usize & 511;
        let word = memory.0[frame][index].load(Acquire);
        if word & 1 == 0 {
            return None;
        }
        if level == 3 || word & 0b10 == 0 {
            return Some((frame, index, word & CONTIGUOUS != 0));
        }
        frame = ((word & ADDRESS) / PAGE) as usize;
        level += 1;
    }
}

/// A store: the leaf is marked, and of a group any member. Returns whether it was done, or has faulted.
fn store(memory: &Memory, tlb: &mut Tlb, ipa: u64, member: usize) -> bool {
    loop {
        let place = tlb.places.get(&ipa).copied();
        let Some(place) = place.or_else(|| walk(memory, ipa)) else { return false };
        tlb.places.insert(ipa, place);
        let (frame, index, group) = place;
        let index = if group { index & !15 | member & 15 } else { index };
        let entry = &memory.0[frame][index];
        let word = entry.load(Acquire);
        let leaf = word & 1 != 0;
        // Tables have no DBM.
        if !leaf || word & DBM == 0 {
            // Not what was cached: look again, and believe it the second time.
            tlb.places.remove(&ipa);
            match walk(memory, ipa) {
                Some((frame, index, _)) if memory.0[frame][index].load(Acquire) & DBM != 0 => continue,
                _ => return false,
            }
        }
        if word & WRITE != 0 || entry.compare_exchange(word, word | AF | WRITE, AcqRel, Relaxed).is_ok() {
            return true;
        }
    }
}

/// What processors and the owner of the tables share.
struct Machine {
    memory: Arc<Memory>,
    /// Held during each access; an invalidation waits for it.
    barrier: Barrier,
    /// Held shared by processors that run, alone by whoever counts.
    gate: RwLock<()>,
    stop: AtomicBool,
    /// Pages that were stored to since they were last counted.
    stored: Vec<AtomicBool>,
    /// Stores ever tried.
    tried: AtomicU64,
}

impl Machine {
    /// One processor: stores to every other page, in an order that its number decides.
    fn run(&self, processor: u64) {
        let mut state = processor + 1;
        let mut tlb = Tlb::default();
        while !self.stop.load(Acquire) {
            let _running = self.gate.read().unwrap();
            for _ in 0..64 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                // Most stores go to two groups, so that what is cached is used.
                let among = if state >> 62 == 0 { PAGES } else { 32 };
                let page = (state >> 33) % (among / 2) * 2 + processor;
                let access = self.barrier.0.lock().unwrap();
                if tlb.since != *access {
                    tlb = Tlb { since: *access, places: HashMap::new() };
                }
                if store(&self.memory, &mut tlb, page * PAGE, (state >> 20) as usize) {
                    self.stored[page as usize].store(true, Release);
                }
                drop(access);
            }
            self.tried.fetch_add(64, Relaxed);
        }
    }

    /// Waits until the processors have tried a few hundred more stores.
    fn let_run(&self) {
        let start = self.tried.load(Relaxed);
        while self.tried.load(Relaxed) < start + 256 {
            std::thread::yield_now();
        }
    }
}

type Live = Tables<G4K, Pool, Barrier>;

/// The owner's books: which pages it was told are dirty since it last counted.
struct Books<'a> {
    machine: &'a Machine,
    told: RefCell<Vec<bool>>,
}

impl Books<'_> {
    fn tell(&self, leaf: Leaf) {
        if leaf.dirty() {
            let range = leaf.range();
            self.told.borrow_mut()[(range.start / PAGE) as usize..(range.end / PAGE) as usize].fill(true);
        }
    }

    /// Halts the processors and collects what is still dirty: every page that was stored to must have been told
    /// by now. Then everything begins anew.
    fn count(&self, tables: &Live) {
        let halted = self.machine.gate.write().unwrap();
        let mut gather = tables.gather();
        tables.collect_dirty(ALL, &mut gather, |leaf| self.tell(leaf)).unwrap();
        tables.invalidate(&mut gather);
        let mut told = self.told.borrow_mut();
        for (page, stored) in self.machine.stored.iter().enumerate() {
            assert!(!stored.swap(false, AcqRel) || told[page], "the store to page {page} is lost");
        }
        told.fill(false);
        drop(halted);
        self.machine.let_run();
    }
}

/// Runs operations again and again while two processors store.
fn stress(bbm: BbmLevel, oa: u64, rounds: usize, operation: impl Fn(&mut Live, &Books<'_>)) {
    let options = Options { start: Some(Level::L1), bbm: Some(bbm), ..Options::new(32) };
    let config = Config::new(&Features::ALL, options).unwrap();
    let table = || (0..512).map(|_| Entry::new(0)).collect();
    let memory = Arc::new(Memory((0..8 + 8 * rounds).map(|_| table()).collect()));
    let barrier = Barrier::default();
    let mut tables = Tables::new(config, Pool(Arc::clone(&memory), 0), barrier.clone()).unwrap();
    tables.map(ALL, oa, &Attributes::RAM, Existing::Refuse).unwrap();
    let machine = Machine {
        memory,
        barrier,
        gate: RwLock::default(),
        stop: AtomicBool::new(false),
        stored: (0..PAGES).map(|_| AtomicBool::new(false)).collect(),
        tried: AtomicU64::new(0),
    };
    let books = Books { machine: &machine, told: RefCell::new(vec![false; PAGES as usize]) };

    std::thread::scope(|scope| {
        for processor in 0..2 {
            let machine = &machine;
            scope.spawn(move || machine.run(processor));
        }
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..rounds {
                books.count(&tables);
                operation(&mut tables, &books);
                tables.flush();
                books.count(&tables);
            }
        }));
        machine.stop.store(true, Release);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

const LEVELS: [BbmLevel; 4] = [BbmLevel::Level0, BbmLevel::Level1, BbmLevel::Level2, BbmLevel::Level3];

/// Where the output addresses begin: at zero everything is blocks, at one page nothing but single pages.
const OUTPUTS: [u64; 2] = [0, PAGE];

#[test]
fn clearing_and_mapping_lose_no_store() {
    for oa in OUTPUTS {
        stress(BbmLevel::Level0, oa, 60, |tables, books| {
            tables.get_and_clear(ALL, Clear::default(), |leaf| books.tell(leaf)).unwrap();
            tables.map(ALL, oa, &Attributes::RAM, Existing::Refuse).unwrap();
            books.count(tables);
            tables.get_and_clear(5 * PAGE..100 * PAGE, Clear::default(), |leaf| books.tell(leaf)).unwrap();
            tables.map(5 * PAGE..100 * PAGE, oa + 5 * PAGE, &Attributes::RAM, Existing::Refuse).unwrap();
        });
    }
}

#[test]
fn protecting_and_collecting_lose_no_store() {
    for oa in OUTPUTS {
        stress(BbmLevel::Level0, oa, 60, |tables, books| {
            let mut gather = tables.gather();
            tables.age(ALL, &mut gather, |_| {}).unwrap();
            tables.collect_dirty(ALL, &mut gather, |leaf| books.tell(leaf)).unwrap();
            tables.invalidate(&mut gather);
            books.count(tables);
            tables.write_protect(ALL, |_| {}).unwrap();
            tables.flush();
            books.count(tables);
            tables.protect(ALL, Protection { write: Some(true), ..Protection::default() }).unwrap();
        });
    }
}

#[test]
fn conversions_lose_no_store() {
    for bbm in LEVELS {
        for merge in [Merge::Union, Merge::Harvest] {
            stress(bbm, 0, 10, |tables, books| {
                // Dirty is handed over by a harvest only; otherwise it is still there.
                let hand_over = |leaf: Leaf| {
                    if merge == Merge::Harvest {
                        books.tell(leaf);
                    }
                };
                tables.split(ALL, Level::L3).unwrap();
                books.count(tables);
                tables.unfold(ALL).unwrap();
                books.count(tables);
                for group in (0..PAGES).step_by(16) {
                    tables.fold(group * PAGE, Level::L3, merge, hand_over).unwrap();
                }
                books.count(tables);
                let done = tables.optimise(ALL, merge, hand_over).unwrap();
                assert_eq!(done.collapsed, 2);
            });
        }
    }
}

/// The tables that nobody walks are plain data: shared references to them may go to any thread.
#[test]
fn the_fault_side_of_tables_is_shared() {
    let config = Config::<G4K>::passive(32).unwrap();
    let mut tables = Tables::new(config, HeapFrames::<G4K>::new(), NoMmu).unwrap();
    tables.map(ALL, 0, &Attributes::RAM.old(), Existing::Refuse).unwrap();
    tables.split(ALL, Level::L3).unwrap();
    tables.unfold(ALL).unwrap();
    let counts = std::thread::scope(|scope| {
        let marker = scope.spawn(|| {
            let mut gather = tables.gather();
            let fault = |page| tables.set_access_flags(page * PAGE, Access::Write, &mut gather).unwrap();
            (0..PAGES).map(fault).filter(|&changed| changed).count()
        });
        let count = || {
            let mut count = 0;
            for _ in 0..50 {
                let mut gather = tables.gather();
                tables.collect_dirty(ALL, &mut gather, |leaf| count += usize::from(leaf.dirty())).unwrap();
            }
            count
        };
        let other = scope.spawn(count);
        let told = count() + other.join().unwrap();
        (marker.join().unwrap(), told)
    });
    let mut left = 0;
    tables.leaves(ALL, |leaf| left += usize::from(leaf.dirty())).unwrap();
    // Each page was made dirty once, and is told once or still dirty.
    let (changed, told) = counts;
    assert_eq!((changed, told + left), (PAGES as usize, PAGES as usize));
}
