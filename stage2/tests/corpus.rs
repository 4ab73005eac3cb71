//! Replays the fuzzer's corpus, and sequences from a fixed seed, on any toolchain.
//!
//! `SEQUENCE=1` prints the operations of each sequence before they are applied.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "sequence/mod.rs"]
mod sequence;

use stage2::{Attributes, Config, Existing, G4K, HeapFrames, Leaf, NoMmu, Tables};

#[test]
fn corpus_replays() {
    replay::corpus("operations", sequence::run);
}

#[test]
fn seeded_sequences_replay() {
    for seed in 1..=1200u64 {
        eprintln!("seed {seed}");
        let mut random = replay::Random::new(seed);
        let length = 64 + (random.next() % 512) as usize;
        let mut data = random.bytes(length);
        // Every geometry equally often.
        data[0] = (seed % 12) as u8;
        sequence::run(&data);
    }
}

/// A walk that began inside a group once reported the group with the output address of the member where
/// the walk began.
#[test]
fn walk_from_inside_a_group_reports_the_whole_group() {
    let config = Config::<G4K>::passive(32).expect("32 bits are a size");
    let mut tables = Tables::new(config, HeapFrames::<G4K>::new(), NoMmu).expect("the heap has frames");
    let dirty = Attributes::RAM.dirty();
    tables.map(0..0x1_0000, 0x8_0000, &dirty, Existing::Refuse).expect("nothing is in the way");
    let whole = |leaf: Leaf| assert_eq!((leaf.ipa, leaf.oa, leaf.bytes), (0, 0x8_0000, 0x1_0000));
    let mut gather = tables.gather();
    tables.leaves(0xf000..0x1_0000, whole).expect("the range is good");
    let aged = tables.age(0xf000..0x1_0000, &mut gather, whole).expect("the range is good");
    let collected = tables.collect_dirty(0x3000..0x4000, &mut gather, whole).expect("the range is good");
    assert_eq!((aged.entries, collected.entries), (16, 16));
}
