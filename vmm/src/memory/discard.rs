//! Gives guest memory back to the host, so that it reads as zero afterwards and is free.
//!
//! How is decided by the type of the [`Backing`], and what this kernel can do is found out once, by
//! trying it on a page of our own:
//!
//! | backing | how | calls |
//! |---|---|---|
//! | anonymous | `MADV_DONTNEED_LOCKED` (before Linux 5.18 `MADV_DONTNEED`) | one for 1024 ranges since Linux 6.13, else one each |
//! | memfd, hugetlb, file | `MADV_REMOVE`, which punches a hole; or `fallocate(PUNCH_HOLE)` | the same; `fallocate` takes one range |
//! | private file | anonymous memory is mapped over it; what is anonymous already, as above | two or three each; as above |
//!
//! `MADV_DONTNEED` on a shared mapping would free nothing: the pages stay in the file. On a private file it would
//! bring the file's bytes back. What is mapped over a private file adds to the mappings of this process, of which
//! there may be only so many (vm.max_map_count): half of them are for guest memory, and more is refused. Huge pages go back to
//! their pool, which keeps them promised to this guest: it can touch them again without being killed.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::{FallocateFlags, fallocate};

use crate::config::Size;
use crate::faults::{self, Fault};

use super::advice::{Advice, Advisor, Progress, Stopped};
use super::backing::Replaced;
use super::host::Host;
use super::piece::{self, Piece};
use super::scratch::Scratch;
use super::transparent::{self, Kind};
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
    Replacing(Replacing),
}

/// A file that must not show again: anonymous memory takes its place.
#[derive(Debug)]
struct Replacing {
    replaced: Replaced,
    /// For what is anonymous already.
    advisor: Advisor,
    /// Whether anonymous memory is to be huge.
    huge: bool,
    /// The most mappings that guest memory may be in.
    most: usize,
}

/// There would be too many mappings.
#[derive(Debug, thiserror::Error)]
#[error(
    "guest memory is in up to {mappings} mappings, and this host allows a process {} in all: \
     write more to /proc/sys/vm/max_map_count, or give back larger blocks",
    2 * most
)]
struct Fragmented {
    mappings: usize,
    most: usize,
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
            Backing::PrivateFile { replaced, .. } => {
                (page, Way::Replacing(Replacing::new(&Host::live(), replaced)))
            }
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
            Way::Shared(_, None) | Way::Replacing(_) => false,
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
            Way::Shared(..) if faults::is(Fault::DontNeedShared) => private().advise(&pieces),
            Way::Private(advisor) => advisor.advise(&pieces),
            Way::Shared(file, None) => punch(file, &pieces),
            Way::Replacing(replacing) => replacing.discard(&pieces),
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

impl Replacing {
    fn new(host: &Host, replaced: &Replaced) -> Self {
        Self {
            replaced: replaced.clone(),
            advisor: private(),
            huge: transparent::largest(host, Kind::Anon, 1 << 30).is_some(),
            most: host.most_mappings() / 2,
        }
    }

    fn discard(&self, pieces: &[Piece<'_>]) -> Result<Progress, Stopped> {
        let mut anonymous = self.replaced.lock();
        let mut progress = Progress::default();
        let stopped = |progress: Progress| move |source| Stopped { progress, source };
        let mut rest = pieces;
        while let Some((piece, behind)) = rest.split_first() {
            // As many as are anonymous already: they come first, together.
            let covered = rest.iter().take_while(|piece| anonymous.covers(&piece.object())).count();
            if covered > 0 {
                let done = self.advisor.advise(&rest[..covered]);
                let done = done.map_err(|last| Stopped { progress: progress + last.progress, ..last })?;
                (progress, rest) = (progress + done, &rest[covered..]);
                continue;
            }
            let mut after = anonymous.clone();
            after.replace(piece.object());
            let mappings = after.mappings();
            // What leaves no more of them than there are is always good.
            if mappings > self.most && mappings > anonymous.mappings() {
                let error = Fragmented { mappings, most: self.most };
                return Err(stopped(progress)(io::Error::other(error)));
            }
            let calls = piece.replace(self.huge).map_err(stopped(progress))?;
            *anonymous = after;
            (progress, rest) = (progress + Progress { bytes: piece.len(), calls }, behind);
        }
        Ok(progress)
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
pub(super) fn private() -> Advisor {
    let all = [Advice::DiscardLocked, Advice::Discard];
    let vectored = all.into_iter().filter_map(|advice| Advisor::vectored(advice).ok());
    let single = [Advice::DiscardLocked].into_iter().map(Advisor::single);
    vectored.chain(single).find(discards).unwrap_or_else(|| Advisor::single(Advice::Discard))
}

/// Whether this kernel discards many ranges of anonymous memory in one call.
///
/// # Errors
///
/// The kernel's; EINVAL before Linux 6.13.
pub fn kernel_is_vectored() -> io::Result<bool> {
    Scratch::anon()?.is_free_after(&Advisor::vectored(Advice::Discard)?)
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
mod private_tests;
#[cfg(test)]
mod tests;
