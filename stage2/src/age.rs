//! Ageing: test and clear young.

use core::ops::Range;

use crate::atomic::{AcqRel, Relaxed};
use crate::clear::Harvest;
use crate::descriptor::{AF, HARVEST};
use crate::error::Error;
use crate::frames::Frames;
use crate::gather::Gather;
use crate::geometry::Granule;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::Leaf;

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Finds the young leaves that touch `range`, hands each to `visit` as it was, and makes it old. A group is
    /// young if any member is, and ages as a whole; a leaf is reported whole, beyond the range too.
    ///
    /// A leaf without AF is never cached anew, but one that was cached stays so: until `gather` is
    /// executed its accesses go unseen. Whoever can live with leaves that look older than they are
    /// clears the gather instead.
    ///
    /// Lock-free, against hardware and the other operations that take `&self`. Dirty stays untouched.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn age(
        &self,
        range: Range<u64>,
        gather: &mut Gather,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        self.check(&range)?;
        let mut harvest = Harvest::default();
        self.walker().walk(&range, |slot| {
            let mut gathered = slot.word;
            let mut young = false;
            for entry in slot.entries {
                let mut word = entry.load(Relaxed);
                if word & AF != 0 {
                    word = entry.fetch_and(!AF, AcqRel);
                    young |= word & AF != 0;
                }
                gathered |= word & HARVEST;
            }
            if young {
                if E::LIVE {
                    gather.add_leaves::<G>(slot.range(), slot.level);
                }
                harvest.add(slot.entries.len() as u64, slot.bytes(), gathered & HARVEST);
                visit(slot.leaf(&self.config, gathered | AF));
            }
        });
        Ok(harvest)
    }
}
