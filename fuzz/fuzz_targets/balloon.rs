//! Arbitrary drivers of a balloon: rings, chains, registers and controls.
//!
//! The target is the module that `quire`'s tests replay on stable; a crash found here is kept in
//! `fuzz/corpus/balloon` and is a regression test from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../vmm/tests/rings/mod.rs"]
mod rings;

fuzz_target!(|data: &[u8]| rings::run(data));
