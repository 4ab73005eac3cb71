//! Everything that can go wrong between a memory configuration and mapped guest RAM.

use std::io;
use std::path::PathBuf;

use crate::config::Size;

/// Why guest RAM could not be had. Sizes are in bytes.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A guest without memory.
    #[error("memory size is 0: give the guest some, for example --memory 512M")]
    Zero,
    /// The guest-physical range would wrap around or start inside a page or block.
    #[error("{} of memory can't start at guest address {base:#x}", Size(*size))]
    Base {
        /// Guest-physical address of the first byte.
        base: u64,
        /// Size asked for.
        size: u64,
    },
    /// The size is not a whole number of blocks.
    #[error("memory size {} is not a multiple of the {} block size: use {} or {alternative}", Size(*size), Size(*block), Size(size.div_ceil(*block).saturating_mul(*block)))]
    NotWholeBlocks {
        /// Size asked for.
        size: u64,
        /// The block size that it must be a multiple of.
        block: u64,
        /// What to write instead of another size.
        alternative: &'static str,
    },
    /// More than the host has, swap included.
    #[error("memory size {} is larger than this host's {} of memory and swap: use less, or backing=file:PATH", Size(*size), Size(*host))]
    LargerThanHost {
        /// Size asked for.
        size: u64,
        /// MemTotal and SwapTotal.
        host: u64,
    },
    /// More than the host has free at the moment, and all of it is wanted now.
    #[error("memory size {} with prefault=on is more than the {} that this host has available now: use less, or prefault=off", Size(*size), Size(*available))]
    NotAvailable {
        /// Size asked for.
        size: u64,
        /// MemAvailable and SwapFree.
        available: u64,
    },
    /// The backing has no such block on this host.
    #[error("{backing} has no {} blocks on this host: {hint}", Size(*block))]
    NoSuchBlock {
        /// The backing, as on the command line.
        backing: &'static str,
        /// The block size asked for.
        block: u64,
        /// What would help.
        hint: String,
    },
    /// The transparent huge pages that were asked for are switched off.
    #[error("{} blocks are switched off in {}: it says \"{found}\", write \"{wanted}\" to it or use block=auto", Size(*block), file.display())]
    TransparentOff {
        /// The block size asked for.
        block: u64,
        /// The sysfs file that decides.
        file: PathBuf,
        /// Its selected word.
        found: String,
        /// The word that would do.
        wanted: &'static str,
    },
    /// The pool of huge pages is too small.
    #[error("the pool of {} huge pages is short: {needed} needed, {available} available: write at least {} to {}", Size(*page), total.saturating_add(needed.saturating_sub(*available)), file.display())]
    PoolShort {
        /// Bytes per huge page.
        page: u64,
        /// Pages that the guest needs.
        needed: u64,
        /// Pages that are neither used nor promised, and those the pool may still grow by.
        available: u64,
        /// Pages that the pool has in all.
        total: u64,
        /// The sysfs file that sets the pool's size.
        file: PathBuf,
    },
    /// No pool at all can hold the guest.
    #[error("no pool of huge pages can hold {}: {found}; fill one, for example by writing {pages} to {}", Size(*size), file.display())]
    NoPool {
        /// Size asked for.
        size: u64,
        /// Every pool, and what it has.
        found: String,
        /// Pages that the example needs.
        pages: u64,
        /// The sysfs file of the example.
        file: PathBuf,
    },
    /// The memory file can't be used.
    #[error("memory file {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The memory file can't be opened, locked or sized.
    #[error("can't {action} memory file {}", path.display())]
    FileIo {
        /// The file.
        path: PathBuf,
        /// What failed.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused a memory object.
    #[error("can't create {} of {what}", Size(*size))]
    Create {
        /// Size asked for.
        size: u64,
        /// What was to be created.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused the mapping.
    #[error("can't map {} of guest memory", Size(*size))]
    Map {
        /// Size asked for.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// Populating stopped half-way.
    #[error("the host ran out of memory after {} of {} were populated: use less, or prefault=off", Size(*done), Size(*size))]
    Populate {
        /// Bytes populated.
        done: u64,
        /// Size asked for.
        size: u64,
        /// Why.
        source: io::Error,
    },
    /// Somebody asked to stop meanwhile.
    #[error("asked to stop before the guest had started, with {} of {} populated", Size(*done), Size(*size))]
    Stopped {
        /// Bytes populated.
        done: u64,
        /// Size asked for.
        size: u64,
    },
    /// A file of sysfs or procfs could not be read.
    #[error("can't read {}", path.display())]
    Host {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_size_error_names_the_next_good_size() {
        let error = Error::NotWholeBlocks { size: 513 << 20, block: 2 << 20, alternative: "block=4K" };
        assert_eq!(
            error.to_string(),
            "memory size 513M is not a multiple of the 2M block size: use 514M or block=4K"
        );
    }
}
