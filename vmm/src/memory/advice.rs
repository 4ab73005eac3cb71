//! Advice on pieces of guest RAM that changes what they hold: many of them in one system call, where
//! the kernel takes that.
#![expect(unsafe_code, reason = "discards and populates guest memory")]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::piece::{self, Piece};

/// The most pieces that one call takes (UIO_MAXIOV).
const PIECES: usize = 1024;

/// The most bytes that one call takes: the kernel cuts its list off at 2 GiB less a page (MAX_RW_COUNT),
/// and 64K is a multiple of every page size that arm64 has. A larger piece goes alone, by madvise, which
/// has no such limit.
const BYTES: u64 = (1 << 31) - (64 << 10);

/// What is to be done to the pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// Private memory: freed; anonymous memory then reads as zero.
    Discard,
    /// The same; it is not refused for memory that is locked, and does the same to memory that is not.
    DiscardLocked,
    /// A shared mapping of a file: the hole is punched in the file.
    Remove,
    /// Populated, writable; what it holds stays.
    Populate,
    /// Joined into huge pages, gaps filled with zeroes; what it holds stays.
    Collapse,
}

impl Advice {
    fn number(self) -> libc::c_int {
        match self {
            Self::Discard => libc::MADV_DONTNEED,
            Self::DiscardLocked => libc::MADV_DONTNEED_LOCKED,
            Self::Remove => libc::MADV_REMOVE,
            Self::Populate => libc::MADV_POPULATE_WRITE,
            Self::Collapse => libc::MADV_COLLAPSE,
        }
    }
}

/// How far a list was worked off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Bytes done, from the first piece on.
    pub(super) bytes: u64,
    /// System calls made.
    pub(super) calls: u64,
}

impl std::ops::Add for Progress {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { bytes: self.bytes + more.bytes, calls: self.calls + more.calls }
    }
}

/// It went no further.
#[derive(Debug)]
pub(super) struct Stopped {
    /// How far it went.
    pub(super) progress: Progress,
    /// Why no further.
    pub(super) source: io::Error,
}

/// Gives one kind of advice.
#[derive(Debug)]
pub(super) struct Advisor {
    advice: Advice,
    /// This process, for process_madvise(2); without it every piece has a call of its own.
    process: Option<OwnedFd>,
}

impl Advisor {
    /// One call for each piece.
    pub(super) fn single(advice: Advice) -> Self {
        Self { advice, process: None }
    }

    /// One call for many pieces. Whether the kernel takes that is only known when it is tried: since
    /// Linux 6.13 it does, on the process itself.
    pub(super) fn vectored(advice: Advice) -> io::Result<Self> {
        let process = pidfd_open(getpid(), PidfdFlags::empty())?;
        Ok(Self { advice, process: Some(process) })
    }

    /// Whether many pieces share a call.
    pub(super) fn is_vectored(&self) -> bool {
        self.process.is_some()
    }

    /// Advises about the pieces, in order.
    pub(super) fn advise(&self, pieces: &[Piece<'_>]) -> Result<Progress, Stopped> {
        let mut progress = Progress::default();
        let mut pieces = pieces;
        let mut rest;
        while !pieces.is_empty() {
            let (count, bytes) = self.batch(pieces);
            progress.calls += 1;
            let done = match &self.process {
                Some(process) if count > 1 => self.many(process, &pieces[..count]),
                _ => self.one(pieces[0]).map(|()| bytes),
            };
            match done {
                Ok(0) => return Err(Stopped { progress, source: io::ErrorKind::WriteZero.into() }),
                Ok(done) => {
                    progress.bytes += done;
                    if done == bytes {
                        pieces = &pieces[count..];
                    } else {
                        // It stopped half-way, and says why once it is asked to go on from there.
                        rest = piece::behind(pieces, done);
                        pieces = &rest;
                    }
                }
                Err(source) => return Err(Stopped { progress, source }),
            }
        }
        Ok(progress)
    }

    /// How many of the pieces the next call takes, at least 1, and their bytes.
    fn batch(&self, pieces: &[Piece<'_>]) -> (usize, u64) {
        let most = if self.process.is_some() { PIECES } else { 1 };
        let (mut count, mut bytes) = (0, 0u64);
        for piece in pieces.iter().take(most) {
            if count > 0 && bytes + piece.len() > BYTES {
                break;
            }
            (count, bytes) = (count + 1, bytes + piece.len());
        }
        (count, bytes)
    }

    fn one(&self, piece: Piece<'_>) -> io::Result<()> {
        let host = piece.host();
        // SAFETY: a piece lies in the mapping of a region that it borrows, so nothing but guest memory
        // is advised about. Nothing in this process holds a reference into guest memory or expects it
        // to keep its content: the guest may change it at any time, and every access is volatile.
        let done =
            unsafe { libc::madvise(host.start as *mut libc::c_void, host.len(), self.advice.number()) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Bytes done: whole pieces, from the first one on.
    fn many(&self, process: &OwnedFd, pieces: &[Piece<'_>]) -> io::Result<u64> {
        let vector: Vec<libc::iovec> = pieces
            .iter()
            .map(|piece| {
                let host = piece.host();
                libc::iovec { iov_base: host.start as *mut libc::c_void, iov_len: host.len() }
            })
            .collect();
        // SAFETY: the descriptor is open and the vector lives for the time of the call. The descriptor is
        // this process's own, so each element is advised about here: see `one`.
        let done = unsafe {
            libc::syscall(
                libc::SYS_process_madvise,
                process.as_raw_fd(),
                vector.as_ptr(),
                vector.len(),
                self.advice.number(),
                0u32,
            )
        };
        u64::try_from(done).map_err(|_| io::Error::last_os_error())
    }
}

/// Keeps a piece in memory, as a locked VM would be.
#[cfg(test)]
pub(super) fn lock(piece: Piece<'_>) {
    let host = piece.host();
    // SAFETY: the piece is mapped, and locking doesn't change what it holds.
    unsafe { rustix::mm::mlock(host.start as *mut libc::c_void, host.len()) }.unwrap();
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_the_kernel_refuses_ends_the_list_there() {
        const PAGE: u64 = 64 << 10;
        let list = [0..PAGE, 2 * PAGE..3 * PAGE, 4 * PAGE..5 * PAGE];
        for advisor in [Advisor::single(Advice::Discard), Advisor::vectored(Advice::Discard).unwrap()] {
            let memory = testing::anon(&[(0, 8 * PAGE)]);
            testing::fill(&memory, 0..8 * PAGE);
            let pieces = Piece::of(&memory, PAGE, &list).unwrap();
            // This advice is refused for locked memory.
            lock(pieces[1]);
            let stopped = advisor.advise(&pieces).unwrap_err();
            // Before Linux 6.13 the call with many of them is refused as a whole.
            let discarded = if stopped.progress.bytes == 0 { vec![] } else { vec![list[0].clone()] };
            assert!(discarded.len() == 1 || advisor.is_vectored());
            assert_eq!(stopped.source.raw_os_error(), Some(libc::EINVAL));
            testing::assert_filled_but(&memory, 0..8 * PAGE, &discarded);
        }
    }

    #[test]
    fn a_batch_has_at_most_1024_pieces_and_less_than_2_gib() {
        const PAGE: u64 = 64 << 10;
        let memory = testing::anon(&[(0, 3000 * PAGE), (1 << 40, 6 << 30)]);
        let odd: Vec<_> = (0..1500).map(|n| 2 * n * PAGE..(2 * n + 1) * PAGE).collect();
        let odd = Piece::of(&memory, PAGE, &odd).unwrap();
        let vectored = Advisor::vectored(Advice::Discard).unwrap();
        assert_eq!(vectored.batch(&odd), (1024, 1024 * PAGE));
        assert_eq!(Advisor::single(Advice::Discard).batch(&odd), (1, PAGE));
        let base = 1u64 << 40;
        let large = [
            base..base + (1 << 30),
            base + (1 << 30) + PAGE..base + (2 << 30),
            base + (2 << 30) + PAGE..base + (6 << 30),
        ];
        let large = Piece::of(&memory, PAGE, &large).unwrap();
        assert_eq!(vectored.batch(&large), (2, (2 << 30) - PAGE));
        assert_eq!(vectored.batch(&large[2..]), (1, (4 << 30) - PAGE));
    }
}
