//! Canaries: memory of our own on both sides of a region, right behind its guards. Whoever discards or writes past
//! the region's end hits them, or loses the guards.
//!
//! `/proc/self/maps` shows neighbours that are alike as one: a guard may be told with the unused end of an allocator's
//! arena, and shrink when that is used. So what is asked is whether each byte of a guard is one that nobody may touch,
//! not where the mapping that it lies in begins and ends.
#![expect(unsafe_code, reason = "maps pages at chosen addresses, and reads them back")]

use std::fs;
use std::io;
use std::ops::Range;

use rustix::io::Errno;
use rustix::mm::{self, MapFlags, ProtFlags};

use crate::memory::GUARD;

/// Bytes of one canary: a multiple of every page size that arm64 has.
const SIZE: u64 = 64 << 10;

/// What a canary found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Harm {
    /// A canary is not what it was.
    #[error(
        "the canary beside guest memory at {region:#x} has changed at {address:#x}: {found:#x}, not {expected:#x}"
    )]
    Changed {
        /// Where the region begins in this process.
        region: u64,
        /// Where the canary differs.
        address: u64,
        /// What is there.
        found: u64,
        /// What was there.
        expected: u64,
    },
    /// A guard is not what it was.
    #[error("the guards around guest memory at {region:#x} have changed")]
    Guards {
        /// Where the region begins in this process.
        region: u64,
    },
    /// The host does not tell.
    #[error("the guards around guest memory at {region:#x} can't be looked at: /proc/self/maps: {error}")]
    Unseen {
        /// Where the region begins in this process.
        region: u64,
        /// What it said.
        error: io::ErrorKind,
    },
}

/// The canaries around one region.
#[derive(Debug)]
pub struct Canaries {
    region: u64,
    guards: [Range<u64>; 2],
    nests: Vec<Nest>,
}

/// Pages of one canary, unmapped when it is dropped.
#[derive(Debug)]
struct Nest(u64);

impl Canaries {
    /// Places canaries around `region`, a range of this process's addresses with a guard of [`GUARD`] bytes on either
    /// side. Where something else lies behind a guard, that side has none.
    ///
    /// # Errors
    /// There are no guards, or the host has no memory.
    pub fn place(region: Range<u64>) -> io::Result<Self> {
        let missing = || io::Error::new(io::ErrorKind::NotFound, "guest memory has no guards");
        let below = region.start.checked_sub(GUARD as u64).ok_or_else(missing)?;
        let above = region.end.checked_add(GUARD as u64).ok_or_else(missing)?;
        let guards = [below..region.start, region.end..above];
        let maps = fs::read_to_string("/proc/self/maps")?;
        if !guards.iter().all(|guard| is_untouchable(&maps, guard)) {
            return Err(missing());
        }
        let sides = below.checked_sub(SIZE).into_iter().chain([above]);
        let nests = sides.filter_map(|at| Nest::build(at).transpose()).collect::<io::Result<_>>()?;
        Ok(Self { region: region.start, guards, nests })
    }

    /// How many sides have one.
    pub fn count(&self) -> usize {
        self.nests.len()
    }

    /// Looks at all of them.
    ///
    /// # Errors
    /// [`Harm`].
    pub fn check(&self) -> Result<(), Harm> {
        self.nests.iter().try_for_each(|nest| nest.check(self.region))?;
        let region = self.region;
        let maps = fs::read_to_string("/proc/self/maps")
            .map_err(|error| Harm::Unseen { region, error: error.kind() })?;
        if self.guards.iter().all(|guard| is_untouchable(&maps, guard)) {
            Ok(())
        } else {
            Err(Harm::Guards { region })
        }
    }
}

/// Whether nobody may touch any byte of `range`, says a text in the format of `/proc/self/maps`: in order of addresses.
fn is_untouchable(maps: &str, range: &Range<u64>) -> bool {
    let mappings = maps.lines().filter_map(|line| {
        let (mapping, rest) = line.split_once(' ')?;
        let (start, end) = mapping.split_once('-')?;
        let number = |text| u64::from_str_radix(text, 16).ok();
        rest.starts_with("---p").then_some(number(start)?..number(end)?)
    });
    let covered = mappings.fold(
        range.start,
        |covered, mapping| {
            if mapping.contains(&covered) { mapping.end } else { covered }
        },
    );
    covered >= range.end
}

impl Nest {
    /// Maps and fills the pages at `address`; `None` where something else is there.
    fn build(address: u64) -> io::Result<Option<Self>> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: FIXED_NOREPLACE replaces nothing that exists.
        let mapped = unsafe {
            mm::mmap_anonymous(
                address as *mut std::ffi::c_void,
                SIZE as usize,
                ProtFlags::READ | ProtFlags::WRITE,
                flags,
            )
        };
        match mapped {
            Ok(mapped) if mapped as u64 == address => {
                let nest = Self(address);
                for at in nest.words() {
                    // SAFETY: inside the pages that were just mapped, which nobody else knows of.
                    unsafe { (at as *mut u64).write_volatile(word(at)) };
                }
                Ok(Some(nest))
            }
            // A kernel before 4.17 takes the address for a wish.
            Ok(elsewhere) => {
                // SAFETY: just mapped, and not used.
                unsafe { mm::munmap(elsewhere, SIZE as usize) }?;
                Ok(None)
            }
            Err(Errno::EXIST | Errno::INVAL | Errno::PERM) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn words(&self) -> impl Iterator<Item = u64> + use<> {
        (self.0..self.0 + SIZE).step_by(8)
    }

    fn check(&self, region: u64) -> Result<(), Harm> {
        for address in self.words() {
            // SAFETY: inside pages that are mapped as long as the value lives. Volatile, for whoever harms them
            // does not ask the compiler.
            let found = unsafe { (address as *const u64).read_volatile() };
            let expected = word(address);
            if found != expected {
                return Err(Harm::Changed { region, address, found, expected });
            }
        }
        Ok(())
    }
}

impl Drop for Nest {
    fn drop(&mut self) {
        // SAFETY: these pages are this value's.
        let unmapped = unsafe { mm::munmap(self.0 as *mut std::ffi::c_void, SIZE as usize) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "a canary could not be unmapped");
        }
    }
}

/// What a canary holds at an address: never zero.
fn word(address: u64) -> u64 {
    address ^ 0x6361_6e61_7279_2121
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MemoryConfig;
    use crate::memory::GuestRam;
    use vm_memory::GuestAddress;

    fn ram() -> (GuestRam, Range<u64>) {
        let config = MemoryConfig { size: 2 << 20, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(0x4000_0000)).unwrap();
        let region = ram.regions().next().unwrap();
        let range = region.host() as u64..region.host() as u64 + region.size();
        (ram, range)
    }

    #[test]
    fn untouched_canaries_sing() {
        let (_ram, range) = ram();
        let canaries = Canaries::place(range).unwrap();
        assert!(canaries.count() > 0);
        assert_eq!(canaries.check(), Ok(()));
    }

    #[test]
    fn a_discarded_canary_is_missed() {
        let (_ram, range) = ram();
        let canaries = Canaries::place(range.clone()).unwrap();
        let nest = canaries.nests.last().unwrap();
        // SAFETY: the canary's own pages.
        unsafe { mm::madvise(nest.0 as *mut _, SIZE as usize, mm::Advice::LinuxDontNeed) }.unwrap();
        let harm = canaries.check().unwrap_err();
        assert!(matches!(harm, Harm::Changed { found: 0, .. }), "{harm}");
    }

    #[test]
    fn lost_guards_are_missed() {
        let maps = "1000-2000 ---p 0 00:00 0\n2000-4000 rw-p 0 00:00 0\n4000-5000 ---p 0 00:00 0\n";
        let has_both =
            |maps: &str| [0x1000..0x2000, 0x4000..0x5000].iter().all(|guard| is_untouchable(maps, guard));
        assert!(has_both(maps));
        assert!(has_both(&maps.replace("1000-2000", "800-2000")), "more than the guard");
        assert!(has_both(&maps.replace("4000-5000", "4000-4800 ---p 0 00:00 0\n4800-6000")), "in two pieces");
        assert!(!has_both(&maps.replace("1000-2000", "1800-2000")), "its start is gone");
        assert!(!has_both(&maps.replace("4000-5000", "4000-4800 ---p 0 00:00 0\n4c00-6000")), "a hole");
        assert!(!has_both(&maps.replace("4000-5000 ---p", "4000-5000 rw-p")), "anybody may write");
    }

    #[test]
    fn a_neighbour_that_changes_does_not_matter() {
        let (_ram, range) = ram();
        // What an allocator keeps for later looks like a guard, and the kernel shows both as one mapping.
        let beside = (range.start - GUARD as u64 - SIZE) as *mut std::ffi::c_void;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED_NOREPLACE;
        // SAFETY: FIXED_NOREPLACE replaces nothing that exists.
        let mapped = unsafe { mm::mmap_anonymous(beside, SIZE as usize, ProtFlags::empty(), flags) };
        let canaries = Canaries::place(range).unwrap();
        assert_eq!(canaries.check(), Ok(()));
        // Where something else was already, that is what does not matter.
        if mapped.is_ok() {
            // SAFETY: the pages that were mapped above, which nobody else knows of.
            unsafe { mm::mprotect(beside, SIZE as usize, mm::MprotectFlags::READ) }.unwrap();
            assert_eq!(canaries.check(), Ok(()));
            // SAFETY: as above.
            unsafe { mm::munmap(beside, SIZE as usize) }.unwrap();
            assert_eq!(canaries.check(), Ok(()));
        }
    }
}
