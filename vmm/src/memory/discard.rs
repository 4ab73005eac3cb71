//! Gives guest memory back to the host, so that it reads as zero afterwards and is free.
//!
//! How is decided by the type of the [`Backing`], and what this kernel can do is found out once, by
//! trying it on a page of our own:
//!
//! | backing | how | calls |
//! |---|---|---|
//! | anonymous | `MADV_DONTNEED_LOCKED` (before Linux 5.18 `MADV_DONTNEED`) | one for 1024 ranges since Linux 6.13, else one each |
//! | memfd, hugetlb, file | `MADV_REMOVE`, which punches a hole; or `fallocate(PUNCH_HOLE)` | the same; `fallocate` takes one range |
//!
//! `MADV_DONTNEED` on a shared mapping would free nothing: the pages stay in the file. Huge pages go back to
//! their pool, which keeps them promised to this guest: it can touch them again without being killed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use super::advice::{Advice, Advisor, Progress, Stopped};
use super::error::Size;
use super::host::Host;
use super::piece::{self, Piece};
use super::scratch::Scratch;
use super::{Backing, GuestMemory, GuestRam};

/// Why memory was not given back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ranges are wrong. Nothing was done.
    #[error("can't discard guest memory")]
    Ranges(#[from] piece::Error),
    /// The kernel refused. All that comes before `rest` was discarded, and nothing of what follows.
    #[error("can't discard guest memory from {:#x} to {:#x}, after {}", rest.start, rest.end, Size(done.bytes))]
    Refused {
        /// What was discarded before.
        done: Discarded,
        /// What remains of the range that was being discarded.
        rest: Range<u64>,
        /// Why.
        source: io::Error,
    },
}

/// What was given back, and what it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discarded {
    /// Bytes that read as zero now.
    pub bytes: u64,
    /// System calls.
    pub calls: u64,
}

/// Gives the memory of one guest back.
#[derive(Debug)]
pub struct Discard {
    memory: GuestMemory,
    unit: u64,
    way: Way,
}

/// What frees memory of a backing, in this kernel.
#[derive(Debug)]
enum Way {
    Private(Advisor),
    /// With the file and what is faster than punching one hole after the other.
    Shared(Arc<File>, Option<Advisor>),
}

impl Discard {
    /// Finds out what this kernel can do, on a page of its own.
    pub fn new(ram: &GuestRam) -> Self {
        Self::over(ram.memory().clone(), ram.backing())
    }

    fn over(memory: GuestMemory, backing: &Backing) -> Self {
        let page = Host::live().page_size();
        let (unit, way) = match backing {
            Backing::Anon => (page, Way::Private(private())),
            Backing::Memfd(file) | Backing::File { file, .. } => {
                (page, Way::Shared(Arc::clone(file), shared()))
            }
            Backing::Hugetlb { file, page } => (*page, Way::Shared(Arc::clone(file), shared())),
        };
        Self { memory, unit, way }
    }

    /// The least that can be given back, in bytes: a page of the host, or a huge page of the pool.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// Whether many ranges share a system call.
    pub fn is_vectored(&self) -> bool {
        match &self.way {
            Way::Private(advisor) | Way::Shared(_, Some(advisor)) => advisor.is_vectored(),
            Way::Shared(_, None) => false,
        }
    }

    /// Gives `ranges` back: ascending guest-physical ranges of whole units. Afterwards they read as zero,
    /// and their memory is the host's.
    ///
    /// What the guest writes to them meanwhile is lost or not, as the kernel comes to it.
    ///
    /// # Errors
    ///
    /// [`Error::Ranges`] before anything is done; [`Error::Refused`] says how far it came.
    pub fn discard(&self, ranges: &[Range<u64>]) -> Result<Discarded, Error> {
        let pieces = Piece::of(&self.memory, self.unit, ranges)?;
        let done = match &self.way {
            Way::Private(advisor) => advisor.advise(&pieces),
            Way::Shared(file, None) => punch(file, &pieces),
            Way::Shared(file, Some(advisor)) => advisor.advise(&pieces).or_else(|stopped| {
                // Mappings that are locked refuse it (madvise(2), MADV_REMOVE); their file doesn't.
                if stopped.source.raw_os_error() != Some(libc::EINVAL) {
                    return Err(stopped);
                }
                let rest = piece::behind(&pieces, stopped.progress.bytes);
                punch(file, &rest)
                    .map(|more| stopped.progress + more)
                    .map_err(|last| Stopped { progress: stopped.progress + last.progress, ..last })
            }),
        };
        done.map(Discarded::from).map_err(|Stopped { progress, source }| Error::Refused {
            done: progress.into(),
            // Something is left, or it would not have stopped.
            rest: piece::behind(&pieces, progress.bytes).first().map_or(0..0, Piece::guest),
            source,
        })
    }
}

impl From<Progress> for Discarded {
    fn from(progress: Progress) -> Self {
        Self { bytes: progress.bytes, calls: progress.calls }
    }
}

/// One hole for each piece.
fn punch(file: &File, pieces: &[Piece<'_>]) -> Result<Progress, Stopped> {
    let mut progress = Progress::default();
    for piece in pieces {
        let object = piece.object();
        progress.calls += 1;
        fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, object.start, piece.len())
            .map_err(|error| Stopped { progress, source: error.into() })?;
        progress.bytes += piece.len();
    }
    Ok(progress)
}

/// The best advice that discards anonymous memory here.
fn private() -> Advisor {
    let all = [Advice::DiscardLocked, Advice::Discard];
    let vectored = all.into_iter().filter_map(|advice| Advisor::vectored(advice).ok());
    let single = [Advice::DiscardLocked].into_iter().map(Advisor::single);
    vectored.chain(single).find(discards).unwrap_or_else(|| Advisor::single(Advice::Discard))
}

/// Whether `advisor` discards a page of anonymous memory.
fn discards(advisor: &Advisor) -> bool {
    Scratch::anon().and_then(|scratch| scratch.is_free_after(advisor)).unwrap_or(false)
}

/// What punches many holes in one call here, if anything does.
fn shared() -> Option<Advisor> {
    let advisor = Advisor::vectored(Advice::Remove).ok()?;
    Scratch::memfd().and_then(|scratch| scratch.is_free_after(&advisor)).unwrap_or(false).then_some(advisor)
}

#[cfg(test)]
mod tests;
