//! The fault side: what hardware would have done to a descriptor, done by software.

use core::fmt;

use crate::atomic::{AcqRel, Relaxed};
use crate::descriptor::{AF, Descriptor, S2AP_W, XN_SHIFT, is_leaf};
use crate::frames::Frames;
use crate::gather::Gather;
use crate::geometry::{Granule, floor};
use crate::marker::Marker;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::group_of;

/// The access that faulted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// A load, or a walk of stage 1.
    Read,
    /// A store.
    Write,
    /// An instruction fetch. From which exception level isn't said: a leaf that one of EL0 and EL1 may execute
    /// counts as allowing it, and whoever maps such leaves decides by the fault's own exception level first.
    Execute,
}

/// A fault that the flags of a leaf can't resolve.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Unresolved {
    /// Outside the input address space.
    Range(u64),
    /// No leaf there.
    Unmapped {
        /// What software knows of the address.
        marker: Option<Marker>,
        /// An older translation of it is still owed an invalidation: whoever acts on its absence (gives the
        /// page away, say) must [`flush`](Tables::flush) first. [`Tables::map`] does so by itself.
        pending: bool,
    },
    /// The leaf doesn't allow the access.
    Denied {
        /// The access.
        access: Access,
        /// The leaf's descriptor.
        descriptor: Descriptor,
    },
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(ipa) => write!(f, "{ipa:#x} is outside the input address space"),
            Self::Unmapped { marker: Some(marker), .. } => write!(f, "not mapped: {marker:?}"),
            Self::Unmapped { marker: None, .. } => f.write_str("not mapped"),
            Self::Denied { access, descriptor } => write!(f, "{access:?} is not allowed by {descriptor:?}"),
        }
    }
}

impl core::error::Error for Unresolved {}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Resolves a fault by setting what the access needs: the access flag and, for a store to a leaf that may
    /// be written, S2AP\[1\]. All members of a group get it, so that they stay alike.
    ///
    /// Returns whether anything changed; `false` means that another processor, or the hardware, was first,
    /// and the access may simply be repeated. That is decided on every raw entry, never on the gathered view:
    /// a sibling may be young or dirty where the entry that faulted is not, and an entry left stale would fault
    /// for ever.
    ///
    /// A leaf becomes writable by a store, so the processors' read-only view of it goes into `gather`.
    ///
    /// Lock-free, against hardware and the other operations that take `&self`.
    ///
    /// # Errors
    /// [`Unresolved`]: the fault needs more than flags.
    pub fn set_access_flags(
        &self,
        ipa: u64,
        access: Access,
        gather: &mut Gather,
    ) -> Result<bool, Unresolved> {
        if ipa >= self.config.ipa_size() {
            return Err(Unresolved::Range(ipa));
        }
        let (table, level, index) = self.walker().descend(ipa);
        let word = table[index].load(Relaxed);
        let descriptor = Descriptor::new(word);
        let size = G::size(level);
        if !is_leaf(word, level) {
            let page = floor(ipa, G::SIZE);
            let pending = self.pending.overlaps(&(page..page + G::SIZE));
            return Err(Unresolved::Unmapped { marker: descriptor.marker(), pending });
        }
        let allowed = match access {
            Access::Read => descriptor.readable(),
            Access::Write => descriptor.writable(),
            Access::Execute => word >> XN_SHIFT & 0b11 != 0b10,
        };
        if !allowed {
            return Err(Unresolved::Denied { access, descriptor });
        }
        let set = if access == Access::Write { AF | S2AP_W } else { AF };
        let members = group_of::<G>(table, level, index, word);
        let base = floor(ipa, size) - (index - members.start) as u64 * size;
        let range = base..base + members.len() as u64 * size;
        let (mut changed, mut upgraded) = (false, false);
        for entry in &table[members] {
            if entry.load(Relaxed) & set != set {
                let old = entry.fetch_or(set, AcqRel);
                changed |= old & set != set;
                upgraded |= set & !old & S2AP_W != 0;
            }
        }
        if E::LIVE && upgraded {
            gather.add_leaves::<G>(range, level);
        }
        Ok(changed)
    }
}
