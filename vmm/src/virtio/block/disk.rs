//! The file behind a disk: opened, checked, locked.

use std::fs::{self, File, FileType, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::config::DiskConfig;

/// Why a disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It can't be opened.
    #[error("can't open disk {}", path.display())]
    Open {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It can't be written.
    #[error("no permission to write disk {}: add ,ro to use it read-only", path.display())]
    ReadOnly {
        /// The disk.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("disk {} is {what}: name a raw image or a block device", path.display())]
    NotADisk {
        /// The disk.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It has a part of a sector, or nothing.
    #[error("disk {} has {size} bytes, which is not a whole number of 512-byte sectors (or none): round it up, for example with truncate -s %512", path.display())]
    Size {
        /// The disk.
        path: PathBuf,
        /// Its bytes.
        size: u64,
    },
    /// Somebody else uses it.
    #[error("disk {} is locked by another process: is a VM using it already?{}", path.display(), if *shared { "" } else { " Several can share it with ,ro" })]
    Locked {
        /// The disk.
        path: PathBuf,
        /// It was to be shared.
        shared: bool,
    },
}

/// An open disk. Its size doesn't change.
#[derive(Debug)]
pub struct Disk {
    file: File,
    sectors: u64,
    read_only: bool,
    id: [u8; 20],
}

impl Disk {
    /// Bytes per sector, in everything that virtio counts in sectors.
    pub const SECTOR: u64 = 512;

    /// Opens and locks a disk: shared to read it, alone to write it.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn open(config: &DiskConfig) -> Result<Self, Error> {
        let DiskConfig { path, read_only } = config;
        let failed = |source| Error::Open { path: path.clone(), source };
        // Before it is opened: that would wait for the other end of a FIFO.
        let found = fs::metadata(path).map_err(failed)?;
        if let Some(what) = no_disk(found.file_type()) {
            return Err(Error::NotADisk { path: path.clone(), what });
        }
        let mut file = OpenOptions::new().read(true).write(!read_only).open(path).map_err(|source| {
            match source.kind() {
                ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem if !read_only => {
                    Error::ReadOnly { path: path.clone(), source }
                }
                _ => failed(source),
            }
        })?;
        let locked = if *read_only { file.try_lock_shared() } else { file.try_lock() };
        locked.map_err(|error| match error {
            TryLockError::WouldBlock => Error::Locked { path: path.clone(), shared: *read_only },
            TryLockError::Error(source) => failed(source),
        })?;
        // A block device has its size there, too.
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size == 0 || !size.is_multiple_of(Self::SECTOR) {
            return Err(Error::Size { path: path.clone(), size });
        }
        let found = file.metadata().map_err(failed)?;
        let mut id = [0; 20];
        // What fits; the same image has the same name in every VM.
        let _ = write!(&mut id[..], "{:x}-{:x}", found.dev(), found.ino());
        Ok(Self { file, sectors: size / Self::SECTOR, read_only: *read_only, id })
    }

    /// Sectors that the disk has.
    pub fn sectors(&self) -> u64 {
        self.sectors
    }

    /// Whether writing is refused.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// What VIRTIO_BLK_T_GET_ID answers.
    pub(super) fn id(&self) -> &[u8; 20] {
        &self.id
    }

    /// The byte at which `bytes` bytes from `sector` on start, if they are whole sectors of the disk,
    /// and at least one.
    pub(super) fn range(&self, sector: u64, bytes: u64) -> Option<u64> {
        let end = sector.checked_add(bytes / Self::SECTOR)?;
        let whole = bytes > 0 && bytes.is_multiple_of(Self::SECTOR);
        // It doesn't overflow: no sector of the disk does.
        (whole && end <= self.sectors).then(|| sector * Self::SECTOR)
    }

    /// The file, at byte `at`.
    pub(super) fn at(&mut self, at: u64) -> io::Result<&mut File> {
        self.file.seek(SeekFrom::Start(at))?;
        Ok(&mut self.file)
    }

    /// Everything written so far is on the medium when this returns.
    pub(super) fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Gives a range back. It is only a hint: a file system that can't do that keeps it.
    pub(super) fn discard(&self, at: u64, len: u64) -> io::Result<()> {
        match self.punch(at, len) {
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(()),
            done => done,
        }
    }

    /// Makes a range read as zero, and gives it back if `unmap` allows.
    pub(super) fn zero(&mut self, at: u64, len: u64, unmap: bool) -> io::Result<()> {
        let quick = if unmap {
            self.punch(at, len)
        } else {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            fallocate(&self.file, flags, at, len).map_err(unsupported)
        };
        match quick {
            Err(error) if error.kind() == ErrorKind::Unsupported => {}
            done => return done,
        }
        let file = self.at(at)?;
        let zeroes = [0; 16 << 10];
        let mut left = len;
        while left > 0 {
            let now = left.min(zeroes.len() as u64);
            file.write_all(&zeroes[..now as usize])?;
            left -= now;
        }
        Ok(())
    }

    fn punch(&self, at: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, flags, at, len).map_err(unsupported)
    }
}

/// ENOSYS and ENODEV are ways to say it, too, and so is EINVAL of a range that was checked: a block device
/// frees and zeroes whole blocks of its own, which may be larger than a sector.
fn unsupported(error: Errno) -> io::Error {
    match error {
        Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL => ErrorKind::Unsupported.into(),
        other => other.into(),
    }
}

/// What a file is that is no disk.
fn no_disk(kind: FileType) -> Option<&'static str> {
    if kind.is_file() || kind.is_block_device() {
        None
    } else if kind.is_dir() {
        Some("a directory")
    } else if kind.is_fifo() {
        Some("a FIFO")
    } else if kind.is_socket() {
        Some("a socket")
    } else {
        Some("a character device")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_system_or_a_block_device_can_not_do_is_unsupported_and_a_full_disk_is_not() {
        for errno in [Errno::OPNOTSUPP, Errno::NOSYS, Errno::NODEV, Errno::INVAL] {
            assert_eq!(unsupported(errno).kind(), ErrorKind::Unsupported);
        }
        assert_eq!(unsupported(Errno::NOSPC).kind(), ErrorKind::StorageFull);
    }
}
