//! This crate.

use std::any::Any;
use std::hint::black_box;

use stage2::{
    Attributes, Clear, Config, Executor, Existing, Features, G4K, HeapFrames, Level, NoMmu, Options,
    Sequence, Tables,
};

use super::{GIB, KIB, MIB, Scenario, TIB, Work};

/// Live tables: builds every instruction of every sequence, and issues none.
#[derive(Clone, Copy)]
struct Issue;

impl Executor for Issue {
    fn execute(&self, sequence: Sequence<'_>) {
        for instruction in sequence {
            black_box(instruction);
        }
    }
}

type Of<E> = Tables<G4K, HeapFrames<G4K>, E>;

/// How leaves are made.
#[derive(Clone, Copy)]
struct Shape {
    largest: Level,
    contiguous: bool,
}

const PAGES: Shape = Shape { largest: Level::L3, contiguous: false };
const GROUPS: Shape = Shape { largest: Level::L3, contiguous: true };
const BLOCKS: Shape = Shape { largest: Level::L2, contiguous: false };
const BLOCKS_1G: Shape = Shape { largest: Level::L1, contiguous: false };
const LARGEST: Shape = Shape { largest: Level::L1, contiguous: true };

fn empty<E: Executor>(ipa_bits: u32, shape: Shape, executor: E) -> Of<E> {
    let options = Options {
        largest_leaf: Some(shape.largest),
        contiguous: shape.contiguous,
        // Both peers start at level 1 for 39 bits; so do we.
        start: Some(Level::L1),
        ..Options::new(ipa_bits)
    };
    let config = Config::new(&Features::ALL, options).expect("every processor feature is there");
    Tables::new(config, HeapFrames::new(), executor).expect("the heap has frames")
}

fn map<E: Executor>(tables: &mut Of<E>, bytes: u64, attributes: Attributes) {
    tables.map(0..bytes, 0, &attributes, Existing::Refuse).expect("nothing is in the way");
}

fn mapped<E: Executor>(bytes: u64, shape: Shape, executor: E) -> Of<E> {
    let mut tables = empty(40, shape, executor);
    map(&mut tables, bytes, Attributes::RAM.dirty());
    tables
}

fn clear<E: Executor + 'static>(mut tables: Of<E>, bytes: u64) -> Work {
    Box::new(move || {
        let harvest = tables.get_and_clear(0..bytes, Clear::default(), |_| {}).expect("needs no frames");
        tables.flush();
        Box::new((tables, harvest))
    })
}

fn unfold_and_clear<E: Executor + 'static>(mut tables: Of<E>, bytes: u64) -> Work {
    Box::new(move || {
        tables.unfold(0..bytes).expect("the range is good");
        let harvest = tables.get_and_clear(0..bytes, Clear::default(), |_| {}).expect("needs no frames");
        tables.flush();
        Box::new((tables, harvest))
    })
}

fn collect<E: Executor + 'static>(tables: Of<E>, bytes: u64) -> Work {
    Box::new(move || {
        let mut gather = tables.gather();
        let harvest = tables.collect_dirty(0..bytes, &mut gather, |_| {}).expect("the range is good");
        tables.invalidate(&mut gather);
        Box::new((tables, harvest))
    })
}

fn map_and_unmap<E: Executor + 'static>(shape: Shape, executor: E) -> Work {
    let mut tables = empty(39, shape, executor);
    Box::new(move || {
        map(&mut tables, GIB, Attributes::RAM);
        let harvest = tables.unmap(0..GIB).expect("needs no frames");
        tables.flush();
        Box::new((tables, harvest))
    })
}

fn map_only(shape: Shape) -> Work {
    let mut tables = empty(39, shape, NoMmu);
    Box::new(move || {
        map(&mut tables, GIB, Attributes::RAM);
        Box::new(tables)
    })
}

fn runs(tables: Of<NoMmu>) -> Work {
    Box::new(move || {
        let runs = tables.runs(0..TIB).expect("the range is good").count();
        Box::new((tables, runs)) as Box<dyn Any>
    })
}

/// 1 TiB of 2M blocks of which every other one is dirty: as many runs as blocks.
fn striped() -> Of<NoMmu> {
    let tables = mapped(TIB, BLOCKS, NoMmu);
    let mut gather = tables.gather();
    for ipa in (0..TIB).step_by(4 << 20) {
        tables.collect_dirty(ipa..ipa + 4 * KIB, &mut gather, |_| {}).expect("the range is good");
    }
    gather.clear();
    tables
}

const PAGES_PER_GIB: u64 = GIB / (4 * KIB);
const BLOCKS_PER_GIB: u64 = GIB / (2 * MIB);

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |name, entries, prepare| Scenario { name, entries, prepare };
    vec![
        scenario("clear/pages/live", PAGES_PER_GIB, || clear(mapped(GIB, PAGES, Issue), GIB)),
        scenario("clear/groups/live", PAGES_PER_GIB, || clear(mapped(GIB, GROUPS, Issue), GIB)),
        scenario("clear/unfold first/live", PAGES_PER_GIB, || {
            unfold_and_clear(mapped(GIB, GROUPS, Issue), GIB)
        }),
        scenario("clear/pages/passive", PAGES_PER_GIB, || clear(mapped(GIB, PAGES, NoMmu), GIB)),
        scenario("clear/groups/passive", PAGES_PER_GIB, || clear(mapped(GIB, GROUPS, NoMmu), GIB)),
        scenario("clear/unfold first/passive", PAGES_PER_GIB, || {
            unfold_and_clear(mapped(GIB, GROUPS, NoMmu), GIB)
        }),
        scenario("clear/blocks/live", BLOCKS_PER_GIB, || clear(mapped(GIB, BLOCKS, Issue), GIB)),
        scenario("clear/blocks/passive", BLOCKS_PER_GIB, || clear(mapped(GIB, BLOCKS, NoMmu), GIB)),
        scenario("collect/pages 1 GiB/live", PAGES_PER_GIB, || collect(mapped(GIB, PAGES, Issue), GIB)),
        scenario("collect/pages 2 GiB/live", 2 * PAGES_PER_GIB, || {
            collect(mapped(2 * GIB, PAGES, Issue), 2 * GIB)
        }),
        scenario("collect/groups 1 GiB/live", PAGES_PER_GIB, || collect(mapped(GIB, GROUPS, Issue), GIB)),
        scenario("collect/blocks 1 GiB/live", BLOCKS_PER_GIB, || collect(mapped(GIB, BLOCKS, Issue), GIB)),
        scenario("collect/blocks 512 GiB/live", 512, || {
            collect(mapped(512 * GIB, BLOCKS_1G, Issue), 512 * GIB)
        }),
        scenario("map+unmap/pages/stage2 passive", PAGES_PER_GIB, || map_and_unmap(PAGES, NoMmu)),
        scenario("map+unmap/pages/stage2 live", PAGES_PER_GIB, || map_and_unmap(PAGES, Issue)),
        scenario("map+unmap/groups/stage2 live", PAGES_PER_GIB, || map_and_unmap(GROUPS, Issue)),
        scenario("map+unmap/blocks/stage2 passive", BLOCKS_PER_GIB, || map_and_unmap(BLOCKS, NoMmu)),
        scenario("map+unmap/blocks/stage2 live", BLOCKS_PER_GIB, || map_and_unmap(BLOCKS, Issue)),
        scenario("map/pages/stage2 passive", PAGES_PER_GIB, || map_only(PAGES)),
        scenario("runs/1 TiB, one run/passive", TIB / (2 * MIB), || runs(mapped(TIB, BLOCKS, NoMmu))),
        scenario("runs/1 TiB, all differ/passive", TIB / (2 * MIB), || runs(striped())),
    ]
}

pub(super) fn frames() -> Vec<(&'static str, u64)> {
    let mut guest = empty(40, LARGEST, NoMmu);
    guest.map(GIB..5 * GIB, 0, &Attributes::RAM, Existing::Refuse).expect("nothing is in the way");
    vec![
        ("pristine 4 GiB/stage2", guest.frame_bytes()),
        ("1 TiB of 1G blocks/stage2", mapped(TIB, BLOCKS_1G, NoMmu).frame_bytes()),
        ("1 GiB of 4K pages/stage2", mapped(GIB, PAGES, NoMmu).frame_bytes()),
    ]
}
