//! Every page is dirty, empty or unchanged, with no gap: what a diff over releases is made of.

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{Backing, MemoryConfig};

const BASE: u64 = 1 << 30;
const PAGES: usize = 256;

/// A page of the host: what is less can't be given back.
fn page_size() -> usize {
    rustix::param::page_size()
}

/// What happens between two snapshots.
#[derive(Clone, Debug)]
enum Step {
    Write(usize, u8),
    Report(usize, usize),
    Inflate(usize, usize),
    Deflate(usize, usize),
    Snapshot,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pages = PAGES;
    let range = (0..pages, 1usize..40).prop_map(move |(at, n)| (at, n.min(pages - at)));
    let step = prop_oneof![
        6 => (0..pages, 1u8..).prop_map(|(at, byte)| Step::Write(at, byte)),
        2 => range.clone().prop_map(|(at, n)| Step::Report(at, n)),
        2 => range.clone().prop_map(|(at, n)| Step::Inflate(at, n)),
        2 => range.prop_map(|(at, n)| Step::Deflate(at, n)),
        1 => Just(Step::Snapshot),
    ];
    proptest::collection::vec(step, 1..80)
}

fn range(at: usize, pages: usize) -> [Range<u64>; 1] {
    let start = BASE + (at * page_size()) as u64;
    [start..start + (pages * page_size()) as u64]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Released after a snapshot, then merged: old content must not come back, and nothing new may be missing.
    #[test]
    fn must_pass_5_a_diff_over_releases_merges_to_what_the_guest_sees(steps in steps(), memfd in any::<bool>()) {
        let size = PAGES * page_size();
        let backing = if memfd { Backing::Memfd } else { Backing::Anon };
        let config = MemoryConfig { size: size as u64, backing, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        let options = Options { block: Some(16 * page_size() as u64), repopulate: false };
        let release = Release::new(&ram, ledger.clone(), options);
        let all = [BASE..BASE + size as u64];
        // The snapshot, kept up to date by diffs alone; and the log of what the guest wrote since the last one.
        let mut snapshot = vec![0; size];
        let mut log: Vec<usize> = Vec::new();
        let mut held = vec![false; PAGES];
        for step in steps.into_iter().chain([Step::Snapshot]) {
            match step {
                Step::Write(at, byte) if !held[at] => {
                    ram.memory().write_slice(&vec![byte; page_size()], GuestAddress(range(at, 1)[0].start)).unwrap();
                    log.push(at);
                }
                Step::Write(..) => {}
                Step::Report(at, n) => {
                    (at..at + n).filter(|&page| !held[page]).for_each(|page| {
                        // The log is folded before a harvest: what it says of this page is spent.
                        release.report(&range(page, 1)).unwrap();
                        log.retain(|&written| written != page);
                    });
                }
                Step::Inflate(at, n) => {
                    release.inflate(&range(at, n), Contract::MustTell).unwrap();
                    held[at..at + n].fill(true);
                }
                Step::Deflate(at, n) => {
                    release.deflate(&range(at, n)).unwrap();
                    held[at..at + n].fill(false);
                }
                Step::Snapshot => {
                    // What waits in partial blocks is neither here nor there: settle first.
                    release.settle().unwrap();
                    let mut books = ledger.open();
                    // Log first, then the look at the host: what is filled later is in the log.
                    books.refresh(&all).unwrap();
                    for page in log.drain(..) {
                        books.mark_dirty(range(page, 1)[0].clone()).unwrap();
                    }
                    let mut covered = 0;
                    let mut stretches = Vec::new();
                    books.stretches(all[0].clone(), |stretch| stretches.push(stretch)).unwrap();
                    for stretch in stretches {
                        let bytes = (stretch.range.start - BASE) as usize..(stretch.range.end - BASE) as usize;
                        covered += bytes.len();
                        match stretch.state {
                            State::Populated { dirty: true, .. } => {
                                let at = GuestAddress(stretch.range.start);
                                ram.memory().read_slice(&mut snapshot[bytes], at).unwrap();
                            }
                            State::Populated { dirty: false, .. } => {}
                            State::Released | State::Vacant => snapshot[bytes].fill(0),
                            State::Absent => prop_assert!(false, "nothing is absent here"),
                        }
                    }
                    prop_assert_eq!(covered, size, "a gap");
                    books.collect_dirty(all[0].clone(), |_| {}).unwrap();
                    let mut now = vec![0; size];
                    ram.memory().read_slice(&mut now, GuestAddress(BASE)).unwrap();
                    let differ = (0..PAGES).find(|page| {
                        now[page * page_size()..(page + 1) * page_size()] != snapshot[page * page_size()..(page + 1) * page_size()]
                    });
                    prop_assert_eq!(differ, None, "of the first page that differs");
                }
            }
        }
    }
}
