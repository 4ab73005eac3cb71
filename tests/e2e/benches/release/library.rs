//! What can be measured on the library alone: releases that have nothing to do, and what the ledger takes.

use std::ops::Range;

use e2e::measure::trace::{Counter, by_call};
use quire::config::MemoryConfig;
use quire::memory::release::{Contract, Options, Release};
use quire::memory::{GuestRam, Ledger};
use quire::report::Map;
use vm_memory::{Bytes, GuestAddress};

const BASE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;
const BLOCK: u64 = 2 * MIB;
const PAGE: u64 = 4096;

/// A guest's memory that no guest uses.
struct Idle {
    ram: GuestRam,
    ledger: Ledger,
    release: Release,
}

impl Idle {
    fn new(size: u64) -> Self {
        let config = MemoryConfig { size, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).expect("the host has the memory");
        let ledger = Ledger::new(&ram).expect("a ledger can be kept");
        let release = Release::new(&ram, ledger.clone(), Options::default());
        Self { ram, ledger, release }
    }

    fn touch(&self, range: Range<u64>) {
        for at in range.step_by(PAGE as usize) {
            self.ram.memory().write_obj(at, GuestAddress(at)).expect("this is RAM");
        }
    }

    /// Inflates as a guest does that must tell, and waits for nothing.
    fn inflate(&self, ranges: &[Range<u64>]) {
        self.release.inflate(ranges, Contract::MustTell).expect("the ledger takes it");
        self.release.work().and_then(|()| self.release.settle()).expect("the host takes memory back");
    }

    fn ledger_bytes(&self) -> u64 {
        self.ledger.open().held()
    }
}

/// System calls that this thread makes in `work`, without those that measuring takes.
fn calls_of(work: impl FnOnce()) -> u64 {
    let counted = |work: &mut dyn FnMut()| -> u64 {
        let counter = Counter::system_calls().expect("the kernel counts system calls");
        work();
        let this = rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs();
        by_call(&counter.read().expect("the histogram can be read"), &[this.into()]).values().sum()
    };
    // Reading the histogram is a call of its own, and there may be more of them the longer it is.
    let nothing = counted(&mut || {});
    let mut work = Some(work);
    counted(&mut || {
        if let Some(work) = work.take() {
            work();
        }
    })
    .saturating_sub(nothing)
}

/// What releases cost that have nothing to do.
pub(crate) struct Idleness {
    /// System calls to release 512 MiB once more.
    pub(crate) again: u64,
    /// Batches of a report of untouched memory, the discards for them, and the scans.
    pub(crate) batches: u64,
    pub(crate) discards: u64,
    pub(crate) scans: u64,
}

/// Releases what is released, and what was never touched.
pub(crate) fn idleness() -> Idleness {
    let size = 512 * MIB;
    let all = [BASE..BASE + size];
    let idle = Idle::new(size);
    idle.touch(BASE..BASE + size);
    idle.inflate(&all);
    assert!(idle.release.counters().discarded >= size, "{:?}", idle.release.counters());
    let again = calls_of(|| idle.inflate(&all));
    let untouched = Idle::new(size);
    let before = untouched.release.counters();
    // As Linux reports: up to 32 pages of 2 MiB each in a batch.
    for batch in 0..size / (32 * BLOCK) {
        let at = BASE + batch * 32 * BLOCK;
        let pages: Vec<_> = (0..32).map(|page| at + page * BLOCK..at + (page + 1) * BLOCK).collect();
        untouched.release.report(&pages).expect("the host can say what is there");
    }
    let after = untouched.release.counters();
    Idleness {
        again,
        batches: after.batches - before.batches,
        discards: after.discard_calls - before.discard_calls,
        scans: after.scan_calls - before.scan_calls,
    }
}

/// What the host maps in folios of a block or more, and in all, after a storm of inflates and deflates of whole blocks.
pub(crate) fn after_a_storm_of_blocks() -> (u64, u64) {
    let size = 1024 * MIB;
    let idle = Idle::new(size);
    idle.touch(BASE..BASE + size);
    // A linear congruential generator: the same storm every time.
    let mut seed = 1u64;
    let mut held = vec![false; (size / BLOCK) as usize];
    for _ in 0..20 {
        let mut moved = [Vec::new(), Vec::new()];
        for (index, held) in held.iter_mut().enumerate() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if seed >> 62 == 0 {
                let at = BASE + index as u64 * BLOCK;
                moved[usize::from(*held)].push(at..at + BLOCK);
                *held = !*held;
            }
        }
        let [inflated, deflated] = moved;
        idle.inflate(&inflated);
        idle.release.deflate(&deflated).expect("the ledger takes it");
        deflated.into_iter().for_each(|block| idle.touch(block));
    }
    let map = Map::draw_up(&mut idle.ledger.open()).expect("the map can be drawn");
    let host = map.host.unwrap_or_else(|| panic!("the host's view is not known: {:?}", map.host_unknown));
    (host.sizes.range(BLOCK..).map(|(_, bytes)| bytes).sum(), host.mapped)
}

/// What the ledger of a guest takes, in bytes of heap.
pub(crate) struct LedgerSizes {
    /// Nobody has looked at it.
    pub(crate) start: u64,
    /// Every other block of 2 MiB is in the balloon.
    pub(crate) blocks: u64,
    /// Every other page of 4 KiB is in the balloon.
    pub(crate) pages: u64,
    /// The most that it ever took until then, and while all of it was looked at.
    pub(crate) most: u64,
    /// The balloon is empty again.
    pub(crate) after: u64,
}

/// The ledger of a guest of `size` bytes, after storms.
pub(crate) fn ledger(size: u64) -> LedgerSizes {
    let idle = Idle::new(size);
    let start = idle.ledger_bytes();
    let every_other = |unit: u64| -> Vec<Range<u64>> {
        (BASE..BASE + size).step_by(2 * unit as usize).map(|at| at..at + unit).collect()
    };
    idle.inflate(&every_other(BLOCK));
    let blocks = idle.ledger_bytes();
    idle.release.deflate(&every_other(BLOCK)).expect("the ledger takes it");
    idle.inflate(&every_other(PAGE));
    let pages = idle.ledger_bytes();
    let check = idle.ledger.open().check().expect("the host can say what is there");
    assert!(check.holds(), "{check:?}");
    let most = idle.ledger.open().most_held();
    idle.release.deflate(&every_other(PAGE)).expect("the ledger takes it");
    LedgerSizes { start, blocks, pages, most, after: idle.ledger_bytes() }
}
