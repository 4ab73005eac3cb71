//! Shared memory: what is in the page tables was used since it was taken out of them.
//!
//! The scan is the get, and `MADV_DONTNEED` of the mapping is the clear: the data stays in the file. (In anonymous
//! memory and in private files it would be lost, and in huge pages it could not be found again.) What is used between
//! the two counts as not used until it is used again.

use std::io;
use std::ops::Range;

use super::super::advice::Advisor;
use super::super::pagemap::{Find, Pagemap};
use super::super::piece::Piece;
use super::super::{Backing, GuestMemory, Host, discard, presence};
use super::{Answer, Source};

/// Presence in the page tables of this process, which KVM's fault handling goes through too.
#[derive(Debug)]
pub struct Zap {
    memory: GuestMemory,
    page: u64,
    pagemap: Pagemap,
    advisor: Advisor,
}

impl Zap {
    /// For shared memory; `None` for a backing that would lose its content.
    ///
    /// # Errors
    ///
    /// That of opening /proc/self/pagemap.
    pub fn new(memory: &GuestMemory, backing: &Backing) -> io::Result<Option<Self>> {
        match backing {
            Backing::Memfd(_) | Backing::File { .. } => {}
            Backing::Anon | Backing::Hugetlb { .. } | Backing::PrivateFile { .. } => return Ok(None),
        }
        let (memory, page) = (memory.clone(), Host::live().page_size());
        // What discards anonymous memory takes shared memory out of the page tables.
        Ok(Some(Self { memory, page, pagemap: presence::pagemap()?, advisor: discard::private() }))
    }
}

impl Source for Zap {
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<Answer> {
        let mut used: Vec<Range<u64>> = Vec::new();
        for piece in Piece::of(&self.memory, self.page, ranges).map_err(io::Error::other)? {
            let (host, guest) = (piece.host(), piece.guest().start);
            let start = host.start as u64;
            self.pagemap.find(start..host.end as u64, Find::Held, &mut |run| {
                let run = run.start - start + guest..run.end - start + guest;
                match used.last_mut() {
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => used.push(run),
                }
            })?;
        }
        let pieces = Piece::of(&self.memory, self.page, &used).map_err(io::Error::other)?;
        // It was used, whether it can be made old or not.
        let zapped = self.advisor.advise(&pieces);
        used.into_iter().for_each(visit);
        zapped.map(|_| Answer::Complete).map_err(|stopped| stopped.source)
    }
}
