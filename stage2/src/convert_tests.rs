//! Conversions against hardware that marks a descriptor through what it has cached, right before the invalidation.

use alloc::vec::Vec;
use core::cell::Cell;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use crate::atomic::Entry;
use crate::descriptor::{AF, CONTIGUOUS, DBM, S2AP_W, VALID, is_table};
use crate::*;

const PAGE: u64 = 0x1000;
const GROUP: u64 = 0x1_0000;
const BLOCK: u64 = 0x20_0000;

/// Tables that a processor can look at while they are borrowed.
#[derive(Default)]
struct Shared(Vec<&'static [Entry]>);

impl Frames for Shared {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        let entries: Vec<Entry> = (0..size / 8).map(|_| Entry::new(0)).collect();
        self.0.push(entries.leak());
        Some((self.0.len() as u64) << 20)
    }

    fn free(&mut self, _: u64, _: u64) {}

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        &self.0[(frame >> 20) as usize - 1][..entries]
    }
}

/// A processor that stores once, through the translation that it has cached: at the next invalidation, before that
/// takes effect. It has to mark a descriptor for it, and faults where that is gone.
#[derive(Default)]
struct Late {
    target: Cell<Option<&'static Entry>>,
    stored: Cell<bool>,
}

impl Executor for Late {
    fn execute(&self, mut sequence: Sequence<'_>) {
        // A barrier alone is no invalidation.
        if sequence.nth(1).is_none() {
            return;
        }
        if let Some(entry) = self.target.take()
            && entry.load(Relaxed) & (VALID | DBM) == VALID | DBM
        {
            entry.fetch_or(AF | S2AP_W, AcqRel);
            self.stored.set(true);
        }
    }
}

type Watched = Tables<G4K, Shared, Late>;

/// One clean, old stretch from 0 on.
fn mapped(bbm: BbmLevel, bytes: u64) -> Watched {
    let options = Options { bbm: Some(bbm), ..Options::new(40) };
    let config = Config::new(&Features::ALL, options).unwrap();
    let mut tables = Tables::new(config, Shared::default(), Late::default()).unwrap();
    tables.map(0..bytes, 0, &Attributes::RAM.old(), Existing::Refuse).unwrap();
    tables
}

/// The entry at which a walk for `ipa` ends.
fn entry(tables: &Watched, ipa: u64) -> &'static Entry {
    let (mut frame, mut level) = (tables.root(), tables.config().start());
    loop {
        let table = tables.frames().0[(frame >> 20) as usize - 1];
        let entry = &table[(ipa >> G4K::shift(level)) as usize & (table.len() - 1)];
        let word = entry.load(Relaxed);
        if !is_table(word, level) {
            return entry;
        }
        (frame, level) = (tables.config().format().table(word), level.next());
    }
}

/// Lets the processor cache what stands at `ipa` now.
fn cache(tables: &Watched, ipa: u64) {
    tables.executor().target.set(Some(entry(tables, ipa)));
}

/// Whether the store to `ipa` took place; if so, it must be in the tables, or have been told to one who harvests.
fn kept(tables: &Watched, ipa: u64, told: bool) -> bool {
    let Ok(Lookup::Leaf(leaf)) = tables.lookup(ipa) else { panic!("{ipa:#x} is mapped") };
    let stored = tables.executor().stored.get();
    assert!(!stored || told || leaf.dirty(), "a store was lost");
    assert!(stored || !leaf.dirty(), "dirty was made up");
    stored
}

const LEVELS: [BbmLevel; 4] = [BbmLevel::Level0, BbmLevel::Level1, BbmLevel::Level2, BbmLevel::Level3];

#[test]
fn unfolding_gives_a_late_store_to_every_member() {
    let stored = LEVELS.map(|bbm| {
        let mut tables = mapped(bbm, GROUP);
        // A store to page 7, marked on member 0: the processor holds the group as one entry.
        cache(&tables, 0);
        tables.unfold(0..GROUP).unwrap();
        kept(&tables, 7 * PAGE, false)
    });
    assert_eq!(stored, [false, false, true, true], "what is broken first can't be marked");
}

#[test]
fn folding_keeps_a_late_store() {
    for merge in [Merge::Uniform, Merge::Union, Merge::Harvest] {
        let stored = LEVELS.map(|bbm| {
            let mut tables = mapped(bbm, GROUP);
            tables.unfold(0..GROUP).unwrap();
            cache(&tables, 7 * PAGE);
            let mut told = false;
            tables.fold(0, Level::L3, merge, |leaf| told |= leaf.dirty()).unwrap();
            kept(&tables, 7 * PAGE, told && merge == Merge::Harvest)
        });
        assert_eq!(stored, [false, false, true, true]);
    }
}

/// A processor that walks a member which says group already may mark any other member for its store, one that doesn't
/// say so yet included. Found by `conversions_lose_no_store` of `tests/threads.rs`, once in many runs.
#[test]
fn folding_keeps_a_store_through_a_group_that_is_half_made() {
    for merge in [Merge::Uniform, Merge::Union, Merge::Harvest] {
        for bbm in LEVELS {
            let mut tables = mapped(bbm, GROUP);
            tables.unfold(0..GROUP).unwrap();
            let members: Vec<&Entry> = (0..16).map(|page| entry(&tables, page * PAGE)).collect();
            let (mut stored, mut told) = ([false; 16], [false; 16]);
            tables
                .fold(0, Level::L3, merge, |leaf| {
                    let page = (leaf.range().start / PAGE) as usize;
                    told[page] |= leaf.dirty() && merge == Merge::Harvest;
                    // Whoever has just been visited may say group now; the mark goes to whoever comes last.
                    let group = members[page].load(Relaxed) & CONTIGUOUS != 0;
                    let last = members[15];
                    if page < 15 && group && last.load(Relaxed) & (VALID | DBM) == VALID | DBM {
                        last.fetch_or(AF | S2AP_W, AcqRel);
                        stored[page] = true;
                    }
                })
                .unwrap();
            let Ok(Lookup::Leaf(leaf)) = tables.lookup(0) else { panic!("it is mapped") };
            for page in 0..16 {
                assert!(
                    !stored[page] || told[page] || leaf.dirty(),
                    "{merge:?} {bbm:?}: page {page} is lost"
                );
            }
        }
    }
}

#[test]
fn splitting_keeps_a_late_store() {
    let stored = LEVELS.map(|bbm| {
        let mut tables = mapped(bbm, BLOCK);
        cache(&tables, 0);
        tables.split(0..BLOCK, Level::L3).unwrap();
        kept(&tables, 7 * PAGE, false)
    });
    // From level 2 on the block is gone by the first invalidation.
    assert_eq!(stored, [false, true, false, false]);
}

#[test]
fn collapsing_keeps_a_late_store_to_the_old_table() {
    for merge in [Merge::Uniform, Merge::Union, Merge::Harvest] {
        let stored = LEVELS.map(|bbm| {
            let mut tables = mapped(bbm, BLOCK);
            tables.split(0..BLOCK, Level::L3).unwrap();
            cache(&tables, 7 * PAGE);
            let mut told = false;
            tables
                .collapse(0, Level::L2, merge, |leaf| {
                    told |= leaf.range().contains(&(7 * PAGE)) && leaf.dirty()
                })
                .unwrap();
            kept(&tables, 7 * PAGE, told && merge == Merge::Harvest)
        });
        assert_eq!(stored, [false, true, true, true]);
    }
}
