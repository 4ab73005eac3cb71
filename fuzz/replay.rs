//! Replays what a fuzz target is given, on any toolchain: its corpus, and bytes from a fixed seed.

use std::fs;
use std::path::Path;

/// xorshift64*: the same sequences on every machine.
pub(crate) struct Random(u64);

impl Random {
    /// `seed` is not zero.
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| (self.next() >> 56) as u8).collect()
    }
}

/// Hands each file of the corpus of `target` to `run`, in the order of their names.
pub(crate) fn corpus(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("the corpus at {}: {error}", corpus.display()))
        .map(|entry| entry.expect("the corpus can be listed").path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "the corpus at {} is empty", corpus.display());
    for file in files {
        eprintln!("{}", file.display());
        run(&fs::read(&file).expect("the corpus can be read"));
    }
}
