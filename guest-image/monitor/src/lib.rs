//! The monitor: a bare-metal arm64 program at EL2 that holds `stage2` against the MMU that walks its tables.
//!
//! It boots like a Linux kernel (an arm64 Image, the device tree in x0) at EL2: bare on an emulated board
//! that has EL2, or as a guest of `quire run --el2`, where KVM's nested virtualisation is below. What the
//! board is it reads from the device tree (console, PSCI, CPUs, memory); what the CPU has, from its ID
//! registers. On every CPU it runs a payload at EL1 that reads, writes, executes and atomically updates
//! addresses as it is told, under tables of `stage2`; compares what happens with what the tables say; and
//! powers the machine off.
//!
//! # Words on the command line
//!
//! | word | what it chooses |
//! |---|---|
//! | `test` | the tests; so does an empty command line |
//! | `only=NAME` | one group of tests, by its name in [`words::GROUPS`] |
//! | `granule=SIZE` | tables of one granule, 4K, 16K or 64K |
//! | `rounds=N` | rounds of each race that have to find something written; 50 unless said otherwise |
//! | `bench` | the benchmark table: instructions, faults and invalidations, see `bare::bench` |
//!
//! # Lines on the console
//!
//! The tests speak TAP 14, with the plan at the end and a last line that repeats the count:
//!
//! ```text
//! TAP version 14
//! # comments: the CPU, the board, figures
//! ok 1 - translations: 4K from L1, 39 bits: pages
//! not ok 2 - ...
//! # why
//! ok 3 - ... # SKIP what this bed can't show, and why
//! 1..3
//! # done: 1 ok, 1 not ok, 1 skipped: the MMU does not do what the tables of stage2 say
//! ```
//!
//! The benchmark prints a table, a line `# goal: ...: met` or `MISSED` for each goal, and `# done` last.
//!
//! What keeps it from going on is a line `Bail out! REASON`, the last one. A payload that does not come back within
//! some minutes is such a reason, and what was under test is `not ok`.
//!
//! # Map
//!
//! What can be tested anywhere is kept apart from what needs the machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`words`] | the command line |
//! | [`tap`] | the lines of the tests |
//! | [`fault`] | syndromes of stage-2 faults |
//! | [`shape`] | which tables a CPU can walk |
//! | [`units`] | which frames are taken |
//! | `bare` (arm64) | EL2: its stage 1, CPUs, guests, the tests and the benchmark |
//!
//! The program is an image only when the build asks for one (`build.rs`). Otherwise it is an ordinary
//! program that says so.

#![cfg_attr(not(test), no_std)]
#![allow(clippy::result_large_err, reason = "there is no heap to keep a reason in")]

#[cfg(target_arch = "aarch64")]
pub mod bare;
pub mod fault;
pub mod shape;
pub mod tap;
pub mod units;
pub mod words;
