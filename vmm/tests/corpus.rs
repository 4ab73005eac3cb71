//! Replays the corpus of the fuzz target `balloon`, and sequences from a fixed seed, on any toolchain.
//!
//! `SEQUENCE=1` prints the operations of each sequence before they are applied.

#[path = "rings/mod.rs"]
mod rings;

use std::fs;
use std::path::Path;

use quire::config::{BalloonConfig, BlockSize};
use rings::ground::BASE;
use rings::guest::Guest;
use rings::operation::{Operation, Setup};

/// xorshift64*: the same sequences on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 56) as u8).collect()
    }
}

#[test]
fn corpus_replays() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/balloon");
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("the corpus at {}: {error}", corpus.display()))
        .map(|entry| entry.expect("the corpus can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus at {} is empty", corpus.display());
    for file in files {
        eprintln!("{}", file.display());
        rings::run(&fs::read(&file).expect("the corpus can be read"));
    }
}

#[test]
fn seeded_sequences_replay() {
    for seed in 1..=400u64 {
        eprintln!("seed {seed}");
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
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
