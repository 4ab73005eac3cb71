//! One table entry: a 64-bit descriptor that software and hardware both write.
//!
//! Everything that reads or writes a descriptor does so through [`Entry`]. Under `--cfg loom` it is
//! loom's atomic, so that the fault side can be explored interleaving by interleaving.

#[cfg(not(loom))]
pub use core::sync::atomic::AtomicU64 as Entry;
#[cfg(loom)]
pub use loom::sync::atomic::AtomicU64 as Entry;

pub(crate) use core::sync::atomic::Ordering::{AcqRel, Relaxed, Release};

/// Puts `new` in place and returns what was there.
///
/// In tables that an MMU walks this is one atomic exchange: what hardware wrote an instant before is in
/// the result, what it wants to write an instant later it must look up again. In tables that nobody
/// walks the caller's `&mut` already excludes every other writer, and a load and a store are cheaper.
#[inline(always)]
pub(crate) fn take<const LIVE: bool>(entry: &Entry, new: u64) -> u64 {
    if LIVE {
        entry.swap(new, AcqRel)
    } else {
        let old = entry.load(Relaxed);
        entry.store(new, Relaxed);
        old
    }
}
