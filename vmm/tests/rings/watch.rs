//! The balloon's memory, with what may happen to each page.
//!
//! Whatever a driver sends, only three things may lie in a page: what the guest has written, zeros where the page
//! was given away since, and never anything else. A page that the guest has again keeps what it writes.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quire::memory::GuestMemory;
use quire::memory::Ledger;
use quire::memory::release::{Options, Release};
use quire::virtio::balloon::memory::Failure;
use quire::virtio::balloon::{Contract, Memory};
use vm_memory::{Bytes, GuestAddress};

use super::ground::{BASE, Ground, SIZE};

const PAGE: u64 = 4096;
/// Pages at the start of RAM that hold rings and buffers: their content is nobody's business.
pub(crate) const MACHINERY: usize = 32;

#[derive(Clone, Copy, Debug, Default)]
struct Page {
    /// What the guest wrote last.
    value: u8,
    /// It may be zero instead.
    is_given: bool,
    /// The guest has promised to tell before it uses it.
    is_held: bool,
}

pub(crate) struct Watch {
    release: Release,
    memory: GuestMemory,
    state: Mutex<State>,
}

struct State {
    pages: Vec<Page>,
    /// The guest has given its own rings away: what comes of that is its own affair.
    gave_machinery: bool,
    /// What the driver has promised, where that is known.
    contract: Option<Contract>,
}

impl Watch {
    pub(crate) fn new(ground: &Ground, options: Options) -> Self {
        let ledger = Ledger::new(&ground.ram).expect("a ledger can be kept");
        let release = Release::new(&ground.ram, ledger, options);
        let pages = vec![Page::default(); (SIZE / PAGE) as usize];
        let state = Mutex::new(State { pages, gave_machinery: false, contract: None });
        let watch = Self { release, memory: ground.ram.memory().clone(), state };
        for page in MACHINERY..(SIZE / PAGE) as usize {
            watch.stamp(page, 0x5a);
        }
        watch
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn gave_machinery(&self) -> bool {
        self.state().gave_machinery
    }

    /// A new driver, with new rings in the old place.
    pub(crate) fn has_new_driver(&self, contract: Contract) {
        let mut state = self.state();
        state.gave_machinery = false;
        state.contract = Some(contract);
    }

    /// There may be another driver by now.
    pub(crate) fn lost_sight(&self) {
        self.state().contract = None;
    }

    /// The driver was told of these pages, by their numbers, that they are in the balloon or out of it. It asks to
    /// have pages back of which it has promised to do so, and of no others can it say that they are in.
    pub(crate) fn was_told(&self, numbers: impl Iterator<Item = u64>, are_in: bool) {
        let state = self.state();
        if state.gave_machinery || (are_in && state.contract != Some(Contract::MustTell)) {
            return;
        }
        let pages = numbers.filter_map(|number| (number * PAGE).checked_sub(BASE));
        for page in pages.map(|offset| (offset / PAGE) as usize) {
            let is_held = state.pages.get(page).map(|page| page.is_held);
            assert!(
                is_held.is_none_or(|is_held| is_held == are_in),
                "page {page}: {}",
                state.pages[page].is_held
            );
        }
    }

    /// The guest writes to a page, where it may.
    pub(crate) fn stamp(&self, page: usize, value: u8) {
        let mut state = self.state();
        if page < MACHINERY || state.pages[page].is_held {
            return;
        }
        self.look(&mut state.pages[page], page);
        let bytes = [value; PAGE as usize];
        self.memory.write_slice(&bytes, address(page)).expect("a page of RAM can be written");
        state.pages[page] = Page { value, ..Page::default() };
    }

    /// Panics where a page has another content than it may have, or the ledger says something else than the host.
    pub(crate) fn check(&self) {
        let mut state = self.state();
        for page in MACHINERY..state.pages.len() {
            self.look(&mut state.pages[page], page);
        }
        let check = self.release.ledger().open().check().expect("the host can be asked");
        assert!(check.lost.is_empty(), "{check:x?}");
        assert!(state.gave_machinery || check.broken.is_empty(), "{check:x?}");
    }

    fn look(&self, page: &mut Page, number: usize) {
        let mut bytes = [0; PAGE as usize];
        self.memory.read_slice(&mut bytes, address(number)).expect("a page of RAM can be read");
        let first = bytes[0];
        assert!(bytes.iter().all(|&byte| byte == first), "page {number} is torn");
        let may = first == page.value || (first == 0 && page.is_given);
        assert!(may, "page {number} has {first:#x}, and is {page:x?}");
        if !page.is_held {
            *page = Page { value: first, ..Page::default() };
        }
    }

    /// Of `pages`, those whose neighbours in the host's page are there too: no others can be given back.
    fn units(&self, pages: Vec<usize>) -> Vec<usize> {
        let unit = (self.release.unit() / PAGE) as usize;
        let is_whole = |page: usize| {
            let first = page - page % unit;
            (first..first + unit).all(|page| pages.binary_search(&page).is_ok())
        };
        pages.iter().copied().filter(|&page| is_whole(page)).collect()
    }

    /// The guest gives pages: of `ranges`, joined, what is whole pages in RAM. If it keeps none of its rights to
    /// them, they may be gathered into the host's pages; otherwise those have to be there at once.
    fn give(&self, ranges: &[Range<u64>], is_held: bool) -> Vec<usize> {
        let mut state = self.state();
        let pages = if is_held { whole(ranges) } else { self.units(whole(ranges)) };
        for &page in &pages {
            state.gave_machinery |= page < MACHINERY;
            let before = state.pages[page];
            state.pages[page] = Page { is_given: true, is_held: is_held || before.is_held, ..before };
        }
        pages
    }
}

fn address(page: usize) -> GuestAddress {
    GuestAddress(BASE + page as u64 * PAGE)
}

/// The pages of RAM of which the ranges, joined, have all.
fn whole(ranges: &[Range<u64>]) -> Vec<usize> {
    let mut sorted: Vec<_> = ranges.iter().filter(|range| range.start < range.end).cloned().collect();
    sorted.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in sorted {
        match joined.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    let inside = |page: u64| {
        let (start, end) = (BASE + page * PAGE, BASE + (page + 1) * PAGE);
        joined.iter().any(|range| range.start <= start && end <= range.end)
    };
    (0..SIZE / PAGE).filter(|&page| inside(page)).map(|page| page as usize).collect()
}

fn assert_pages(ranges: &[Range<u64>]) {
    let good = |range: &Range<u64>| range.start < range.end && (range.start | range.end).is_multiple_of(PAGE);
    assert!(ranges.iter().all(good), "{ranges:x?} are no pages");
}

impl Memory for Watch {
    fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Failure> {
        assert_pages(ranges);
        assert!(self.state().contract.is_none_or(|promised| promised == contract), "{contract:?}");
        self.give(ranges, contract == Contract::MustTell);
        Ok(self.release.inflate(ranges, contract)?)
    }

    fn work(&self) -> Result<(), Failure> {
        Ok(self.release.work()?)
    }

    fn settle(&self) -> Result<(), Failure> {
        self.release.settle()?;
        let state = self.state();
        let held = (0..state.pages.len()).filter(|&page| state.pages[page].is_held).collect();
        let mut bytes = [1; PAGE as usize];
        for page in self.units(held).into_iter().filter(|&page| page >= MACHINERY) {
            self.memory.read_slice(&mut bytes, address(page)).expect("a page of RAM can be read");
            assert!(
                bytes == [0; PAGE as usize],
                "page {page} is in the balloon still, and not with the host"
            );
        }
        Ok(())
    }

    fn has_partial(&self) -> bool {
        self.release.has_partial()
    }

    fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        assert_pages(ranges);
        self.release.deflate(ranges)?;
        let mut state = self.state();
        for page in whole(ranges) {
            state.pages[page].is_held = false;
            if page >= MACHINERY {
                self.look(&mut state.pages[page], page);
            }
        }
        Ok(())
    }

    fn acknowledged(&self, took: Duration) {
        self.release.acknowledged(took);
    }

    fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Failure> {
        let pages = self.give(ranges, false);
        let cleared = self.release.report(ranges)?;
        assert_eq!(cleared, pages.len() as u64 * PAGE, "of {ranges:x?}");
        let mut bytes = [1; PAGE as usize];
        for page in pages {
            self.memory.read_slice(&mut bytes, address(page)).expect("a page of RAM can be read");
            assert!(bytes == [0; PAGE as usize], "page {page} counts as cleared, and is not");
        }
        Ok(cleared)
    }

    fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        self.give(ranges, false);
        Ok(self.release.hint(ranges)?)
    }

    fn forget(&self) {
        self.release.forget();
        self.state().pages.iter_mut().for_each(|page| page.is_held = false);
    }
}
