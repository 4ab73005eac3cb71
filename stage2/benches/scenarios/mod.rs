//! The work that both benchmarks measure, one entry per scenario, and the goals set for it.
//!
//! - `ours`: the tables of this crate, passive (software only) and live (a walker may look at any instant:
//!   every entry is taken by an atomic exchange, every invalidation is built and handed out);
//! - `paging`, `multiarch`: the same work by the peers;
//! - `goals`: the ratios that are asked for.
//!
//! A scenario prepares its tables unmeasured, then returns the measured part as a closure; what the closure
//! returns is dropped unmeasured.

#![allow(dead_code, reason = "each benchmark uses its part")]

pub(crate) mod goals;
mod multiarch;
mod ours;
mod paging;

use std::any::Any;

pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const TIB: u64 = 1 << 40;

/// The measured part. Its result keeps everything alive until the measurement is over.
pub(crate) type Work = Box<dyn FnOnce() -> Box<dyn Any>>;

pub(crate) struct Scenario {
    /// `group/what/who`.
    pub(crate) name: &'static str,
    /// Descriptors that the work touches.
    pub(crate) entries: u64,
    pub(crate) prepare: fn() -> Work,
}

/// Every scenario.
pub(crate) fn all() -> Vec<Scenario> {
    let mut all = ours::scenarios();
    all.extend(paging::scenarios());
    all.extend(multiarch::scenarios());
    all.sort_by_key(|scenario| scenario.name);
    all
}

/// Bytes of table frames: what, and how many.
pub(crate) fn frames() -> Vec<(&'static str, u64)> {
    let mut frames = ours::frames();
    frames.extend(paging::frames());
    frames.extend(multiarch::frames());
    frames
}
