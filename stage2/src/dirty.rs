//! Collecting dirty: harvest and re-arm, while hardware goes on writing.

use core::ops::Range;

use crate::atomic::{AcqRel, Relaxed};
use crate::clear::Harvest;
use crate::descriptor::{DIRTY, HARVEST};
use crate::error::Error;
use crate::frames::Frames;
use crate::gather::Gather;
use crate::geometry::Granule;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::Leaf;

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Collects the dirty leaves that touch `range`: hands each to `visit` as it was, and makes it clean,
    /// so that the next store is recorded again. A leaf is reported whole, beyond the range too: its one dirty
    /// bit is gone, so all that it stood for must be told.
    ///
    /// Every write is recorded exactly once, *if* the caller executes `gather` before it looks at the
    /// content: until then a processor may still store through a translation that it has cached as dirty.
    /// That store belongs to this round.
    ///
    /// Lock-free, against hardware and the other operations that take `&self`.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn collect_dirty(
        &self,
        range: Range<u64>,
        gather: &mut Gather,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        self.check(&range)?;
        let mut harvest = Harvest::default();
        self.walker().walk(&range, |slot| {
            let mut gathered = slot.word;
            let mut taken = 0;
            for entry in slot.entries {
                // A clean entry is only read. If it becomes dirty right after, the next round has it.
                let mut word = entry.load(Relaxed);
                if word & DIRTY != 0 {
                    word = entry.fetch_and(!DIRTY, AcqRel);
                    taken |= word & DIRTY;
                }
                gathered |= word & HARVEST;
            }
            if taken != 0 {
                if E::LIVE {
                    gather.add_leaves::<G>(slot.range(), slot.level);
                }
                harvest.add(slot.entries.len() as u64, slot.bytes(), gathered & HARVEST);
                visit(slot.leaf(&self.config, gathered | taken));
            }
        });
        Ok(harvest)
    }
}
