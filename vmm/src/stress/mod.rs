//! Storms: guests that give memory back and take it again, as fast as they can, while everything is checked.
//!
//! # Principles
//!
//! - **Everything follows from the seed**: the guest's steps, and what the host does, in order. The host acts when the
//!   guest reports progress, so its part, too, depends on steps and not on time.
//! - **Three look.** The guest checks every page; the ledger is held against the host's own view, asked in two ways
//!   (presence, and resident size or file blocks); canaries lie behind the guards of every region.
//! - **A failure names seed and step.**
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`options`] | [`Options`]: what storm is wanted |
//! | [`dice`] | numbers that follow from a seed |
//! | [`schedule`] | what the host does, and when |
//! | [`mod@line`] | what the guest says |
//! | [`canary`] | memory beside guest memory that must not change |
//! | [`measure`] | what the host says that a region takes |
//! | [`hog`] | memory that is used so that the host has less |
//! | [`report`] | [`Report`]: how it went |
//! | [`audit`] | the ledger held against the host |
//! | `drive` | one VM from start to end (arm64) |
//! | `storm` | all of them (arm64) |

pub mod audit;
pub mod canary;
pub mod dice;
pub mod hog;
pub mod line;
pub mod measure;
pub mod options;
pub mod report;
pub mod schedule;

#[cfg(target_arch = "aarch64")]
pub mod drive;
#[cfg(target_arch = "aarch64")]
pub mod storm;

pub use options::{Guest, Options};
pub use report::{Report, Verdict};

#[cfg(test)]
mod dry;
#[cfg(test)]
mod faults_tests;
