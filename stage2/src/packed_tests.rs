//! Packed frames against frames from the heap, and what they take.

use alloc::vec::Vec;
use core::fmt::Debug;
use core::ops::Range;

use proptest::prelude::*;
use proptest::sample::Index;

use crate::atomic::Relaxed;
use crate::testing::*;
use crate::*;

const MIB: u64 = 1 << 20;

type Packed<G> = Tables<G, PackedFrames<G>, NoMmu>;

fn packed<G: Granule>(ipa_bits: u32) -> Packed<G> {
    Tables::new(Config::passive(ipa_bits).unwrap(), PackedFrames::new(), NoMmu).unwrap()
}

/// Everything that changes passive tables.
#[derive(Clone, Debug)]
enum Step {
    Map(bool, Existing),
    Take(Option<Marker>),
    Remark(Option<Marker>, Option<Marker>),
    Mark(Marks),
    Protect(bool),
    CollectDirty,
    Age,
    Join(Merge),
    Split(bool),
    Unfold,
    TearDown,
    Pack(usize),
}

fn marker() -> impl Strategy<Value = Option<Marker>> {
    prop::option::of(prop::sample::select(Marker::ALL.as_slice()))
}

fn step() -> impl Strategy<Value = Step> {
    let existing = prop::sample::select(&[Existing::Keep, Existing::Refuse][..]);
    let merge = prop::sample::select(&[Merge::Uniform, Merge::Union, Merge::Harvest][..]);
    prop_oneof![
        4 => (any::<bool>(), existing).prop_map(|(shifted, existing)| Step::Map(shifted, existing)),
        4 => marker().prop_map(Step::Take),
        3 => (marker(), marker()).prop_map(|(from, to)| Step::Remark(from, to)),
        2 => any::<(bool, bool)>().prop_map(|(young, dirty)| Step::Mark(Marks { young, dirty })),
        1 => any::<bool>().prop_map(Step::Protect),
        2 => Just(Step::CollectDirty),
        1 => Just(Step::Age),
        2 => merge.prop_map(Step::Join),
        1 => any::<bool>().prop_map(Step::Split),
        1 => Just(Step::Unfold),
        1 => prop::bool::weighted(0.2).prop_map(|all| if all { Step::TearDown } else { Step::Pack(0) }),
        4 => (0..4usize).prop_map(Step::Pack),
    ]
}

/// What an operation answered, and what it handed out.
#[derive(PartialEq, Debug)]
struct Answer(Vec<Leaf>, alloc::string::String);

fn apply<G: Granule, F: Frames>(tables: &mut Tables<G, F, NoMmu>, step: &Step, range: Range<u64>) -> Answer {
    let mut leaves = Vec::new();
    let mut visit = |leaf| leaves.push(leaf);
    let said = match step {
        Step::Map(shifted, existing) => {
            // A page off, no block and no group fits.
            let oa = (1 << 40) + range.start + if *shifted { G::SIZE } else { 0 };
            say(tables.map(range, oa, &Attributes::RAM.dirty(), *existing))
        }
        Step::Take(leave) => {
            let clear = Clear { leave: *leave, full: false };
            say(tables.get_and_clear(range, clear, &mut visit))
        }
        Step::Remark(from, to) => {
            say(tables.remark(range, |marker| if marker == *from { *to } else { marker }))
        }
        Step::Mark(marks) => say(tables.mark(range, *marks)),
        Step::Protect(write) => {
            say(tables.protect(range, Protection { write: Some(*write), ..Protection::default() }))
        }
        Step::CollectDirty => say(tables.collect_dirty(range, &mut tables.gather(), &mut visit)),
        Step::Age => say(tables.age(range, &mut tables.gather(), &mut visit)),
        Step::Join(merge) => say(tables.optimise(range, *merge, &mut visit)),
        Step::Split(last) => say(tables.split(range, if *last { Level::L3 } else { Level::L2 })),
        Step::Unfold => say(tables.unfold(range)),
        Step::TearDown => say(tables.tear_down(&mut visit)),
        Step::Pack(_) => say(()),
    };
    Answer(leaves, said)
}

fn say(answer: impl Debug) -> alloc::string::String {
    alloc::format!("{answer:?}")
}

/// A range of an address space of some level-2 entries, that begins and ends near where something ends.
fn range<G: Granule>(start: Index, length: Index, off: (i8, i8)) -> Range<u64> {
    let block = G::size(Level::L2);
    let near = |block_index: usize, off: i8| {
        (block_index as u64 * block).saturating_add_signed(i64::from(off) * G::SIZE as i64)
    };
    let first = start.index(20);
    let start = near(first, off.0);
    start..near(first + length.index(5), off.1).max(start + G::SIZE)
}

type Steps = Vec<(Step, Index, Index, (i8, i8))>;

fn steps() -> impl Strategy<Value = Steps> {
    prop::collection::vec((step(), any::<Index>(), any::<Index>(), (-3..4i8, -3..4i8)), 1..40)
}

/// The same steps on both: the same answers, and the same words in the end.
fn differ<G: Granule>(bits: u32, steps: &Steps) -> Result<(), TestCaseError> {
    let (mut heap, mut packed) = (ledger::<G>(bits), packed::<G>(bits));
    for (step, start, length, off) in steps {
        let range = range::<G>(*start, *length, *off);
        prop_assert_eq!(apply(&mut heap, step, range.clone()), apply(&mut packed, step, range));
        if let Step::Pack(few) = step {
            packed.frames.pack(*few);
        }
        prop_assert_eq!(heap.frames.in_use(), packed.frames.in_use());
    }
    packed.frames.pack(0);
    prop_assert!(packed.frames.held() <= packed.frames.most_held());
    prop_assert_eq!(dump(&heap), dump(&packed));
    assert_sound(&packed, true);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn packed_tables_of_4k_say_what_unpacked_ones_say(steps in steps()) {
        differ::<G4K>(32, &steps)?;
    }

    #[test]
    fn packed_tables_of_16k_say_what_unpacked_ones_say(steps in steps()) {
        differ::<G16K>(36, &steps)?;
    }
}

proptest! {
    // A table has 8192 entries.
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn packed_tables_of_64k_say_what_unpacked_ones_say(steps in steps()) {
        differ::<G64K>(40, &steps)?;
    }
}

/// A frame that waits for an invalidation is a link of a chain; links are packed and found again.
#[test]
fn a_chain_goes_through_packed_frames() {
    let options = Options::new(36);
    let config = Config::<G4K>::new(&Features::ALL, options).unwrap();
    let mut tables = Tables::new(config, PackedFrames::<G4K>::new(), Recorder::default()).unwrap();
    let range = 0..64 * MIB;
    // A page off: a table for every 2 MiB.
    tables.map(range.clone(), (1 << 30) + 4096, &Attributes::RAM, Existing::Refuse).unwrap();
    assert!(tables.frames.in_use() > 32 * 4096);
    tables.unmap(range).unwrap();
    let waiting = tables.frames.in_use();
    tables.frames.pack(0);
    assert!(tables.frames.held() < waiting / 2, "{} of {waiting}", tables.frames.held());
    assert_eq!(tables.frames.in_use(), waiting);
    tables.flush();
    assert_eq!(tables.frames.in_use(), tables.frame_bytes());
    assert!(tables.frames.in_use() < waiting);
}

#[test]
fn frames_larger_than_a_granule_stay_as_they_are() {
    let mut frames = PackedFrames::<G4K>::new();
    let page = frames.allocate(4096).unwrap();
    let root = frames.allocate(16 * 4096).unwrap();
    assert_eq!(root % (16 * 4096), 0);
    for (index, entry) in frames.table(root, 16 * 512).iter().enumerate() {
        entry.store(index as u64 % 3, Relaxed);
    }
    frames.pack(0);
    let word = |index: usize| frames.table(root, 16 * 512)[index].load(Relaxed);
    assert!((0..16 * 512).all(|index| word(index) == index as u64 % 3));
    assert!(frames.held() >= 16 * 4096);
    frames.free(root, 16 * 4096);
    // What was passed over for its alignment is there for single frames.
    let next = frames.allocate(4096).unwrap();
    assert_eq!(next, page + 4096);
    assert!(frames.table(next, 512).iter().all(|entry| entry.load(Relaxed) == 0));
    frames.free(page, 4096);
    frames.free(next, 4096);
    assert_eq!(frames.in_use(), 0);
    assert!(frames.held() < 4096, "{} bytes", frames.held());
}

/// A frame that comes back is zero, whatever it was packed as.
#[test]
fn a_frame_that_was_packed_and_freed_comes_back_zeroed() {
    let mut frames = PackedFrames::<G4K>::new();
    let (first, second) = (frames.allocate(4096).unwrap(), frames.allocate(4096).unwrap());
    for entry in frames.table(first, 512) {
        entry.store(0b100, Relaxed);
    }
    frames.pack(0);
    frames.free(first, 4096);
    assert_eq!(frames.allocate(4096), Some(first));
    assert!(frames.table(first, 512).iter().all(|entry| entry.load(Relaxed) == 0));
    frames.pack(0);
    assert!(frames.table(second, 512).iter().all(|entry| entry.load(Relaxed) == 0));
}

#[test]
fn a_table_with_too_many_forms_stays_as_it_is() {
    let mut frames = PackedFrames::<G4K>::new();
    let frame = frames.allocate(4096).unwrap();
    for forms in [16, 17] {
        for (index, entry) in frames.table(frame, 512).iter().enumerate() {
            entry.store((index % forms) as u64 * 2, Relaxed);
        }
        frames.pack(0);
        assert_eq!(frames.held() < 4096, forms == 16, "{forms} forms: {} bytes", frames.held());
        let entries = frames.table(frame, 512).iter();
        assert!(entries.map(|entry| entry.load(Relaxed)).eq((0..512).map(|index| index % forms as u64 * 2)));
    }
}

/// What tables of `size` bytes take after each page was given a state, and at their largest.
fn after_a_storm<G: Granule>(size: u64, states: usize) -> (Packed<G>, u64, u64) {
    let mut tables = packed::<G>(33);
    tables.remark(0..size, |_| Some(Marker::Vacant)).unwrap();
    for (index, start) in (0..size).step_by(G::SIZE as usize).enumerate() {
        let page = start..start + G::SIZE;
        // Coprime to every number of states, so that all of them come.
        let state = index * 5 % states;
        match state {
            0 => drop(tables.remark(page.clone(), |_| Some(Marker::Released)).unwrap()),
            1 => {}
            2 => drop(tables.remark(page.clone(), |_| Some(Marker::Absent)).unwrap()),
            _ => {
                let mut attributes = Attributes::RAM;
                attributes.dirty = state & 1 != 0;
                attributes.young = state & 2 != 0;
                tables.map(page, start, &attributes, Existing::Keep).unwrap();
            }
        }
        tables.pack();
    }
    // Every page has an entry of its own.
    assert!(tables.frame_bytes() >= size / G::SIZE * 8, "{states} states: {} bytes", tables.frame_bytes());
    let (held, most) = (tables.frames.held(), tables.frames.most_held());
    (tables, held, most)
}

#[test]
fn the_worst_storm_takes_less_than_a_mebibyte_for_4_gib() {
    for (states, at_most) in [(2, 512 << 10), (3, MIB), (4, MIB), (7, MIB)] {
        let (tables, held, most) = after_a_storm::<G4K>(4096 * MIB, states);
        assert!(tables.frames.in_use() >= 8 * MIB);
        assert!(held < at_most && most < at_most, "{states} states: {held} bytes, {most} at most");
    }
    for (held, most) in [2, 7].map(|states| {
        let (_, held, most) = after_a_storm::<G16K>(4096 * MIB, states);
        (held, most)
    }) {
        assert!(held < MIB && most < MIB, "16K: {held} bytes, {most} at most");
    }
    let (_, held, most) = after_a_storm::<G64K>(4096 * MIB, 7);
    assert!(held < MIB && most < MIB, "64K: {held} bytes, {most} at most");
}

/// Sixteen forms in every table, which no ledger has: markers, and leaves with every software mark.
#[test]
fn sixteen_forms_in_every_table_are_less_than_a_mebibyte() {
    let mut frames = PackedFrames::<G4K>::new();
    let tables: Vec<_> = (0..2053).map(|_| frames.allocate(4096).unwrap()).collect();
    for &table in &tables {
        for (index, entry) in frames.table(table, 512).iter().enumerate() {
            entry.store((index as u64 % 16) << 1, Relaxed);
        }
        frames.pack(0);
    }
    assert!(frames.held() < MIB, "{} bytes", frames.held());
}

#[test]
fn what_is_uniform_again_is_small_again() {
    let (mut tables, held, _) = after_a_storm::<G4K>(1024 * MIB, 4);
    assert!(held > 64 << 10);
    for start in (0..1024 * MIB).step_by(32 * MIB as usize) {
        tables.get_and_clear(start..start + 32 * MIB, Clear::leaving(Marker::Vacant), |_| {}).unwrap();
        tables.pack();
    }
    assert_eq!(tables.frame_bytes(), tables.config.root_size());
    assert!(tables.frames.held() < 16 << 10, "{} bytes", tables.frames.held());
}
