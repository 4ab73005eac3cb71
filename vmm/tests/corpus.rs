//! Replays the corpus of the fuzz target `balloon`, and sequences from a fixed seed, on any toolchain.
//!
//! `SEQUENCE=1` prints the operations of each sequence before they are applied.

#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "rings/mod.rs"]
mod rings;

use quire::config::{BalloonConfig, BlockSize};
use rings::ground::BASE;
use rings::guest::Guest;
use rings::operation::{Operation, Setup};

#[test]
fn corpus_replays() {
    replay::corpus("balloon", rings::run);
}

#[test]
fn seeded_sequences_replay() {
    for seed in 1..=400u64 {
        eprintln!("seed {seed}");
        let mut random = replay::Random::new(seed);
        let length = 64 + (random.next() % 448) as usize;
        rings::run(&random.bytes(length));
    }
}

/// 15 of the 16 pages of a block go, one comes back and is written, the last one goes: the block is not whole, and what
/// was written survives, whatever the driver has promised.
#[test]
fn must_pass_1_a_page_that_came_back_survives_the_last_of_its_block() {
    const BLOCK: u32 = 64;
    const BACK: u8 = BLOCK as u8 + 3;
    let first = (BASE >> 12) as u32;
    let inflate = |page: u32, count| Operation::Pages { queue: 0, runs: vec![(first + page, count)] };
    let deflate = |page: u32| Operation::Pages { queue: 1, runs: vec![(first + page, 1)] };
    for must_tell_host in [true, false] {
        let config = BalloonConfig { block: BlockSize::Size64K, must_tell_host, ..BalloonConfig::default() };
        let mut guest = Guest::new(&Setup { config, features: u64::MAX });
        for operation in [
            inflate(BLOCK, 15),
            deflate(BACK.into()),
            Operation::Stamp { page: BACK, value: 0x33 },
            inflate(BLOCK + 15, 1),
            // The deadline, the target, and the end: whatever makes the balloon settle.
            Operation::Event { index: 2 },
            Operation::Event { index: 1 },
        ] {
            guest.apply(&operation);
        }
        guest.end();
    }
}
