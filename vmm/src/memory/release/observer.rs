//! Who is told what became of memory that was released.

use std::fmt::Debug;
use std::ops::Range;

use serde::Serialize;
use stage2::Harvest;

/// Why memory is released.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The balloon took it.
    Inflate,
    /// Free page reporting.
    Report,
    /// Free page hinting.
    Hint,
    /// The guest has ended.
    Teardown,
}

/// A leaf as it was when it was taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Taken {
    /// Its guest-physical addresses.
    pub range: Range<u64>,
    /// Written since dirty pages were last collected, or nobody can tell.
    pub dirty: bool,
    /// Used since the last ageing, or nobody can tell.
    pub young: bool,
}

/// One batch, after its discard.
#[derive(Debug)]
pub struct Released<'a> {
    /// Why.
    pub reason: Reason,
    /// What is zero now: sorted, disjoint. After [`Reason::Teardown`], what is gone.
    pub ranges: &'a [Range<u64>],
    /// What was there, leaf by leaf: each dirty and each young bit exactly once. What is in `ranges` and in no leaf
    /// was zero before.
    pub leaves: &'a [Taken],
    /// The sum of the leaves.
    pub harvest: Harvest,
}

/// Somebody who has to know: a migration or a snapshot (what was dirty is now zero), the writer of a persistent file,
/// the estimate of the working set.
///
/// It is told under the ledger's lock: whoever collects dirty pages under the same lock has either been told of a
/// batch, or finds its leaves as they were before it. It must not call the release or the ledger.
pub trait Observer: Send + Debug {
    /// A batch has been released.
    fn released(&mut self, released: &Released<'_>);
}
