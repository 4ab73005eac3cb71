//! `cargo lab test`: every check, step by step, with one count at the end.
//!
//! A step is a check of its own (formatting, lints) or a set of test programs. Every test counts
//! once; a program that crashes, hangs or reports other numbers than its lines say is a failure.
//!
//! | module | what |
//! |---|---|
//! | [`libtest`] | reads what a Rust test program prints |
//! | [`tally`] | what passed and what failed, and the last line |
//! | [`here`] | a test program on this machine |
//! | [`steps`] | the steps |
//! | [`build`] | what the steps on arm64 run |
//! | [`monitor`] | the step that boots the monitor on emulated boards |

mod build;
pub(crate) mod here;
mod libtest;
mod monitor;
mod steps;
mod tally;

pub(crate) use steps::Check;
