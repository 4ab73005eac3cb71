//! What the bytes of guest RAM live in.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags};

use crate::config::Size;

use super::anonymous::Anonymous;
use super::error::Error;
use super::hugetlb::Pool;

/// What the bytes live in. How they can be given back, and whether they outlive the guest, depends on
/// nothing else.
#[derive(Clone, Debug)]
pub enum Backing {
    /// Private anonymous memory.
    Anon,
    /// A memfd, mapped shared. It can't shrink or grow.
    Memfd(Arc<File>),
    /// A memfd of huge pages, mapped shared. It can't shrink or grow.
    Hugetlb {
        /// The memfd.
        file: Arc<File>,
        /// Bytes per huge page: the least that can be given back.
        page: u64,
    },
    /// A named file, mapped shared and locked against a second VM.
    File {
        /// The file.
        file: Arc<File>,
        /// Where it was opened.
        path: PathBuf,
    },
    /// A named file, mapped private: the guest starts with what it holds, and it is never written. Other VMs
    /// may start from it, too.
    PrivateFile {
        /// The file, open for reading.
        file: Arc<File>,
        /// Where it was opened.
        path: PathBuf,
        /// Where the file no longer shows.
        replaced: Replaced,
    },
}

/// Which parts of a privately mapped file were discarded, and are anonymous memory since.
#[derive(Clone, Debug, Default)]
pub struct Replaced(Arc<Mutex<Anonymous>>);

impl Replaced {
    pub(super) fn lock(&self) -> MutexGuard<'_, Anonymous> {
        // It is whole between any two of its operations.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backing {
    /// A memfd of `size` bytes.
    pub(super) fn memfd(size: u64) -> Result<Self, Error> {
        let file = sealed(size, MemfdFlags::empty()).map_err(create(size, "a memfd"))?;
        Ok(Self::Memfd(Arc::new(file)))
    }

    /// A memfd of `size` bytes in the pages of `pool`. They are promised once it is mapped.
    pub(super) fn hugetlb(size: u64, pool: &Pool) -> Result<Self, Error> {
        // memfd_create(2): the page size's logarithm is in the flags from bit 26 on.
        let log2 = pool.page.trailing_zeros() << 26;
        let flags = MemfdFlags::HUGETLB | MemfdFlags::from_bits_retain(log2);
        let file = sealed(size, flags).map_err(create(size, "a memfd of huge pages"))?;
        Ok(Self::Hugetlb { file: Arc::new(file), page: pool.page })
    }

    /// The file at `path`: created, or used as it is where it has exactly `size` bytes. Another size is
    /// an error, lest a typing error cut or pad somebody's data.
    ///
    /// With it comes what removes it again, where it was created.
    pub(super) fn file(path: &Path, size: u64) -> Result<(Self, Option<Fresh>), Error> {
        let named = Named(path);
        let created = !path.try_exists().map_err(named.failed("look at"))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(named.failed("open"))?;
        let file = Arc::new(file);
        let fresh = created.then(|| Fresh { file: Arc::clone(&file), path: Some(path.into()) });
        named.check(&file)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(named.wrong("another process holds its lock: is a VM using it already?"));
            }
            Err(TryLockError::Error(error)) => return Err(named.failed("lock")(error)),
        }
        // Sparse, and so it stays: what was not touched or was given back takes no space. That there is
        // enough is checked now, because a full disk later is a SIGBUS.
        let system = rustix::fs::fstatfs(&file).map_err(|error| named.failed("look at")(error.into()))?;
        let found = file.metadata().map_err(named.failed("look at"))?;
        let held = found.blocks().saturating_mul(512);
        let free = (system.f_bavail as u64).saturating_mul(system.f_bsize as u64);
        if size.saturating_sub(held) > free {
            let (size, free) = (Size(size), Size(free));
            return Err(
                named.wrong(format!("its file system has {free} free, {size} of memory may need more"))
            );
        }
        match found.len() {
            0 => file.set_len(size).map_err(named.failed("size"))?,
            len => named.sized(len, size, "use that size, or remove the file")?,
        }
        Ok((Self::File { file, path: path.into() }, fresh))
    }

    /// The file at `path` as the guest's first memory: it has exactly `size` bytes, is not written, and
    /// nobody who asks for its lock writes it meanwhile.
    pub(super) fn private(path: &Path, size: u64) -> Result<Self, Error> {
        let named = Named(path);
        let file = File::open(path).map_err(named.failed("open"))?;
        named.check(&file)?;
        match file.try_lock_shared() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(named.wrong("another process holds its lock: is it the memory of a running VM?"));
            }
            Err(TryLockError::Error(error)) => return Err(named.failed("lock")(error)),
        }
        let len = file.metadata().map_err(named.failed("look at"))?.len();
        named.sized(len, size, "use that size")?;
        Ok(Self::PrivateFile { file: Arc::new(file), path: path.into(), replaced: Replaced::default() })
    }
}

/// A file that was created for a guest. It goes when this does: nothing was ever in it.
#[derive(Debug)]
pub(super) struct Fresh {
    file: Arc<File>,
    /// Its name, until it is to stay.
    path: Option<PathBuf>,
}

impl Fresh {
    /// The guest runs: the file stays.
    pub(super) fn keep(mut self) {
        self.path = None;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let Some(path) = &self.path else { return };
        let (Ok(ours), Ok(named)) = (self.file.metadata(), path.symlink_metadata()) else { return };
        // Another file may have its name by now.
        if (ours.dev(), ours.ino()) == (named.dev(), named.ino()) {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// The name of a memory file, for what may be wrong with it.
struct Named<'a>(&'a Path);

impl Named<'_> {
    fn wrong(&self, reason: impl Into<String>) -> Error {
        Error::File { path: self.0.into(), reason: reason.into() }
    }

    fn failed(&self, action: &'static str) -> impl Fn(io::Error) -> Error {
        let path = self.0.to_path_buf();
        move |source| Error::FileIo { path: path.clone(), action, source }
    }

    /// That it can be mapped, and is not what has a backing of its own.
    fn check(&self, file: &File) -> Result<(), Error> {
        let kind = file.metadata().map_err(self.failed("look at"))?.file_type();
        if !kind.is_file() {
            let what = if kind.is_block_device() { "a block device" } else { "not a regular file" };
            return Err(self.wrong(format!("it is {what}: name a file")));
        }
        let system = rustix::fs::fstatfs(file).map_err(|error| self.failed("look at")(error.into()))?;
        if system.f_type as u64 == HUGETLBFS {
            return Err(self.wrong("it is on a file system of huge pages: use backing=hugetlb"));
        }
        Ok(())
    }

    /// That it has the memory's size.
    fn sized(&self, len: u64, size: u64, remedy: &str) -> Result<(), Error> {
        if len == size {
            return Ok(());
        }
        let (len, size) = (Size(len), Size(size));
        Err(self.wrong(format!("its size is {len}, and the memory's {size}: {remedy}")))
    }
}

/// statfs(2).
const HUGETLBFS: u64 = 0x958458f6;

fn sealed(size: u64, flags: MemfdFlags) -> io::Result<File> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING | flags;
    let file = File::from(rustix::fs::memfd_create("quire-guest", flags)?);
    file.set_len(size)?;
    // A hole may still be punched; whoever the descriptor is given to can't cut the file below us.
    rustix::fs::fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    Ok(file)
}

fn create(size: u64, what: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Create { size, what, source }
}
