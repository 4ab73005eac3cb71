//! Guest memory for tests, and what the kernel says about it.

use std::fs;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_memory::{Address, Bytes, GuestAddress};

use super::mapping::{Mapping, Object};
use super::{GuestMemory, Host, Region, hugetlb};

/// Bytes per page of this host.
pub(super) fn page() -> u64 {
    Host::live().page_size()
}

/// A region of `len` bytes at guest-physical `guest`, which shows its object from `offset` on.
pub(super) fn region(object: Object<'_>, guest: u64, len: u64, offset: u64) -> Region {
    let mapping = Mapping::new(object, guest, len as usize, 2 << 20).unwrap();
    Region::new(mapping, GuestAddress(guest), offset, page()).unwrap().unwrap()
}

/// Anonymous regions, each with its guest-physical address and size.
pub(super) fn anon(regions: &[(u64, u64)]) -> GuestMemory {
    let regions = regions.iter().map(|&(guest, len)| region(Object::Anon, guest, len, 0)).collect();
    GuestMemory::from_regions(regions).unwrap()
}

/// Fills a range with a pattern that depends on the address and has no zero.
pub(super) fn fill(memory: &GuestMemory, range: Range<u64>) {
    for at in range.step_by(4096) {
        memory.write_slice(&[pattern(at); 4096], GuestAddress(at)).unwrap();
    }
}

/// The byte that [`fill`] writes to the 4K at `at`.
pub(super) fn pattern(at: u64) -> u8 {
    (at / 4096 % 255) as u8 + 1
}

/// The mappings that the region is in, by /proc/self/maps.
pub(super) fn mappings(region: &Region) -> usize {
    let whole = region.host()..region.host() + region.size() as usize;
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let starts = maps.lines().filter_map(|line| usize::from_str_radix(line.split_once('-')?.0, 16).ok());
    starts.filter(|start| whole.contains(start)).count()
}

/// Asserts that every 4K of `range` is as [`fill`] left it, but for `zero`, which must be zero.
#[track_caller]
pub(super) fn assert_filled_but(memory: &GuestMemory, range: Range<u64>, zero: &[Range<u64>]) {
    let mut bytes = vec![0; 4096];
    for at in range.step_by(4096) {
        let expected = if zero.iter().any(|range| range.contains(&at)) { 0 } else { pattern(at) };
        memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        assert!(bytes.iter().all(|&byte| byte == expected), "{at:#x}: {} is not {expected}", bytes[0]);
    }
}

/// Reads a byte of every 4K of `range`.
pub(super) fn touch(memory: &GuestMemory, range: Range<u64>) {
    for at in range.step_by(4096) {
        memory.read_obj::<u8>(GuestAddress(at)).unwrap();
    }
}

/// Asserts that all of `range` is zero.
#[track_caller]
pub(super) fn assert_zero(memory: &GuestMemory, range: Range<u64>) {
    assert_filled_but(memory, range.clone(), &[range]);
}

/// Bytes of the region that are resident, by /proc/self/smaps.
pub(super) fn resident(region: &Region) -> u64 {
    let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
    let whole = region.host()..region.host() + region.size() as usize;
    let mut inside = false;
    let mut bytes = 0;
    for line in smaps.lines() {
        let range = line.split_once(' ').and_then(|(range, _)| range.split_once('-'));
        let range = range.and_then(|(start, end)| {
            let number = |text| usize::from_str_radix(text, 16).ok();
            Some(number(start)?..number(end)?)
        });
        match (range, line.strip_prefix("Rss:")) {
            (Some(range), _) => inside = whole.contains(&range.start),
            (None, Some(rss)) if inside => {
                bytes += rss.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024;
            }
            _ => {}
        }
    }
    bytes
}

/// The same for all regions.
pub(super) fn resident_all(memory: &GuestMemory) -> u64 {
    use vm_memory::GuestMemoryBackend;
    memory.iter().map(resident).sum()
}

/// Bytes that the file takes.
pub(super) fn allocated(file: &fs::File) -> u64 {
    // hugetlbfs has nothing to sync, and says so.
    let _ = file.sync_all();
    file.metadata().unwrap().blocks() * 512
}

/// All addresses of a region.
pub(super) fn whole(region: &Region) -> Range<u64> {
    let start = region.guest().raw_value();
    start..start + region.size()
}

/// A pool of huge pages that was grown for one test; tests with one take turns.
pub(super) struct Pool {
    before: hugetlb::Pool,
    _turn: MutexGuard<'static, ()>,
}

impl Pool {
    /// `pages` more of `page` bytes; `None` where that can't be had, by anyone but root for one.
    pub(super) fn grow(page: u64, pages: u64) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let before = hugetlb::pool(&Host::live(), page).ok()?;
        fs::write(before.control(), (before.total + pages).to_string()).ok()?;
        let pool = Self { before, _turn: turn };
        (hugetlb::pool(&Host::live(), page).ok()?.total == pool.before.total + pages).then_some(pool)
    }

    /// Pages that are neither used nor promised, now.
    pub(super) fn available(&self) -> u64 {
        hugetlb::pool(&Host::live(), self.before.page).unwrap().available
    }

    /// Pages that are not used, promised ones too, now.
    pub(super) fn free(&self) -> u64 {
        fs::read_to_string(self.before.folder.join("free_hugepages")).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        fs::write(self.before.control(), self.before.total.to_string()).unwrap();
    }
}
