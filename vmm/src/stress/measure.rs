//! What the host itself says that a region takes, asked in another way than the ledger asks: /proc/self/smaps for
//! private memory, the blocks of the file for shared memory.

use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;

/// What was measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Measured {
    /// Bytes in memory or in swap.
    pub private: u64,
    /// The file that backs it, where it is shared: its blocks count.
    pub file: Option<FileId>,
    /// A part of it shows a file privately: what is resident says nothing about what there is.
    pub is_copy: bool,
}

/// A file, as /proc/self/smaps names it. An inode's number is unique in its file system only: each tmpfs counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileId {
    /// Major and minor number of the file system's device.
    pub device: (u32, u32),
    /// The inode's number.
    pub inode: u64,
}

/// Bytes that the host holds for these regions, each a range of this process's addresses; `None` where a region is a
/// private view of a file, of which nobody can tell.
///
/// # Errors
/// /proc can't be read, or the file that backs a region is not open here.
pub fn held(regions: &[Range<u64>]) -> io::Result<Option<u64>> {
    let smaps = fs::read_to_string("/proc/self/smaps")?;
    let mut sum = 0u64;
    for region in regions {
        sum = sum.saturating_add(match measure(&smaps, region) {
            Measured { is_copy: true, .. } => return Ok(None),
            Measured { file: Some(file), .. } => blocks(file)?,
            Measured { private, .. } => private,
        });
    }
    Ok(Some(sum))
}

/// Bytes of the blocks of an open file.
fn blocks(file: FileId) -> io::Result<u64> {
    let mut open = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        // One that was closed meanwhile is not ours.
        let Ok(metadata) = fs::metadata(entry?.path()) else { continue };
        if metadata.is_file() {
            let device = (rustix::fs::major(metadata.dev()), rustix::fs::minor(metadata.dev()));
            open.push((FileId { device, inode: metadata.ino() }, metadata.blocks() * 512));
        }
    }
    find(file, &open).ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "the file that backs guest memory is not open")
    })
}

/// What stands beside `file`; if it is not there, beside one of the same number: stat is told another device of a
/// subvolume or an overlay than the map of memory.
fn find(file: FileId, open: &[(FileId, u64)]) -> Option<u64> {
    let exact = open.iter().find(|(other, _)| *other == file);
    exact.or_else(|| open.iter().find(|(other, _)| other.inode == file.inode)).map(|&(_, bytes)| bytes)
}

/// Adds up the mappings inside `region`.
fn measure(smaps: &str, region: &Range<u64>) -> Measured {
    let mut measured = Measured::default();
    let mut is_inside = false;
    for line in smaps.lines() {
        if let Some((range, is_shared, file)) = header(line) {
            is_inside = region.start <= range.start && range.end <= region.end;
            if is_inside && is_shared {
                measured.file = Some(file);
            }
            measured.is_copy |= is_inside && !is_shared && file.inode != 0;
        } else if is_inside && let Some(bytes) = kibibytes(line, "Rss:").or(kibibytes(line, "Swap:")) {
            measured.private += bytes;
        }
    }
    measured
}

/// A mapping's first line: its range, whether it is shared, its file.
fn header(line: &str) -> Option<(Range<u64>, bool, FileId)> {
    let mut words = line.split_ascii_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let number = |text| u64::from_str_radix(text, 16).ok();
    let is_shared = words.next()?.ends_with('s');
    let (major, minor) = words.nth(1)?.split_once(':')?;
    let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
    let inode = words.next()?.parse().ok()?;
    Some((number(start)?..number(end)?, is_shared, FileId { device, inode }))
}

fn kibibytes(line: &str, name: &str) -> Option<u64> {
    let kib: u64 = line.strip_prefix(name)?.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::config::{Backing, BlockSize, MemoryConfig};
    use crate::memory::GuestRam;

    const SMAPS: &str = "\
40000000-40200000 rw-p 00000000 00:00 0 
Size:               2048 kB
Rss:                 100 kB
Swap:                 28 kB
SwapPss:              28 kB
40200000-40300000 rw-p 00000000 00:00 0 
Rss:                   4 kB
40300000-40310000 ---p 00000000 00:00 0 
Rss:                   9 kB
50000000-50200000 rw-s 00000000 00:1f 77                                 /memfd:quire (deleted)
Rss:                   8 kB
";

    #[test]
    fn private_memory_is_added_up_and_what_is_outside_left_out() {
        let measured = measure(SMAPS, &(0x4000_0000..0x4030_0000));
        assert_eq!(measured, Measured { private: 132 << 10, file: None, is_copy: false });
    }

    #[test]
    fn shared_memory_is_known_by_its_file() {
        let file = measure(SMAPS, &(0x5000_0000..0x5020_0000)).file;
        assert_eq!(file, Some(FileId { device: (0, 0x1f), inode: 77 }));
    }

    #[test]
    fn a_private_view_of_a_file_is_not_measured() {
        let smaps = SMAPS.replace("rw-s", "rw-p");
        assert!(measure(&smaps, &(0x5000_0000..0x5020_0000)).is_copy);
    }

    #[test]
    fn a_file_is_not_taken_for_one_of_another_file_system() {
        let id = |minor, inode| FileId { device: (0, minor), inode };
        let open = [(id(30, 7), 1), (id(31, 7), 2), (id(31, 8), 3)];
        assert_eq!(find(id(31, 7), &open), Some(2));
        assert_eq!(find(id(32, 8), &open), Some(3), "a subvolume");
        assert_eq!(find(id(31, 9), &open), None);
    }

    #[test]
    fn what_is_touched_is_what_is_held() {
        const PAGES: u64 = 5;
        for backing in [Backing::Anon, Backing::Memfd] {
            let config =
                MemoryConfig { size: 2 << 20, backing, block: BlockSize::Size4K, ..MemoryConfig::default() };
            let ram = GuestRam::allocate(&config, GuestAddress(0x4000_0000)).unwrap();
            let regions: Vec<_> = ram
                .regions()
                .map(|region| region.host() as u64..region.host() as u64 + region.size())
                .collect();
            let page = rustix::param::page_size() as u64;
            assert_eq!(held(&regions).unwrap(), Some(0), "{:?}", config.backing);
            for at in 0..PAGES {
                ram.memory().write_obj(1u8, GuestAddress(0x4000_0000 + at * page)).unwrap();
            }
            assert_eq!(held(&regions).unwrap(), Some(PAGES * page), "{:?}", config.backing);
        }
    }
}
