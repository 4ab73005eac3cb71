//! The host's pools of huge pages: Documentation/admin-guide/mm/hugetlbpage.rst.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use crate::config::Size;

use super::error::Error;
use super::host::Host;

const POOLS: &str = "kernel/mm/hugepages";

/// One pool, as it was when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Bytes per huge page.
    pub page: u64,
    /// Pages in the pool.
    pub total: u64,
    /// Pages that are neither used nor promised to a mapping, and those that the pool may still grow
    /// by on demand (overcommit).
    pub available: u64,
    /// Whether both could be read; they are 0 where they could not.
    pub known: bool,
    /// The folder in sysfs.
    pub folder: PathBuf,
}

impl Pool {
    /// The file that sets the pool's size.
    pub fn control(&self) -> PathBuf {
        self.folder.join("nr_hugepages")
    }

    /// The pages that `size` bytes need, or why the pool can't give them.
    ///
    /// # Errors
    ///
    /// [`Error::NotWholeBlocks`], [`Error::PoolShort`].
    pub fn check(&self, size: u64) -> Result<u64, Error> {
        if !size.is_multiple_of(self.page) {
            let alternative = "another block size";
            return Err(Error::NotWholeBlocks { size, block: self.page, alternative });
        }
        let needed = size / self.page;
        if needed > self.available { Err(self.short(needed)) } else { Ok(needed) }
    }

    /// The error for a pool that can't give `needed` pages.
    pub(super) fn short(&self, needed: u64) -> Error {
        Error::PoolShort {
            page: self.page,
            needed,
            available: self.available,
            total: self.total,
            file: self.control(),
        }
    }
}

/// All pools of the host, smallest pages first; none where the kernel has no hugetlb.
pub fn pools(host: &Host) -> Vec<Pool> {
    let Ok(entries) = fs::read_dir(host.sysfs(POOLS)) else { return Vec::new() };
    let mut pools: Vec<_> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    pools.sort_by_key(|pool| pool.page);
    pools
}

/// The pool with pages of `page` bytes.
///
/// # Errors
///
/// [`Error::NoSuchBlock`], which names the sizes that there are.
pub fn pool(host: &Host, page: u64) -> Result<Pool, Error> {
    let mut all = pools(host);
    let sizes: Vec<_> = all.iter().map(|pool| Size(pool.page).to_string()).collect();
    match all.iter().position(|pool| pool.page == page) {
        Some(at) => Ok(all.swap_remove(at)),
        None if sizes.is_empty() => Err(Error::NoSuchBlock {
            backing: "backing=hugetlb",
            block: page,
            hint: "its kernel has no hugetlb pages; use backing=anon".into(),
        }),
        None => Err(Error::NoSuchBlock {
            backing: "backing=hugetlb",
            block: page,
            hint: format!("use one of block={}", sizes.join("|")),
        }),
    }
}

/// The pool with the largest pages that can hold `size` bytes in whole pages.
///
/// # Errors
///
/// [`Error::NoPool`], which says what each pool has; [`Error::NoSuchBlock`] without any pool.
pub fn largest(host: &Host, size: u64) -> Result<Pool, Error> {
    let all = pools(host);
    if let Some(pool) = all.iter().rev().find(|pool| pool.check(size).is_ok()) {
        return Ok(pool.clone());
    }
    // The example is the pool that most hosts fill: 2 MiB, or else the smallest.
    let example = all.iter().find(|pool| pool.page == 2 << 20).or(all.first());
    let Some(example) = example else {
        return pool(host, 2 << 20);
    };
    let mut found = String::new();
    for pool in &all {
        let separator = if found.is_empty() { "" } else { ", " };
        let (page, needed) = (Size(pool.page), size.div_ceil(pool.page));
        // Writing to a String can't fail.
        let _ = write!(found, "{separator}{page} has {} of {needed} pages", pool.available);
    }
    let needed = size.div_ceil(example.page);
    Err(Error::NoPool {
        size,
        found,
        pages: example.total.saturating_add(needed.saturating_sub(example.available)),
        file: example.control(),
    })
}

fn read(folder: &Path) -> Option<Pool> {
    let kib: u64 =
        folder.file_name()?.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
    let read = |file: &str| -> Option<u64> {
        fs::read_to_string(folder.join(file)).ok().and_then(|text| text.trim().parse().ok())
    };
    let number = |file: &str| read(file).unwrap_or(0);
    let (total, free) = (read("nr_hugepages"), read("free_hugepages"));
    // What is promised to a mapping is still counted as free.
    let unpromised = free.unwrap_or(0).saturating_sub(number("resv_hugepages"));
    let growth = number("nr_overcommit_hugepages").saturating_sub(number("surplus_hugepages"));
    Some(Pool {
        page: kib.checked_mul(1024)?,
        total: total.unwrap_or(0),
        available: unpromised.saturating_add(growth),
        known: total.is_some() && free.is_some(),
        folder: folder.to_path_buf(),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use vmm_sys_util::tempdir::TempDir;

    /// Adds a pool of `kib` KiB pages to a made-up host.
    pub(in super::super) fn add_pool(root: &Path, kib: u64, total: u64, free: u64, reserved: u64) {
        let folder = root.join("sys").join(POOLS).join(format!("hugepages-{kib}kB"));
        fs::create_dir_all(&folder).unwrap();
        for (file, value) in [("nr_hugepages", total), ("free_hugepages", free), ("resv_hugepages", reserved)]
        {
            fs::write(folder.join(file), format!("{value}\n")).unwrap();
        }
    }

    #[test]
    fn short_pool_error_names_the_file_and_the_pages() {
        let root = TempDir::new().unwrap();
        add_pool(root.as_path(), 2048, 100, 60, 10);
        let host = Host::fake(root.as_path(), 4096);
        let error = pool(&host, 2 << 20).unwrap().check(512 << 20).unwrap_err().to_string();
        assert!(error.contains("256 needed, 50 available"), "{error}");
        assert!(error.contains("at least 306"), "{error}");
        assert!(error.contains("hugepages-2048kB/nr_hugepages"), "{error}");
    }

    #[test]
    fn largest_takes_the_largest_pages_that_fit_and_divide() {
        let root = TempDir::new().unwrap();
        add_pool(root.as_path(), 64, 65536, 65536, 0);
        add_pool(root.as_path(), 2048, 1024, 1024, 0);
        add_pool(root.as_path(), 1048576, 1, 1, 0);
        let host = Host::fake(root.as_path(), 4096);
        assert_eq!(largest(&host, 1 << 30).unwrap().page, 1 << 30);
        assert_eq!(largest(&host, 2 << 30).unwrap().page, 2 << 20);
        assert_eq!(largest(&host, (1 << 30) + (64 << 10)).unwrap().page, 64 << 10);
        let error = largest(&host, 5 << 30).unwrap_err().to_string();
        assert!(error.contains("2M has 1024 of 2560 pages, 1G has 1 of 5 pages"), "{error}");
        assert!(error.contains("writing 2560 to"), "{error}");
    }

    #[test]
    fn unknown_page_size_error_lists_the_sizes() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        assert!(pool(&host, 32 << 20).unwrap_err().to_string().contains("no hugetlb"));
        add_pool(root.as_path(), 2048, 0, 0, 0);
        add_pool(root.as_path(), 1048576, 0, 0, 0);
        assert!(pool(&host, 32 << 20).unwrap_err().to_string().contains("block=2M|1G"));
    }
}
