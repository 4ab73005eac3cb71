//! The host's transparent huge page settings, for every size:
//! Documentation/admin-guide/mm/transhuge.rst.

use std::fs;
use std::path::PathBuf;

use crate::config::Size;

use super::error::Error;
use super::host::Host;

const FOLDER: &str = "kernel/mm/transparent_hugepage";

/// Which kind of memory is asked about: each has its own switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Private anonymous memory.
    Anon,
    /// Shared memory: memfd and tmpfs.
    Shmem,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Anon => "enabled",
            Self::Shmem => "shmem_enabled",
        }
    }

    fn allows(self, word: &str) -> bool {
        match self {
            Self::Anon => matches!(word, "always" | "madvise"),
            Self::Shmem => matches!(word, "always" | "advise" | "within_size" | "force"),
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Anon => "madvise",
            Self::Shmem => "advise",
        }
    }

    fn backing(self) -> &'static str {
        match self {
            Self::Anon => "backing=anon",
            Self::Shmem => "backing=memfd",
        }
    }
}

/// Whether memory of this kind that is advised to be huge gets blocks of `block` bytes.
///
/// # Errors
///
/// [`Error::TransparentOff`] names the switch that is off, [`Error::NoSuchBlock`] the sizes that there
/// are.
pub fn check(host: &Host, kind: Kind, block: u64) -> Result<(), Error> {
    let (file, word) = match switch(host, kind, block) {
        Some(found) => found,
        None => {
            let sizes: Vec<_> = sizes(host).into_iter().map(|size| Size(size).to_string()).collect();
            let hint = match sizes.as_slice() {
                [] => "its kernel has no transparent huge pages; use backing=hugetlb or block=4K".into(),
                sizes => format!("it has {}; use one of them, or backing=hugetlb", sizes.join(", ")),
            };
            return Err(Error::NoSuchBlock { backing: kind.backing(), block, hint });
        }
    };
    if kind.allows(&word) {
        Ok(())
    } else {
        Err(Error::TransparentOff { block, file, found: word, wanted: kind.wanted() })
    }
}

/// The largest block of at most `limit` bytes that memory of this kind gets where it is advised.
pub fn largest(host: &Host, kind: Kind, limit: u64) -> Option<u64> {
    sizes(host).into_iter().rev().find(|&size| size <= limit && check(host, kind, size).is_ok())
}

/// Every size that the kernel knows, smallest first, in bytes.
pub fn sizes(host: &Host) -> Vec<u64> {
    let folder = host.sysfs(FOLDER);
    let mut sizes: Vec<u64> = fs::read_dir(&folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let kib: u64 = name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            kib.checked_mul(1024)
        })
        .chain(pmd_size(host))
        .collect();
    sizes.sort_unstable();
    sizes.dedup();
    sizes
}

/// The file that decides for all sizes which don't decide for themselves, and the word that it has selected:
/// `None` where the file is something else, or there is none at all.
pub fn general(host: &Host, kind: Kind) -> Option<(PathBuf, Option<String>)> {
    let file = host.sysfs(FOLDER).join(kind.file());
    file.is_file().then(|| (file.clone(), selected(&file)))
}

/// Every size that has a file of its own, smallest first, with that file and its word, or the general one where it
/// inherits.
pub fn words(host: &Host, kind: Kind) -> Vec<(u64, PathBuf, String)> {
    let own = |size: u64| host.sysfs(FOLDER).join(format!("hugepages-{}kB", size / 1024)).join(kind.file());
    let inherited = || general(host, kind).and_then(|(_, word)| word).unwrap_or_else(|| "never".into());
    sizes(host)
        .into_iter()
        .filter_map(|size| {
            let (file, word) = (own(size), selected(&own(size))?);
            Some((size, file, if word == "inherit" { inherited() } else { word }))
        })
        .collect()
}

/// The size of what one entry of the last-but-one table level maps: the classic huge page.
fn pmd_size(host: &Host) -> Option<u64> {
    fs::read_to_string(host.sysfs(FOLDER).join("hpage_pmd_size")).ok()?.trim().parse().ok()
}

/// The file that decides about `block`, and its selected word. A size that inherits is decided by the
/// file for all sizes; so is the classic one on kernels from before there were others.
fn switch(host: &Host, kind: Kind, block: u64) -> Option<(PathBuf, String)> {
    let all = host.sysfs(FOLDER).join(kind.file());
    let own = host.sysfs(FOLDER).join(format!("hugepages-{}kB", block / 1024)).join(kind.file());
    match selected(&own) {
        Some(word) if word == "inherit" => {}
        Some(word) => return Some((own, word)),
        None if pmd_size(host) == Some(block) => {}
        None => return None,
    }
    let word = selected(&all)?;
    Some((all, word))
}

/// The word in brackets: `always [madvise] never`.
fn selected(file: &PathBuf) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let (_, rest) = text.split_once('[')?;
    Some(rest.split_once(']')?.0.to_owned())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::path::Path;
    use vmm_sys_util::tempdir::TempDir;

    /// Sets a switch of a made-up host: `size` in KiB, or `None` for the one that decides for all.
    pub(in super::super) fn set(root: &Path, size: Option<u64>, kind: Kind, word: &str) {
        let folder = root.join("sys").join(FOLDER);
        let folder = size.map_or(folder.clone(), |kib| folder.join(format!("hugepages-{kib}kB")));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(kind.file()), format!("always [{word}] whatever")).unwrap();
    }

    #[test]
    fn off_switch_is_named() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        set(root.as_path(), None, Kind::Anon, "madvise");
        set(root.as_path(), Some(64), Kind::Anon, "never");
        let error = check(&host, Kind::Anon, 64 << 10).unwrap_err().to_string();
        assert!(error.contains("hugepages-64kB/enabled"), "{error}");
        assert!(error.contains("\"never\"") && error.contains("\"madvise\""), "{error}");
    }

    #[test]
    fn inherited_switch_is_the_one_for_all_sizes() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        set(root.as_path(), Some(2048), Kind::Anon, "inherit");
        set(root.as_path(), None, Kind::Anon, "never");
        let error = check(&host, Kind::Anon, 2 << 20).unwrap_err().to_string();
        assert!(error.contains("transparent_hugepage/enabled"), "{error}");
        set(root.as_path(), None, Kind::Anon, "madvise");
        check(&host, Kind::Anon, 2 << 20).unwrap();
    }

    #[test]
    fn old_kernels_have_only_the_classic_size() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        set(root.as_path(), None, Kind::Anon, "always");
        fs::write(root.as_path().join("sys").join(FOLDER).join("hpage_pmd_size"), "2097152\n").unwrap();
        check(&host, Kind::Anon, 2 << 20).unwrap();
        let error = check(&host, Kind::Anon, 64 << 10).unwrap_err().to_string();
        assert!(error.contains("no 64K blocks") && error.contains("it has 2M"), "{error}");
        assert_eq!(largest(&host, Kind::Anon, 1 << 30), Some(2 << 20));
        assert_eq!(largest(&host, Kind::Anon, 1 << 20), None);
    }

    #[test]
    fn shared_memory_has_its_own_switch() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        set(root.as_path(), Some(2048), Kind::Anon, "always");
        set(root.as_path(), Some(2048), Kind::Shmem, "never");
        assert!(check(&host, Kind::Anon, 2 << 20).is_ok());
        assert!(check(&host, Kind::Shmem, 2 << 20).is_err());
        set(root.as_path(), Some(2048), Kind::Shmem, "advise");
        assert!(check(&host, Kind::Shmem, 2 << 20).is_ok());
    }
}
