//! Pools of huge pages, and transparent ones for shared memory, put back as they were.

use std::fs;
use std::path::PathBuf;

/// A pool that was grown for a test; dropping the value gives the pages back.
#[derive(Debug)]
pub struct Pool {
    folder: PathBuf,
    before: u64,
}

impl Pool {
    /// Makes `pages` pages of `kib` KiB free, or `None` where the host has no such size or too
    /// little memory in one piece.
    pub fn with_free(kib: u64, pages: u64) -> Option<Self> {
        let folder = PathBuf::from(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB"));
        let pool = Self { before: read(&folder, "nr_hugepages")?, folder };
        fs::write(pool.folder.join("nr_hugepages"), (pool.before + pages).to_string()).ok()?;
        (pool.free() >= pages).then_some(pool)
    }

    /// How many pages of the pool are free.
    pub fn free(&self) -> u64 {
        read(&self.folder, "free_hugepages").unwrap_or(0)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Where it fails the next test sees a larger pool, which it asks about.
        let _ = fs::write(self.folder.join("nr_hugepages"), self.before.to_string());
    }
}

/// Transparent huge pages for shared memory that asks for them; dropping the value restores the
/// setting.
#[derive(Debug)]
pub struct SharedThp {
    before: String,
}

const SHMEM_ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";

impl SharedThp {
    /// Lets a memfd have huge pages where it asks for them.
    ///
    /// # Panics
    /// Where the host has no such setting, or this user may not change it.
    pub fn advise() -> Self {
        let words = fs::read_to_string(SHMEM_ENABLED).expect("the host has transparent huge pages");
        // The present one of the words stands in brackets.
        let before = words.split(['[', ']']).nth(1).expect("one word is in brackets").to_owned();
        fs::write(SHMEM_ENABLED, "advise").expect("root may change the setting");
        Self { before }
    }
}

impl Drop for SharedThp {
    fn drop(&mut self) {
        // Where it fails the host keeps a setting that changes nothing for who does not ask.
        let _ = fs::write(SHMEM_ENABLED, &self.before);
    }
}

fn read(folder: &std::path::Path, file: &str) -> Option<u64> {
    fs::read_to_string(folder.join(file)).ok()?.trim().parse().ok()
}
