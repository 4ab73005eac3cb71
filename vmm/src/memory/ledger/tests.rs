//! The ledger against memory that is written and discarded behind its back.

use std::ops::Range;

use stage2::Marker;
use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{Backing, MemoryConfig};
use crate::memory::Discard;

pub(super) const BASE: u64 = 1 << 30;
pub(super) const SIZE: u64 = 128 << 20;
pub(super) const BLOCK: u64 = 2 << 20;

fn guest(backing: Backing) -> (GuestRam, Ledger) {
    let config = MemoryConfig { size: SIZE, backing, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let ledger = Ledger::new(&ram).unwrap();
    (ram, ledger)
}

pub(super) fn write(ram: &GuestRam, range: &Range<u64>) {
    for at in range.clone().step_by(4096) {
        ram.memory().write_slice(&[1; 4096], GuestAddress(at)).unwrap();
    }
}

fn states(books: &mut Books, range: Range<u64>) -> Vec<State> {
    let mut states = Vec::new();
    books.stretches(range, |stretch| states.push(stretch.state)).unwrap();
    states
}

#[test]
fn a_guest_that_nobody_has_looked_at_costs_a_few_kib() {
    let config = MemoryConfig { size: 4 << 30, backing: Backing::Memfd, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let ledger = Ledger::new(&ram).unwrap();
    let mut books = ledger.open();
    assert!(books.held() <= 64 << 10, "{} bytes", books.held());
    let summary = books.summary().unwrap();
    assert_eq!((summary.total, summary.vacant, summary.populated), (4 << 30, 4 << 30, 0));
}

/// Every other page of all RAM is in the balloon, of 2 MiB in 8 MiB something is populated too: no two pages of a block side
/// by side are in one state.
fn storm(books: &mut Books) {
    let page = rustix::param::page_size() as u64;
    let ram: Vec<_> = books.ram().collect();
    for (index, at) in ram.iter().flat_map(|ram| ram.clone().step_by(page as usize)).enumerate() {
        if index % 2 == 0 {
            books.hold(at..at + page).unwrap();
        } else if (at / BLOCK).is_multiple_of(4) && index % 3 != 0 {
            books.populate(&[at..at + page]).unwrap();
        }
    }
}

#[test]
fn the_worst_storm_costs_less_than_a_mebibyte_for_4_gib_and_so_does_a_look_at_all_of_it() {
    let config = MemoryConfig { size: 4 << 30, backing: Backing::Memfd, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let ledger = Ledger::new(&ram).unwrap();
    let mut books = ledger.open();
    storm(&mut books);
    let page = rustix::param::page_size() as u64;
    // There is a table for each block.
    let frames = books.tables.frame_bytes();
    assert!(frames >= (4 << 30) / page * 8, "{frames} bytes unpacked");
    assert!(books.held() < 1 << 20, "{} bytes", books.held());
    // Everything that looks at all of RAM, and changes it.
    let summary = books.summary().unwrap();
    assert_eq!((summary.total, summary.released), (4 << 30, 2 << 30));
    let all: Vec<_> = books.ram().collect();
    books.mark_dirty(all[0].clone()).unwrap();
    books.age(all[0].clone(), |_| {}).unwrap();
    let mut leaves = 0;
    books.leaves(all[0].clone(), |leaf| leaves += leaf.bytes).unwrap();
    assert_eq!(leaves, summary.populated);
    assert!(books.held() < 1 << 20, "{} bytes", books.held());
    assert!(books.most_held() < 1 << 20, "{} bytes at most", books.most_held());
    // The balloon is empty, and what was populated goes: nothing is left but the start.
    books.let_go(all[0].clone()).unwrap();
    let harvest = books.take(all[0].clone(), Marker::Vacant, |_| {}).unwrap();
    assert_eq!(harvest.bytes, summary.populated);
    let (held, most) = (books.held(), books.most_held());
    assert!(held <= (8 << 10) + 2 * page, "{held} bytes are left");
    assert!(most < 1 << 20, "{most} bytes at most");
}

#[test]
fn what_was_filled_meanwhile_is_found_and_counts_as_dirty() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let (ram, ledger) = guest(backing);
        let mut books = ledger.open();
        let written = BASE + 4 * BLOCK..BASE + 6 * BLOCK;
        write(&ram, &written);
        assert_eq!(states(&mut books, written.clone()), [State::Vacant], "nobody has looked");
        let refresh = books.refresh(std::slice::from_ref(&written)).unwrap();
        assert!(refresh.calls > 0 && refresh.found >= 2 * BLOCK);
        assert_eq!(states(&mut books, written.clone()), [State::FOUND]);
        // It stays known.
        assert_eq!(books.refresh(&[written]).unwrap(), books::Refresh::default());
    }
}

#[test]
fn one_look_takes_in_what_lies_ahead() {
    let (ram, ledger) = guest(Backing::Anon);
    let mut books = ledger.open();
    write(&ram, &(BASE..BASE + 8 * BLOCK));
    let first = books.refresh(&[BASE..BASE + BLOCK]).unwrap();
    assert!(first.found >= 8 * BLOCK);
    let ahead: Vec<_> = (1..8).map(|n| BASE + n * BLOCK..BASE + (n + 1) * BLOCK).collect();
    assert_eq!(books.refresh(&ahead).unwrap().calls, 0);
}

#[test]
fn what_is_uniform_is_one_leaf_however_it_came_about() {
    let (_ram, ledger) = guest(Backing::Anon);
    let mut books = ledger.open();
    let page = rustix::param::page_size() as u64;
    // A block, page by page, from the end.
    for n in (0..BLOCK / page).rev() {
        let at = BASE + n * page;
        books.populate(&[at..at + page]).unwrap();
    }
    let mut leaves = Vec::new();
    books.leaves(BASE..BASE + BLOCK, |leaf| leaves.push(leaf.range())).unwrap();
    assert_eq!(leaves, [BASE..BASE + BLOCK]);
    // A part of it goes, and comes back.
    books.take(BASE..BASE + page, Marker::Vacant, |_| {}).unwrap();
    assert_eq!(states(&mut books, BASE..BASE + BLOCK), [State::Vacant, State::FOUND]);
    books.populate(&[BASE..BASE + page]).unwrap();
    let summary = books.summary().unwrap();
    assert_eq!(summary.leaves.into_iter().collect::<Vec<_>>(), [(BLOCK, BLOCK)]);
}

#[test]
fn a_hard_fact_is_not_asked_about() {
    let (ram, ledger) = guest(Backing::Memfd);
    let mut books = ledger.open();
    let held = BASE..BASE + BLOCK;
    books.hold(held.clone()).unwrap();
    // The driver breaks its promise; nothing it can do makes the ledger look.
    write(&ram, &held);
    assert_eq!(books.refresh(std::slice::from_ref(&held)).unwrap().calls, 0);
    // A look from elsewhere that takes it in leaves it alone.
    books.let_go(BASE..BASE + 4096 * 16).unwrap();
    books.refresh(&[BASE..BASE + 4096 * 16]).unwrap();
    assert_eq!(states(&mut books, BASE + 4096 * 16..BASE + BLOCK), [State::Released]);
}

#[test]
fn the_check_finds_a_broken_promise() {
    let (ram, ledger) = guest(Backing::Memfd);
    let mut books = ledger.open();
    books.hold(BASE..BASE + BLOCK).unwrap();
    assert!(books.check().unwrap().holds());
    // Reading a page of a memfd fills it with zeroes: that breaks nothing.
    ram.memory().read_obj::<u64>(GuestAddress(BASE)).unwrap();
    let check = books.check().unwrap();
    assert!(check.holds(), "{check:?}");
    ram.memory().write_obj(1u8, GuestAddress(BASE + 5)).unwrap();
    let check = books.check().unwrap();
    assert!(!check.holds());
    assert_eq!(check.broken.len(), 1);
    assert!(check.broken[0].contains(&(BASE + 5)));
}

#[test]
fn the_check_finds_what_is_lost() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let (ram, ledger) = guest(backing);
        let mut books = ledger.open();
        write(&ram, &(BASE..BASE + BLOCK));
        books.refresh(&[BASE..BASE + BLOCK]).unwrap();
        assert!(books.check().unwrap().holds());
        // Behind the ledger's back.
        let gone = BASE + (64 << 10)..BASE + (128 << 10);
        Discard::new(&ram).discard(std::slice::from_ref(&gone)).unwrap();
        let check = books.check().unwrap();
        assert_eq!(check.lost, [gone]);
        assert!(!check.holds());
    }
}

#[test]
fn a_file_that_held_something_is_looked_at_from_the_start() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ram");
    let (ram, _) = guest(Backing::File(path.clone()));
    write(&ram, &(BASE + 3 * BLOCK..BASE + 4 * BLOCK));
    ram.keep();
    drop(ram);
    let (_ram, ledger) = guest(Backing::File(path));
    let mut books = ledger.open();
    assert_eq!(states(&mut books, BASE + 3 * BLOCK..BASE + 4 * BLOCK), [State::FOUND]);
    assert_eq!(states(&mut books, BASE..BASE + 3 * BLOCK), [State::Vacant]);
}
