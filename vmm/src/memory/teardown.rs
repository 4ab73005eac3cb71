//! The end of a guest's memory: the last harvest, and the way back to the host in one go.
//!
//! By now nobody uses the memory: the vCPUs have stopped, and the VM is being closed. That begins with its tables, so
//! that a discard does not pay for an invalidation at stage 2. Whoever waits for the guest to stop is answered before
//! this begins, because how long it takes depends on how much memory there was.
//!
//! 1. *Harvest*: one get-and-clear with `full`. What was dirty goes to whoever observes.
//! 2. *Write back*: memory in a named file outlives the guest. It is complete on disk before the program ends.
//! 3. *Release*: the rest is discarded in chunks, by as many threads as there are processors, and unmapped.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stage2::Harvest;

use super::discard::Discard;
use super::ledger::{self, Ledger};
use super::release::Release;
use super::{Backing, GuestRam};

/// Bytes that a thread takes at a time: large enough that a call's price doesn't count, small enough that all of them
/// end at about the same time.
const CHUNK: u64 = 256 << 20;

/// Why the end was not as it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger could not be refreshed for the last harvest.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// Guest memory may not be complete on disk.
    #[error("guest memory could not be written back to its file: what is on disk may be incomplete")]
    WriteBack(#[source] io::Error),
}

/// What the end found, and how long each step took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The last harvest.
    pub harvest: Harvest,
    /// Taking it.
    pub harvesting: Duration,
    /// Writing files back.
    pub writing_back: Duration,
    /// Giving memory back.
    pub releasing: Duration,
}

/// Ends the memory of a guest that nobody uses any more.
///
/// # Errors
/// [`Error`]; the memory is given back all the same.
pub fn tear_down(ram: GuestRam, ledger: &Ledger, release: &Release) -> Result<Report, Error> {
    let mut report = Report::default();
    let started = Instant::now();
    let harvested = release.tear_down();
    report.harvesting = started.elapsed();

    let started = Instant::now();
    let written = write_back(ram.backing());
    report.writing_back = started.elapsed();

    let started = Instant::now();
    if is_discarded(ram.backing()) {
        discard(&ram, &ledger.open().ram().collect::<Vec<_>>());
    }
    drop(ram);
    report.releasing = started.elapsed();
    report.harvest = harvested?;
    written.map_err(Error::WriteBack)?;
    Ok(report)
}

/// Whether the bytes are nobody's after the guest has gone, and a discard frees them. A named file's are somebody's, and
/// what was private of one goes with its mapping.
fn is_discarded(backing: &Backing) -> bool {
    match backing {
        Backing::Anon | Backing::Memfd(_) | Backing::Hugetlb { .. } => true,
        Backing::File { .. } | Backing::PrivateFile { .. } => false,
    }
}

fn write_back(backing: &Backing) -> io::Result<()> {
    match backing {
        // Also the holes: a file system may have them only in memory.
        Backing::File { file, .. } => file.sync_data(),
        _ => Ok(()),
    }
}

/// Discards all of `regions`, chunk by chunk. That nothing is there costs one call a chunk.
fn discard(ram: &GuestRam, regions: &[Range<u64>]) {
    let chunks: Vec<_> = regions
        .iter()
        .flat_map(|region| {
            let end = region.end;
            region.clone().step_by(CHUNK as usize).map(move |at| at..end.min(at + CHUNK))
        })
        .collect();
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let (discard, next) = (Discard::new(ram), AtomicUsize::new(0));
    let work = || {
        while let Some(chunk) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
            if let Err(error) = discard.discard(std::slice::from_ref(chunk)) {
                // Unmapping takes what is left.
                tracing::debug!(%error, "guest memory can't be discarded at its end");
            }
        }
    };
    std::thread::scope(|scope| {
        // This thread is one of them. Unmapping would do the same, but only once the VM, which holds the memory too, has
        // been closed.
        for _ in 1..processors.min(chunks.len()) {
            scope.spawn(work);
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

    use tempfile::TempDir;
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::config::{Backing as Kind, MemoryConfig};
    use crate::memory::release::Options;

    const BASE: u64 = 1 << 30;

    fn guest(backing: Kind, size: u64) -> (GuestRam, Ledger, Release) {
        let config = MemoryConfig { size, backing, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        let release = Release::new(&ram, ledger.clone(), Options::default());
        (ram, ledger, release)
    }

    #[test]
    fn a_file_is_complete_when_the_guest_has_gone() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("ram");
        let (ram, ledger, release) = guest(Kind::File(path.clone()), 8 << 20);
        ram.keep();
        for page in (0..2048u64).filter(|page| page % 3 == 0) {
            ram.memory().write_slice(&page.to_le_bytes(), GuestAddress(BASE + page * 4096)).unwrap();
        }
        // A page that the balloon took is a hole, and reads as zero.
        release.report(&[BASE..BASE + (64 << 10)]).unwrap();
        let report = tear_down(ram, &ledger, &release).unwrap();
        assert!(report.harvest.dirty && report.harvest.bytes >= 660 * 4096);
        let file = std::fs::File::open(&path).unwrap();
        assert_eq!(file.metadata().unwrap().size(), 8 << 20);
        for page in 0..2048u64 {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, page * 4096).unwrap();
            let expected = if page % 3 == 0 && page >= 16 { page } else { 0 };
            assert_eq!(u64::from_le_bytes(bytes), expected, "page {page}");
        }
    }

    #[test]
    fn memory_that_is_nobodys_is_the_hosts_again() {
        for backing in [Kind::Anon, Kind::Memfd] {
            // More than one chunk, so that threads have something to share.
            let (ram, ledger, release) = guest(backing, 2 * CHUNK);
            for at in (0..2 * CHUNK).step_by(2 << 20) {
                ram.memory().write_slice(&[1; 64], GuestAddress(BASE + at)).unwrap();
            }
            let regions: Vec<_> = ledger.open().ram().collect();
            discard(&ram, &regions);
            let check = ledger.open().check().unwrap();
            assert_eq!(check.present, 0, "{check:?}");
            tear_down(ram, &ledger, &release).unwrap();
        }
    }
}
