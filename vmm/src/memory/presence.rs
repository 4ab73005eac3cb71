//! Which parts of guest memory hold something, as the host sees it now.
//!
//! | backing | asked | holds something |
//! |---|---|---|
//! | anonymous, hugetlb | PAGEMAP_SCAN (Linux 6.7), else /proc/self/pagemap | present or swapped out, and not the zero page |
//! | memfd, file | SEEK_DATA, SEEK_HOLE | data, wherever it is |
//! | private file | both | data, where the file still shows; and private copies |
//!
//! What is not visited reads as zero. The other way round it does not hold: a page that was only ever written
//! with zeroes is visited, and /proc/self/pagemap can't tell the zero page from others.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::anonymous::Anonymous;
use super::backing::Replaced;
use super::host::Host;
use super::pagemap::{Find, Pagemap};
use super::piece::{self, Piece};
use super::scratch::Scratch;
use super::{Backing, GuestMemory, GuestRam};

/// Why nobody knows what is in memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The range is wrong.
    #[error("can't look for what is in guest memory")]
    Range(#[from] piece::Error),
    /// The kernel refused.
    #[error("can't find out what is in guest memory from {:#x} to {:#x}", range.start, range.end)]
    Refused {
        /// The range, as far as it lies in one region.
        range: Range<u64>,
        /// Why.
        source: io::Error,
    },
}

/// Looks at the memory of one guest.
#[derive(Debug)]
pub struct Presence {
    memory: GuestMemory,
    page: u64,
    way: Way,
}

#[derive(Debug)]
enum Way {
    /// The page tables of this process tell.
    Mapping(Pagemap),
    /// The file tells.
    Object(Arc<File>),
    /// The file tells, and the page tables where it has nothing or no longer shows.
    Both(Arc<File>, Replaced, Pagemap),
}

impl Presence {
    /// Finds out what this kernel can do, on a page of its own.
    ///
    /// # Errors
    ///
    /// Those of opening /proc/self/pagemap, where the backing needs it.
    pub fn new(ram: &GuestRam) -> io::Result<Self> {
        Self::over(ram.memory().clone(), ram.backing())
    }

    fn over(memory: GuestMemory, backing: &Backing) -> io::Result<Self> {
        let way = match backing {
            // hugetlbfs calls every byte of its files data.
            Backing::Anon | Backing::Hugetlb { .. } => Way::Mapping(pagemap()?),
            Backing::Memfd(file) | Backing::File { file, .. } => Way::Object(Arc::clone(file)),
            Backing::PrivateFile { file, replaced, .. } => {
                Way::Both(Arc::clone(file), replaced.clone(), pagemap()?)
            }
        };
        Ok(Self { memory, page: Host::live().page_size(), way })
    }

    /// Visits what holds something in `range`, whole pages of guest RAM: in ascending order, and as few ranges
    /// as there can be. Returns the number of system calls.
    ///
    /// What the guest touches meanwhile is visited or not.
    ///
    /// # Errors
    ///
    /// [`Error`]; what was visited before it is right.
    pub fn scan(&self, range: Range<u64>, visit: &mut dyn FnMut(Range<u64>)) -> Result<u64, Error> {
        let mut calls = 0;
        let mut runs = Runs { open: 0..0, visit };
        for piece in Piece::of(&self.memory, self.page, &[range])? {
            let scanned = match &self.way {
                Way::Mapping(pagemap) => mapped(pagemap, Find::Held, &piece, piece.object(), &mut runs),
                Way::Object(file) => {
                    let (object, guest) = (piece.object().start, piece.guest().start);
                    data(file, piece.object(), self.page, &mut |run| {
                        runs.add(translate(&run, object, guest));
                        Ok(())
                    })
                }
                Way::Both(file, replaced, pagemap) => {
                    // Not held for long: whoever discards takes it.
                    let anonymous = replaced.lock().clone();
                    self.both(file, &anonymous, pagemap, &piece, &mut runs)
                }
            };
            calls += scanned.map_err(|source| Error::Refused { range: piece.guest(), source })?;
        }
        runs.end();
        Ok(calls)
    }

    /// Data where the file shows, and what the page tables hold between it.
    fn both(
        &self,
        file: &File,
        anonymous: &Anonymous,
        pagemap: &Pagemap,
        piece: &Piece<'_>,
        runs: &mut Runs<'_>,
    ) -> io::Result<u64> {
        let (object, guest) = (piece.object(), piece.guest().start);
        let (mut at, mut calls) = (object.start, 0);
        for shown in anonymous.gaps(&object) {
            let mut scans = 0;
            calls += data(file, shown, self.page, &mut |extent| {
                scans += mapped(pagemap, Find::Private, piece, at..extent.start, runs)?;
                at = extent.end;
                runs.add(translate(&extent, object.start, guest));
                Ok(())
            })?;
            calls += scans;
        }
        Ok(calls + mapped(pagemap, Find::Private, piece, at..object.end, runs)?)
    }
}

/// Adds what the page tables hold of `object`, a part of the piece's place in its object.
fn mapped(
    pagemap: &Pagemap,
    what: Find,
    piece: &Piece<'_>,
    object: Range<u64>,
    runs: &mut Runs<'_>,
) -> io::Result<u64> {
    let (start, host, guest) = (piece.object().start, piece.host().start as u64, piece.guest().start);
    let place = translate(&object, start, host);
    pagemap.find(place, what, &mut |run| runs.add(translate(&run, host, guest)))
}

/// The same range where `from` is called `to`.
fn translate(range: &Range<u64>, from: u64, to: u64) -> Range<u64> {
    range.start - from + to..range.end - from + to
}

/// Joins runs that touch before they are visited.
struct Runs<'a> {
    open: Range<u64>,
    visit: &'a mut dyn FnMut(Range<u64>),
}

impl Runs<'_> {
    fn add(&mut self, run: Range<u64>) {
        if self.open.end == run.start && !self.open.is_empty() {
            self.open.end = run.end;
        } else {
            self.end();
            self.open = run;
        }
    }

    fn end(&mut self) {
        if !self.open.is_empty() {
            (self.visit)(std::mem::take(&mut self.open));
        }
    }
}

/// Visits the data in `range` of a file, in whole pages: a file system may have smaller blocks.
fn data(
    file: &File,
    range: Range<u64>,
    page: u64,
    visit: &mut dyn FnMut(Range<u64>) -> io::Result<()>,
) -> io::Result<u64> {
    let mut calls = 0;
    let mut seek = |to| {
        calls += 1;
        match rustix::fs::seek(file, to) {
            Ok(found) => Ok(Some(found)),
            // No data up to the end of the file.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(io::Error::from(error)),
        }
    };
    let mut at = range.start;
    while at < range.end {
        let Some(start) = seek(SeekFrom::Data(at))?.filter(|start| *start < range.end) else { break };
        let end = seek(SeekFrom::Hole(start))?.unwrap_or(range.end);
        let end = end.next_multiple_of(page).min(range.end);
        visit((start / page * page).max(at)..end)?;
        at = end;
    }
    Ok(calls)
}

/// Whether this kernel's PAGEMAP_SCAN finds what was written, and nothing else.
///
/// # Errors
///
/// The kernel's; ENOTTY before Linux 6.7.
pub fn kernel_scans() -> io::Result<bool> {
    Scratch::anon()?.is_found_by(&Pagemap::scanning()?)
}

/// The best that this kernel has.
pub(super) fn pagemap() -> io::Result<Pagemap> {
    if kernel_scans().unwrap_or(false) { Pagemap::scanning() } else { Pagemap::reading() }
}

#[cfg(test)]
mod tests;
