//! A few pages of our own, to find out what this kernel does to memory that it is given advice about.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;

use rustix::fs::MemfdFlags;
use vm_memory::{Bytes, GuestAddress};

use super::advice::Advisor;
use super::host::Host;
use super::mapping::{GUARD, Mapping, Object};
use super::pagemap::{Find, Pagemap};
use super::piece::Piece;
use super::{GuestMemory, Region};

/// Three pages that look like guest memory and belong to no guest.
#[derive(Debug)]
pub(super) struct Scratch {
    memory: GuestMemory,
    page: u64,
    file: Option<File>,
}

impl Scratch {
    /// Private anonymous pages.
    pub(super) fn anon() -> io::Result<Self> {
        Self::new(None)
    }

    /// Pages of a memfd, mapped shared.
    pub(super) fn memfd() -> io::Result<Self> {
        let file = File::from(rustix::fs::memfd_create("quire-scratch", MemfdFlags::CLOEXEC)?);
        file.set_len(3 * Host::live().page_size())?;
        Self::new(Some(file))
    }

    fn new(file: Option<File>) -> io::Result<Self> {
        let page = Host::live().page_size();
        let object = file.as_ref().map_or(Object::Anon, |file| Object::File(file, 0));
        let mapping = Mapping::new(object, 0, 3 * page as usize, GUARD)?;
        let region = Region::new(mapping, GuestAddress(0), 0, page)?.ok_or(io::ErrorKind::InvalidInput)?;
        let memory = GuestMemory::from_regions(vec![region]).map_err(io::Error::other)?;
        Ok(Self { memory, page, file })
    }

    /// Whether the first and the last page read as zero once they are advised about together, the one
    /// between them is as it was, and a file has got smaller by them.
    pub(super) fn is_free_after(&self, advisor: &Advisor) -> io::Result<bool> {
        let (found, smaller) = self.after(advisor)?;
        Ok(found == [0, 1, 0] && (smaller || self.file.is_none()))
    }

    /// Whether all pages are as they were once two of them are advised about together.
    pub(super) fn is_kept_after(&self, advisor: &Advisor) -> io::Result<bool> {
        self.after(advisor).map(|(found, _)| found == [1; 3])
    }

    /// Whether a page that was written is found, and one that was only read or not touched is not.
    pub(super) fn is_found_by(&self, pagemap: &Pagemap) -> io::Result<bool> {
        self.memory.write_obj(1u8, GuestAddress(0)).map_err(io::Error::other)?;
        self.memory.read_obj::<u8>(GuestAddress(self.page)).map_err(io::Error::other)?;
        let pieces = Piece::of(&self.memory, self.page, &[0..3 * self.page]).map_err(io::Error::other)?;
        let Some(host) = pieces.first().map(Piece::host) else { return Ok(false) };
        let host = host.start as u64..host.end as u64;
        let mut found = Vec::new();
        pagemap.find(host.clone(), Find::Held, &mut |run| found.push(run))?;
        Ok(found == [host.start..host.start + self.page])
    }

    /// What the three pages hold, each of which held 1, once the first and the last were advised about
    /// together; and whether the file has got smaller.
    fn after(&self, advisor: &Advisor) -> io::Result<([u8; 3], bool)> {
        let blocks = || self.file.as_ref().map_or(Ok(0), |file| file.metadata().map(|data| data.blocks()));
        let pages = [0, 1, 2].map(|n| GuestAddress(n * self.page));
        for page in pages {
            self.memory.write_obj(1u8, page).map_err(io::Error::other)?;
        }
        let before = blocks()?;
        let ranges = [0..self.page, 2 * self.page..3 * self.page];
        let pieces = Piece::of(&self.memory, self.page, &ranges).map_err(io::Error::other)?;
        advisor.advise(&pieces).map_err(|stopped| stopped.source)?;
        // Before it is read: that may fill the holes.
        let smaller = blocks()? < before;
        let mut found = [0; 3];
        for (byte, page) in found.iter_mut().zip(pages) {
            *byte = self.memory.read_obj(page).map_err(io::Error::other)?;
        }
        Ok((found, smaller))
    }
}

#[cfg(test)]
mod tests {
    use super::super::advice::Advice;
    use super::*;

    #[test]
    fn dontneed_of_a_memfd_is_seen_to_free_nothing() {
        let scratch = Scratch::memfd().unwrap();
        assert!(!scratch.is_free_after(&Advisor::single(Advice::Discard)).unwrap());
        assert!(scratch.is_free_after(&Advisor::single(Advice::Remove)).unwrap());
    }

    #[test]
    fn dontneed_of_anonymous_memory_is_seen_to_discard() {
        let scratch = Scratch::anon().unwrap();
        assert!(scratch.is_free_after(&Advisor::single(Advice::Discard)).unwrap());
        assert!(!scratch.is_free_after(&Advisor::single(Advice::Populate)).unwrap());
        assert!(scratch.is_free_after(&Advisor::single(Advice::Remove)).is_err());
    }
}
