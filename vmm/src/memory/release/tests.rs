//! The release on real memory, against what the guest wrote.

use std::sync::Mutex as StdMutex;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{Backing, MemoryConfig};

const BASE: u64 = 1 << 30;
/// Pages of the guest. A page is one of the host's: what is less can't be given back.
const PAGES: u64 = 1024;

fn page_size() -> u64 {
    rustix::param::page_size() as u64
}

/// Sixteen pages: a block, or the unit of a host with larger pages than this one has.
fn sixteen() -> u64 {
    16 * page_size()
}

struct Rig {
    ram: GuestRam,
    release: Release,
}

fn rig(backing: Backing, block: u64, unit: Option<u64>) -> Rig {
    let config = MemoryConfig { size: PAGES * page_size(), backing, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let ledger = Ledger::new(&ram).unwrap();
    let discard = Discard::new(&ram);
    let unit = unit.unwrap_or(discard.unit());
    let options = Options { block: Some(block), repopulate: false };
    let release = Release::with(&ram, ledger, options, discard, unit);
    Rig { ram, release }
}

impl Rig {
    fn write(&self, page: u64, byte: u8) {
        self.ram
            .memory()
            .write_slice(&vec![byte; page_size() as usize], GuestAddress(BASE + page * page_size()))
            .unwrap();
    }

    fn reads(&self, page: u64, byte: u8) -> bool {
        let mut bytes = vec![0; page_size() as usize];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(BASE + page * page_size())).unwrap();
        bytes.iter().all(|&found| found == byte)
    }

    /// Every page holds a byte of its own.
    fn fill(&self) {
        (0..PAGES).for_each(|page| self.write(page, page as u8 | 1));
    }

    fn state(&self, page: u64) -> State {
        let mut states = Vec::new();
        let range = pages(page, 1);
        self.release.ledger().open().stretches(range, |stretch| states.push(stretch.state)).unwrap();
        assert_eq!(states.len(), 1);
        states[0]
    }

    fn check(&self) -> ledger::Check {
        self.release.ledger().open().check().unwrap()
    }
}

fn pages(first: u64, count: u64) -> Range<u64> {
    BASE + first * page_size()..BASE + (first + count) * page_size()
}

fn one(first: u64, count: u64) -> [Range<u64>; 1] {
    [pages(first, count)]
}

const BACKINGS: [Backing; 2] = [Backing::Anon, Backing::Memfd];

#[test]
fn without_a_promise_all_is_done_when_inflate_returns() {
    for backing in BACKINGS {
        let rig = rig(backing, sixteen(), None);
        rig.fill();
        rig.release.inflate(&one(16, 16), Contract::Free).unwrap();
        assert!((16..32).all(|page| rig.reads(page, 0)));
        assert!(rig.reads(15, 15) && rig.reads(32, 33));
        assert_eq!(rig.state(20), State::Vacant);
        assert_eq!(rig.state(32), State::FOUND);
        assert!(!rig.release.has_partial());
        assert_eq!(rig.release.counters().discarded, 16 * page_size());
        assert!(rig.check().holds());
    }
}

#[test]
fn with_a_promise_whole_blocks_are_discarded_after_the_acknowledgement() {
    for backing in BACKINGS {
        let rig = rig(backing, sixteen(), None);
        rig.fill();
        rig.release.inflate(&one(0, 12), Contract::MustTell).unwrap();
        rig.release.inflate(&one(12, 8), Contract::MustTell).unwrap();
        assert!(rig.reads(0, 1), "only noted");
        assert!(rig.release.has_partial());
        rig.release.settle().unwrap();
        assert!((0..20).all(|page| rig.reads(page, 0)));
        assert_eq!((rig.state(0), rig.state(19)), (State::Released, State::Released));
        let counters = rig.release.counters();
        assert_eq!((counters.whole_blocks, counters.partial_blocks, counters.carried), (1, 1, 0));
        assert!(rig.check().holds());
    }
}

#[test]
fn how_long_a_descriptor_took_is_counted_while_a_discard_goes_on() {
    let rig = rig(Backing::Anon, sixteen(), None);
    let working = lock(&rig.release.state);
    rig.release.acknowledged(Duration::from_nanos(5000));
    drop(working);
    let acknowledge = rig.release.counters().latency.acknowledge;
    assert_eq!((acknowledge.count, acknowledge.total_ns), (1, 5000));
}

/// Sub-page state that crosses descriptors (QEMU, virtio-balloon's partially ballooned pages): inflate 15 of 16, deflate
/// one and write to it, inflate the last.
#[test]
fn must_pass_1_what_is_written_between_two_inflates_survives() {
    for contract in [Contract::Free, Contract::MustTell] {
        for backing in BACKINGS {
            let rig = rig(backing, sixteen(), Some(sixteen()));
            rig.fill();
            rig.release.inflate(&one(0, 15), contract).unwrap();
            rig.release.deflate(&one(3, 1)).unwrap();
            rig.write(3, 0x77);
            rig.release.inflate(&one(15, 1), contract).unwrap();
            rig.release.settle().unwrap();
            assert!(rig.reads(3, 0x77), "{contract:?}");
            assert!(rig.reads(2, 3), "not a whole unit: nothing may go");
            // And with it, all goes.
            rig.release.inflate(&one(3, 1), contract).unwrap();
            rig.release.settle().unwrap();
            let gone = contract == Contract::MustTell;
            assert!(
                (0..16).all(|page| rig.reads(page, 0) == gone),
                "what a free driver said before is forgotten"
            );
            assert!(rig.check().holds());
        }
    }
}

/// madvise rounds its length up to host pages: a single 4K page frame on a host with larger ones must not take its
/// neighbours along.
#[test]
fn must_pass_3_one_frame_of_a_large_host_page_takes_no_neighbours_along() {
    for contract in [Contract::Free, Contract::MustTell] {
        let rig = rig(Backing::Anon, sixteen(), Some(sixteen()));
        rig.fill();
        rig.release.inflate(&one(5, 1), contract).unwrap();
        rig.release.report(&one(33, 14)).unwrap();
        rig.release.settle().unwrap();
        assert!((0..64).all(|page| rig.reads(page, page as u8 | 1)));
    }
}

#[test]
fn releasing_what_is_released_makes_no_system_call() {
    let rig = rig(Backing::Anon, sixteen(), None);
    rig.fill();
    rig.release.inflate(&one(0, 32), Contract::MustTell).unwrap();
    rig.release.settle().unwrap();
    let before = rig.release.counters();
    rig.release.inflate(&one(0, 32), Contract::MustTell).unwrap();
    rig.release.settle().unwrap();
    rig.release.report(&one(0, 32)).unwrap();
    let after = rig.release.counters();
    assert_eq!((after.scan_calls, after.discard_calls), (before.scan_calls, before.discard_calls));
    assert_eq!(after.skipped, before.skipped + 32 * page_size());
}

#[test]
fn what_was_never_touched_is_scanned_once_and_not_discarded() {
    let rig = rig(Backing::Anon, sixteen(), None);
    let ranges: Vec<_> = (0..8).map(|n| pages(n * 32, 16)).collect();
    rig.release.report(&ranges).unwrap();
    let counters = rig.release.counters();
    assert_eq!((counters.scan_calls, counters.discard_calls), (1, 0));
    assert_eq!((counters.discarded, counters.skipped), (0, 8 * 16 * page_size()));
}

#[test]
fn a_report_says_what_truly_reads_as_zero() {
    let rig = rig(Backing::Memfd, sixteen(), Some(sixteen()));
    rig.fill();
    // One and a half units, and a range that is no memory.
    let ranges = [pages(0, 24), 0..sixteen(), pages(PAGES - 16, 400)];
    assert_eq!(rig.release.report(&ranges).unwrap(), 2 * sixteen());
    assert!((0..16).all(|page| rig.reads(page, 0)) && rig.reads(16, 17));
    assert!((PAGES - 16..PAGES).all(|page| rig.reads(page, 0)));
    let named = (24 + 400) * page_size() + sixteen();
    assert_eq!(rig.release.counters().refused, named - 2 * sixteen());
}

#[test]
fn hostile_ranges_are_counted_and_nothing_else() {
    let rig = rig(Backing::Memfd, 512 * page_size(), None);
    rig.fill();
    let ranges = [
        0..u64::MAX,
        u64::MAX - 1..u64::MAX,
        BASE + PAGES * page_size()..BASE + 2 * PAGES * page_size(),
        BASE + 8 * page_size()..BASE,
    ];
    rig.release.inflate(&ranges[1..], Contract::Free).unwrap();
    rig.release.inflate(&ranges[1..], Contract::MustTell).unwrap();
    rig.release.deflate(&ranges[1..]).unwrap();
    rig.release.hint(&ranges[1..]).unwrap();
    rig.release.settle().unwrap();
    assert!((0..PAGES).all(|page| rig.reads(page, page as u8 | 1)));
    assert!(rig.release.counters().refused > 0);
    // All of memory, and more.
    rig.release.report(&ranges[..1]).unwrap();
    assert!((0..PAGES).all(|page| rig.reads(page, 0)));
}

#[test]
fn a_reset_gives_the_guest_back_what_waits() {
    let rig = rig(Backing::Anon, sixteen(), None);
    rig.fill();
    rig.release.inflate(&one(0, 16), Contract::MustTell).unwrap();
    rig.release.settle().unwrap();
    rig.release.inflate(&one(16, 17), Contract::MustTell).unwrap();
    rig.release.forget();
    rig.release.settle().unwrap();
    assert!((16..33).all(|page| rig.reads(page, page as u8 | 1)), "no discard after the reset");
    assert_eq!(rig.state(0), State::Vacant, "the guest may use it without a word");
    rig.write(0, 9);
    assert!(rig.check().holds());
}

/// What an observer was told of one batch.
type Told = (Reason, Vec<Range<u64>>, Vec<Taken>);

/// Writes down what it is told.
#[derive(Debug, Default, Clone)]
struct Log(std::sync::Arc<StdMutex<Vec<Told>>>);

impl Observer for Log {
    fn released(&mut self, released: &Released<'_>) {
        let entry = (released.reason, released.ranges.to_vec(), released.leaves.to_vec());
        self.0.lock().unwrap().push(entry);
    }
}

#[test]
fn observers_are_told_what_was_dirty_exactly_once() {
    let rig = rig(Backing::Anon, sixteen(), None);
    let log = Log::default();
    rig.release.observe(Box::new(log.clone()));
    rig.fill();
    {
        // A dirty log is on: all was collected, and page 5 was written since.
        let ledger = rig.release.ledger().clone();
        let mut books = ledger.open();
        let all = [pages(0, PAGES)];
        books.refresh(&all).unwrap();
        books.collect_dirty(all[0].clone(), |_| {}).unwrap();
        books.mark_dirty(pages(5, 1)).unwrap();
    }
    rig.release.report(&one(0, 16)).unwrap();
    rig.release.report(&one(0, 16)).unwrap();
    let told = std::mem::take(&mut *log.0.lock().unwrap());
    let dirty: Vec<_> = told
        .iter()
        .flat_map(|(_, _, leaves)| leaves)
        .filter(|leaf| leaf.dirty)
        .map(|leaf| leaf.range.clone())
        .collect();
    assert_eq!(dirty, [pages(5, 1)]);
    let clean: u64 =
        told.iter().flat_map(|(_, _, leaves)| leaves).map(|leaf| leaf.range.end - leaf.range.start).sum();
    assert_eq!(clean, 16 * page_size());
    assert!(told.iter().all(|(reason, ranges, _)| *reason == Reason::Report && *ranges == [pages(0, 16)]));
    assert_eq!(rig.release.counters().dirty, page_size());
}

#[test]
fn a_block_that_was_deflated_whole_comes_back_whole() {
    let mut rig = rig(Backing::Anon, sixteen(), None);
    rig.release.repopulate = true;
    rig.fill();
    rig.release.inflate(&one(0, 32), Contract::MustTell).unwrap();
    rig.release.settle().unwrap();
    rig.release.deflate(&one(0, 15)).unwrap();
    assert_eq!(rig.release.counters().repopulated, 0);
    rig.release.deflate(&one(15, 1)).unwrap();
    let counters = rig.release.counters();
    assert_eq!(counters.repopulated, sixteen());
    assert!(counters.populate_calls > 0);
    assert_eq!(rig.state(7), State::FOUND);
    assert!((0..16).all(|page| rig.reads(page, 0)));
    assert_eq!(rig.state(16), State::Released);
    assert!(rig.check().holds());
}

/// What a driver may do, page by page.
#[derive(Clone, Debug)]
enum Step {
    Inflate(u64, u64),
    Deflate(u64, u64),
    Report(u64, u64),
    Write(u64, u8),
    Work,
    Settle,
    Forget,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = PAGES;
    let range = (0..pages, prop_oneof![Just(1u64), Just(15), Just(16), Just(17), Just(100), Just(512)]);
    let step = prop_oneof![
        4 => range.clone().prop_map(move |(at, n)| Step::Inflate(at, n.min(pages - at))),
        3 => range.clone().prop_map(move |(at, n)| Step::Deflate(at, n.min(pages - at))),
        2 => range.prop_map(move |(at, n)| Step::Report(at, n.min(pages - at))),
        6 => (0..pages, 1u8..).prop_map(|(at, byte)| Step::Write(at, byte)),
        1 => Just(Step::Work),
        1 => Just(Step::Settle),
        1 => Just(Step::Forget),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// An honest driver, whatever it does, never loses a byte, and never sees an old one come back.
    #[test]
    fn an_honest_driver_loses_nothing(
        steps in steps(),
        must_tell in any::<bool>(),
        memfd in any::<bool>(),
        large in any::<bool>(),
    ) {
        let backing = if memfd { Backing::Memfd } else { Backing::Anon };
        let rig = rig(backing, if large { 512 * page_size() } else { sixteen() }, large.then_some(sixteen()));
        let contract = if must_tell { Contract::MustTell } else { Contract::Free };
        let count = (PAGES) as usize;
        // What each page holds, where that is certain, and which the balloon has.
        let mut content: Vec<Option<u8>> = vec![Some(0); count];
        let mut held = vec![false; count];
        for step in steps {
            match step {
                Step::Inflate(at, n) => {
                    // A driver puts in what it has.
                    let own: Vec<_> = (at..at + n).filter(|&page| !held[page as usize]).collect();
                    let ranges: Vec<_> = own.iter().map(|&page| pages(page, 1)).collect();
                    rig.release.inflate(&ranges, contract).unwrap();
                    for page in own {
                        held[page as usize] = true;
                        content[page as usize] = None;
                    }
                }
                Step::Deflate(at, n) => {
                    let own: Vec<_> = (at..at + n).filter(|&page| held[page as usize]).collect();
                    let ranges: Vec<_> = own.iter().map(|&page| pages(page, 1)).collect();
                    rig.release.deflate(&ranges).unwrap();
                    own.into_iter().for_each(|page| held[page as usize] = false);
                }
                Step::Report(at, n) => {
                    // Free pages are not the balloon's.
                    let free = (at..at + n).filter(|&page| !held[page as usize]);
                    for page in free {
                        let cleared = rig.release.report(&one(page, 1)).unwrap();
                        if cleared == page_size() {
                            content[page as usize] = Some(0);
                        }
                    }
                }
                Step::Write(page, byte) => {
                    if !held[page as usize] {
                        rig.write(page, byte);
                        content[page as usize] = Some(byte);
                    }
                }
                Step::Work => rig.release.work().unwrap(),
                Step::Settle => {
                    rig.release.settle().unwrap();
                    prop_assert!(!rig.release.has_partial());
                }
                Step::Forget => {
                    rig.release.forget();
                    held.fill(false);
                }
            }
            let check = rig.check();
            prop_assert!(check.holds(), "{:?}", check);
        }
        for (page, known) in content.iter().enumerate() {
            if let (Some(byte), false) = (known, held[page]) {
                prop_assert!(rig.reads(page as u64, *byte), "page {} lost {}", page, byte);
            }
        }
        let summary = rig.release.ledger().open().summary().unwrap();
        let sum = summary.populated + summary.released + summary.vacant + summary.absent;
        prop_assert_eq!(sum, PAGES * page_size());
        prop_assert_eq!(summary.leaves.values().sum::<u64>(), summary.populated);
    }
}

#[test]
fn a_driver_that_must_tell_waits_for_nobody_and_nothing_of_it_is_forgotten() {
    let rig = rig(Backing::Anon, sixteen(), None);
    rig.fill();
    let page = |n: u64| BASE + n * page_size()..BASE + (n + 1) * page_size();
    // Somebody has the ledger, and somebody else gives memory back meanwhile.
    let (books, state) = (rig.release.ledger.open(), rig.release.state());
    for n in 0..24 {
        rig.release.inflate(&[page(n)], Contract::MustTell).unwrap();
    }
    drop((books, state));
    // Told in between, a deflate counts.
    rig.release.deflate(&[page(3)]).unwrap();
    assert_eq!(rig.release.counters().inflated, 24 * page_size());
    rig.release.settle().unwrap();
    for n in 0..24 {
        assert!(rig.reads(n, if n == 3 { n as u8 | 1 } else { 0 }), "{n}");
    }
    // However much there is, it is noted sooner or later.
    for _ in 0..=INBOX {
        rig.release.inflate(&[page(30)], Contract::MustTell).unwrap();
    }
    assert!(lock(&rig.release.inbox).ranges <= INBOX);
    rig.release.settle().unwrap();
    assert!(rig.reads(30, 0));
}
