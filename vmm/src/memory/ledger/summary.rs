//! How much is in which state, in leaves of which size.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Books, Error, State};

/// Sums over all of RAM, in bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Summary {
    /// All of RAM.
    pub total: u64,
    /// Holds something.
    pub populated: u64,
    /// Of that, written since dirty pages were last collected, or nobody can tell.
    pub dirty: u64,
    /// Of what is populated, used since the last ageing, or nobody can tell.
    pub young: u64,
    /// Held by the balloon, hard.
    pub released: u64,
    /// Zero when last looked at.
    pub vacant: u64,
    /// Not loaded yet.
    pub absent: u64,
    /// What is populated, by the size of the leaf that stands for it: bytes by bytes per leaf.
    pub leaves: BTreeMap<u64, u64>,
    /// What the ledger itself takes.
    pub ledger: u64,
}

impl Books {
    /// Sums up all of RAM, as it is known: [`Books::refresh`] first to know it well.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn summary(&mut self) -> Result<Summary, Error> {
        let mut sum = Summary { ledger: self.held(), ..Summary::default() };
        let ram: Vec<_> = self.ram().collect();
        for range in ram {
            sum.total += range.end - range.start;
            self.stretches(range.clone(), |stretch| {
                let bytes = stretch.range.end - stretch.range.start;
                match stretch.state {
                    State::Populated { young, dirty } => {
                        sum.populated += bytes;
                        sum.young += if young { bytes } else { 0 };
                        sum.dirty += if dirty { bytes } else { 0 };
                    }
                    State::Released => sum.released += bytes,
                    State::Vacant => sum.vacant += bytes,
                    State::Absent => sum.absent += bytes,
                }
            })?;
            self.leaves(range, |leaf| *sum.leaves.entry(leaf.bytes).or_default() += leaf.bytes)?;
        }
        Ok(sum)
    }
}
