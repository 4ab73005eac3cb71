//! Brings guest memory back whole: every page of a range is there, in the largest blocks that the backing
//! gives, before the guest touches the first.

use std::io;
use std::ops::Range;

use crate::config::Size;

use super::advice::{Advice, Advisor, Stopped};
use super::host::Host;
use super::piece::{self, Piece};
use super::scratch::Scratch;
use super::{Backing, GuestMemory, GuestRam};

/// Why memory was not populated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ranges are wrong. Nothing was done.
    #[error("can't populate guest memory")]
    Ranges(#[from] piece::Error),
    /// The host refused, for want of memory most of the time. What is missing will be had when the guest
    /// touches it, or not.
    #[error("can't populate guest memory from {:#x} to {:#x}, after {}", rest.start, rest.end, Size(done.bytes))]
    Refused {
        /// What was populated before.
        done: Populated,
        /// What remains of the range that was being populated; a part of it may be there.
        rest: Range<u64>,
        /// Why.
        source: io::Error,
    },
}

/// What was populated, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Populated {
    /// Bytes.
    pub bytes: u64,
    /// System calls.
    pub calls: u64,
}

/// Populates the memory of one guest, by `MADV_POPULATE_WRITE` (Linux 5.14).
#[derive(Debug)]
pub struct Populate {
    memory: GuestMemory,
    unit: u64,
    advisor: Advisor,
}

impl Populate {
    /// Finds out, on a page of its own, whether many ranges can share a system call.
    pub fn new(ram: &GuestRam) -> Self {
        let unit = match ram.backing() {
            Backing::Hugetlb { page, .. } => *page,
            _ => Host::live().page_size(),
        };
        let vectored = Advisor::vectored(Advice::Populate).ok().filter(|advisor| {
            Scratch::anon().and_then(|scratch| scratch.is_kept_after(advisor)).unwrap_or(false)
        });
        let advisor = vectored.unwrap_or_else(|| Advisor::single(Advice::Populate));
        Self { memory: ram.memory().clone(), unit, advisor }
    }

    /// Populates `ranges`, ascending guest-physical ranges of whole host pages (huge pages of the pool for
    /// hugetlb). What was there stays as it is; what was not reads as zero, or as its file does.
    ///
    /// Ranges that are whole blocks come as blocks where the backing and the host have some.
    ///
    /// # Errors
    ///
    /// [`Error::Ranges`] before anything is done; [`Error::Refused`] says how far it came.
    pub fn populate(&self, ranges: &[Range<u64>]) -> Result<Populated, Error> {
        let pieces = Piece::of(&self.memory, self.unit, ranges)?;
        match self.advisor.advise(&pieces) {
            Ok(progress) => Ok(Populated { bytes: progress.bytes, calls: progress.calls }),
            Err(Stopped { progress, source }) => Err(Error::Refused {
                done: Populated { bytes: progress.bytes, calls: progress.calls },
                // Something is left, or it would not have stopped.
                rest: piece::behind(&pieces, progress.bytes).first().map_or(0..0, Piece::guest),
                source,
            }),
        }
    }
}

impl Populate {
    /// Joins the pages of `blocks`, whole blocks of which something is populated, into huge pages by
    /// `MADV_COLLAPSE` (Linux 6.1). What they hold stays, and their gaps read as zero. Returns the system calls: it is a
    /// wish, and a host that has no huge page to give leaves the block as it was.
    ///
    /// # Errors
    ///
    /// [`Error::Ranges`].
    pub fn join(&self, blocks: &[Range<u64>]) -> Result<u64, Error> {
        let pieces = Piece::of(&self.memory, self.unit, blocks)?;
        let advisor = Advisor::single(Advice::Collapse);
        for piece in &pieces {
            if let Err(Stopped { source, .. }) = advisor.advise(&[*piece]) {
                tracing::debug!(error = %source, "a block stays in pages");
            }
        }
        Ok(pieces.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{self, assert_filled_but, fill, resident_all};
    use super::*;
    use crate::config::{self, MemoryConfig};
    use vm_memory::GuestAddress;

    const M: u64 = 1 << 20;
    const BASE: u64 = 1 << 30;

    fn ram(backing: config::Backing) -> GuestRam {
        let config = MemoryConfig { size: 16 * M, backing, ..MemoryConfig::default() };
        GuestRam::allocate(&config, GuestAddress(BASE)).unwrap()
    }

    #[test]
    fn what_was_discarded_comes_back_whole_and_what_is_there_is_kept() {
        for backing in [config::Backing::Anon, config::Backing::Memfd] {
            let ram = ram(backing);
            let discard = super::super::Discard::new(&ram);
            fill(ram.memory(), BASE..BASE + 16 * M);
            let gone = [BASE..BASE + 4 * M, BASE + 8 * M..BASE + 10 * M];
            discard.discard(&gone).unwrap();
            let populate = Populate::new(&ram);
            let back = [BASE + 2 * M..BASE + 6 * M, BASE + 8 * M..BASE + 10 * M];
            let done = populate.populate(&back).unwrap();
            let calls = if populate.advisor.is_vectored() { 1 } else { 2 };
            assert_eq!(done, Populated { bytes: 6 * M, calls });
            assert_eq!(resident_all(ram.memory()), 14 * M);
            assert_filled_but(ram.memory(), BASE..BASE + 16 * M, &gone);
        }
    }

    #[test]
    fn ranges_that_are_not_guest_memory_are_refused() {
        let ram = ram(config::Backing::Anon);
        let populate = Populate::new(&ram);
        for range in [BASE - M..BASE + M, BASE + 15 * M..BASE + 17 * M, BASE + 1..BASE + M] {
            assert!(matches!(populate.populate(&[BASE..BASE, range]), Err(Error::Ranges(_))));
        }
        assert_eq!(resident_all(ram.memory()), 0);
        assert_eq!(testing::page(), populate.unit);
    }
}
