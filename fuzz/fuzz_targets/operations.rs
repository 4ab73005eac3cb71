//! Sequences of operations on stage-2 tables, held against an oracle.
//!
//! The target is the module that `stage2`'s tests replay on stable; a crash found here is kept in
//! `fuzz/corpus/operations` and is a regression test from then on.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../stage2/tests/sequence/mod.rs"]
mod sequence;

fuzz_target!(|data: &[u8]| sequence::run(data));
