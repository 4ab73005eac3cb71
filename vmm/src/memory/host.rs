//! Where sysfs and procfs are, the page size, how much memory there is.

use std::fs;
use std::path::{Path, PathBuf};

use super::Error;

/// The host, as this module asks it. The two folders can be elsewhere, for tests.
#[derive(Clone, Debug)]
pub struct Host {
    sysfs: PathBuf,
    procfs: PathBuf,
    page: u64,
}

/// What /proc/meminfo says, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// Memory and swap that the host has in all.
    pub total: u64,
    /// Memory that can be had without swapping, and free swap.
    pub available: u64,
}

impl Host {
    /// This machine.
    pub fn live() -> Self {
        let page = rustix::param::page_size() as u64;
        Self { sysfs: "/sys".into(), procfs: "/proc".into(), page }
    }

    /// A made-up machine whose files are under `root`.
    #[cfg(test)]
    pub(crate) fn fake(root: &Path, page: u64) -> Self {
        Self { sysfs: root.join("sys"), procfs: root.join("proc"), page }
    }

    /// Bytes per base page.
    pub fn page_size(&self) -> u64 {
        self.page
    }

    /// A path below sysfs.
    pub fn sysfs(&self, below: impl AsRef<Path>) -> PathBuf {
        self.sysfs.join(below)
    }

    /// The most mappings that a process may have (vm.max_map_count).
    pub fn most_mappings(&self) -> usize {
        let file = self.procfs.join("sys/vm/max_map_count");
        // The kernel's default, where it doesn't say.
        fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65530)
    }

    /// How much memory there is, and how much is left.
    ///
    /// # Errors
    ///
    /// [`Error::Host`] where /proc/meminfo can't be read.
    pub fn meminfo(&self) -> Result<MemInfo, Error> {
        let path = self.procfs.join("meminfo");
        let text = fs::read_to_string(&path).map_err(|source| Error::Host { path, source })?;
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next())
                .and_then(|kib| kib.parse::<u64>().ok())
                .map_or(0, |kib| kib.saturating_mul(1024))
        };
        Ok(MemInfo {
            total: field("MemTotal").saturating_add(field("SwapTotal")),
            available: field("MemAvailable").saturating_add(field("SwapFree")),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vmm_sys_util::tempdir::TempDir;

    #[test]
    fn meminfo_adds_memory_and_swap() {
        let root = TempDir::new().unwrap();
        let host = Host::fake(root.as_path(), 4096);
        fs::create_dir(root.as_path().join("proc")).unwrap();
        fs::write(
            root.as_path().join("proc/meminfo"),
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nSwapTotal: 24 kB\nSwapFree: 8 kB\n",
        )
        .unwrap();
        assert_eq!(host.meminfo().unwrap(), MemInfo { total: 1024 * 1024, available: 608 * 1024 });
    }

    #[test]
    fn this_machine_has_memory() {
        let info = Host::live().meminfo().unwrap();
        assert!(info.total >= info.available && info.available > 0);
    }
}
