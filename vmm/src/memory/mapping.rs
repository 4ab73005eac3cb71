//! The address space itself: reserve, place, guard. [`super::region`] hands the result to vm-memory.
#![expect(unsafe_code, reason = "maps and advises memory")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{self, Advice, MapFlags, ProtFlags};

/// What can't be touched on either side of guest RAM. A multiple of every page size that arm64 has.
pub const GUARD: usize = 64 << 10;

/// What a mapping shows.
#[derive(Clone, Copy, Debug)]
pub(super) enum Object<'a> {
    /// Private anonymous memory, nothing of it promised.
    Anon,
    /// A file from this byte on, mapped shared, nothing of it promised.
    File(&'a File, u64),
    /// A file of huge pages from this byte on, mapped shared, all of them promised.
    Huge(&'a File, u64),
    /// A file from this byte on, mapped private: what is written stays here. Nothing of it is promised.
    Private(&'a File, u64),
}

/// A readable and writable mapping between two guards, unmapped on drop.
#[derive(Debug)]
pub(super) struct Mapping {
    start: *mut c_void,
    size: usize,
}

// SAFETY: the address range belongs to the value, whichever thread holds it; it offers no access to
// the bytes.
unsafe impl Send for Mapping {}
// SAFETY: as above; `advise` is a system call that any number of threads may make at once.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `size` bytes so that their address equals `guest` modulo `congruence`, a power of two.
    /// `size` and `guest` are whole pages of the object.
    pub(super) fn new(object: Object<'_>, guest: u64, size: usize, congruence: usize) -> io::Result<Self> {
        let too_large = || io::Error::from(io::ErrorKind::OutOfMemory);
        let room =
            size.checked_add(congruence).and_then(|n| n.checked_add(2 * GUARD)).ok_or_else(too_large)?;
        // SAFETY: the kernel chooses where, so nothing that exists is replaced.
        let reserved = unsafe {
            mm::mmap_anonymous(
                ptr::null_mut(),
                room,
                ProtFlags::empty(),
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let first = reserved as usize + GUARD;
        // The low bits that `first` lacks to equal those of `guest`. They are fewer than `congruence`,
        // so `size` and a guard fit behind.
        let skip = (guest as usize).wrapping_sub(first) & (congruence - 1);
        let start = reserved.wrapping_byte_add(GUARD + skip);
        let behind = congruence - skip;
        // SAFETY: both ranges lie in the reservation, which nobody else knows of: `skip` bytes before
        // the first guard, and what is behind the last one.
        unsafe {
            if skip > 0 {
                mm::munmap(reserved, skip)?;
            }
            mm::munmap(start.wrapping_byte_add(size + GUARD), behind)?;
        }
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: `start..start + size` lies in the reservation, between the guards, so MAP_FIXED
        // replaces nothing but that. Should it fail, the reservation is left alone on purpose: the
        // kernel may have taken it away already, and what is there now may be somebody else's.
        let placed = unsafe {
            match object {
                Object::Anon => mm::mmap_anonymous(
                    start,
                    size,
                    prot,
                    MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE,
                ),
                Object::File(file, offset) => {
                    let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::NORESERVE;
                    mm::mmap(start, size, prot, flags, file, offset)
                }
                Object::Private(file, offset) => {
                    let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
                    mm::mmap(start, size, prot, flags, file, offset)
                }
                Object::Huge(file, offset) => {
                    mm::mmap(start, size, prot, MapFlags::SHARED | MapFlags::FIXED, file, offset)
                }
            }
        }?;
        Ok(Self { start: placed, size })
    }

    /// Address of the first byte.
    pub(super) fn start(&self) -> *mut u8 {
        self.start.cast()
    }

    /// Bytes between the guards.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// Puts anonymous memory, which reads as zero, in the place of `offset..offset + len`, whole pages that lie
    /// in the mapping.
    pub(super) fn replace(&self, offset: usize, len: usize) -> io::Result<()> {
        if offset.checked_add(len).is_none_or(|end| end > self.size) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the range lies in the mapping, so MAP_FIXED replaces nothing but guest memory by guest
        // memory. Nothing in this process holds a reference into it or expects it to keep its content: the
        // guest may change it at any time, and every access is volatile.
        unsafe { mm::mmap_anonymous(self.start.wrapping_byte_add(offset), len, prot, flags) }?;
        Ok(())
    }

    /// Advises about `offset..offset + len`, clipped to the mapping.
    pub(super) fn advise(&self, offset: usize, len: usize, advice: Harmless) -> io::Result<()> {
        let offset = offset.min(self.size);
        let len = len.min(self.size - offset);
        // SAFETY: the range lies in the mapping, and none of these changes what it reads as.
        unsafe { mm::madvise(self.start.wrapping_byte_add(offset), len, advice.into()) }.map_err(Into::into)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let whole = self.start.wrapping_byte_sub(GUARD);
        // SAFETY: both guards and what is between them belong to this value, and whoever was given the
        // address borrows it (`Region`).
        let unmapped = unsafe { mm::munmap(whole, self.size + 2 * GUARD) };
        if let Err(error) = unmapped {
            tracing::error!(%error, "guest memory could not be unmapped");
        }
    }
}

/// Advice that leaves the content alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harmless {
    /// Huge pages, please.
    Huge,
    /// Base pages only.
    Pages,
    /// Not in core dumps: they would be as large as the guest and hold its secrets.
    NoDump,
    /// Populate now, writable.
    Populate,
}

impl From<Harmless> for Advice {
    fn from(advice: Harmless) -> Self {
        match advice {
            Harmless::Huge => Self::LinuxHugepage,
            Harmless::Pages => Self::LinuxNoHugepage,
            Harmless::NoDump => Self::LinuxDontDump,
            Harmless::Populate => Self::LinuxPopulateWrite,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The permissions of the mapping that holds `address`, from /proc/self/maps.
    fn permissions(address: usize) -> Option<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines().find_map(|line| {
            let (range, rest) = line.split_once(' ')?;
            let (start, end) = range.split_once('-')?;
            let number = |text| usize::from_str_radix(text, 16).unwrap();
            (number(start)..number(end)).contains(&address).then(|| rest[..4].to_owned())
        })
    }

    proptest! {
        #[test]
        fn every_mapping_is_congruent_and_between_guards(
            pages in 1usize..64,
            guest in (0u64..1 << 20).prop_map(|page| page * 65536),
            shift in 16u32..31,
        ) {
            let (size, congruence) = (pages * 65536, 1usize << shift);
            let mapping = Mapping::new(Object::Anon, guest, size, congruence).unwrap();
            let start = mapping.start() as usize;
            prop_assert_eq!(start % congruence, guest as usize % congruence);
            let reserved = Some("---p".to_owned());
            prop_assert_eq!(permissions(start - GUARD), reserved.clone());
            prop_assert_eq!(permissions(start - 1), reserved.clone());
            prop_assert_eq!(permissions(start), Some("rw-p".to_owned()));
            prop_assert_eq!(permissions(start + size - 1), Some("rw-p".to_owned()));
            prop_assert_eq!(permissions(start + size), reserved.clone());
            prop_assert_eq!(permissions(start + size + GUARD - 1), reserved);
        }
    }

    #[test]
    fn a_size_beyond_the_address_space_is_an_error() {
        assert!(Mapping::new(Object::Anon, 0, 1 << 62, 1 << 30).is_err());
        assert!(Mapping::new(Object::Anon, 0, usize::MAX - 4095, 1 << 30).is_err());
    }
}
