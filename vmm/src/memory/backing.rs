//! What the bytes of guest RAM live in.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{MemfdFlags, SealFlags};

use super::error::{Error, Size};
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
    pub(super) fn file(path: &Path, size: u64) -> Result<Self, Error> {
        let wrong = |reason: String| Error::File { path: path.into(), reason };
        let failed = |action| move |source| Error::FileIo { path: path.into(), action, source };

        let created = !path.try_exists().map_err(failed("look at"))?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(failed("open"))?;
        let sized = size_file(&file, size, wrong, failed);
        if sized.is_err() && created {
            // It was ours and is empty: leave nothing behind.
            let _ = std::fs::remove_file(path);
        }
        sized?;
        Ok(Self::File { file: Arc::new(file), path: path.into() })
    }
}

fn size_file<E: Fn(io::Error) -> Error>(
    file: &File,
    size: u64,
    wrong: impl Fn(String) -> Error,
    failed: impl Fn(&'static str) -> E,
) -> Result<(), Error> {
    let kind = file.metadata().map_err(failed("look at"))?.file_type();
    if !kind.is_file() {
        let what = if kind.is_block_device() { "a block device" } else { "not a regular file" };
        return Err(wrong(format!("it is {what}: name a file")));
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(wrong("another process holds its lock: is a VM using it already?".into()));
        }
        Err(TryLockError::Error(error)) => return Err(failed("lock")(error)),
    }
    let system = rustix::fs::fstatfs(file).map_err(|error| failed("look at")(error.into()))?;
    if system.f_type as u64 == HUGETLBFS {
        return Err(wrong("it is on a file system of huge pages: use backing=hugetlb".into()));
    }
    // Sparse, and so it stays: what was not touched or was given back takes no space. That there is
    // enough is checked now, because a full disk later is a SIGBUS.
    let found = file.metadata().map_err(failed("look at"))?;
    let held = found.blocks().saturating_mul(512);
    let free = (system.f_bavail as u64).saturating_mul(system.f_bsize as u64);
    if size.saturating_sub(held) > free {
        let (size, free) = (Size(size), Size(free));
        return Err(wrong(format!("its file system has {free} free, {size} of memory may need more")));
    }
    match found.len() {
        0 => file.set_len(size).map_err(failed("size")),
        len if len == size => Ok(()),
        len => {
            let (len, size) = (Size(len), Size(size));
            Err(wrong(format!("it has {len}, the memory {size}: use that size, or remove the file")))
        }
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
