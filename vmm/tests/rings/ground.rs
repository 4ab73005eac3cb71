//! RAM on a memfd that goes on behind it: what is punched or written beyond the end is found there. In front of
//! and behind the mapping lie guard pages.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use quire::config::{self, MemoryConfig};
use quire::memory::GuestRam;
use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::GuestAddress;

/// Where RAM starts.
pub(crate) const BASE: u64 = 0x4000_0000;
/// Bytes of RAM.
pub(crate) const SIZE: u64 = 1 << 20;
/// Bytes of the file behind it.
const BEYOND: usize = 64 << 10;
/// What they are filled with.
const CANARY: u8 = 0xc5;

pub(crate) struct Ground {
    file: File,
    pub(crate) ram: GuestRam,
}

impl Ground {
    pub(crate) fn new() -> Self {
        let file = File::from(memfd_create("ground", MemfdFlags::CLOEXEC).expect("there are memfds"));
        // Filled: a file system that has no end would not promise the room.
        file.write_all_at(&[0; SIZE as usize], 0).expect("a memfd can be written");
        let backing = config::Backing::File(format!("/proc/self/fd/{}", file.as_raw_fd()).into());
        let config = MemoryConfig { size: SIZE, backing, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).expect("there is a MiB");
        file.set_len(SIZE + BEYOND as u64).expect("a memfd grows");
        file.write_all_at(&[CANARY; BEYOND], SIZE).expect("a memfd can be written");
        Self { file, ram }
    }

    /// Panics where something was changed beyond RAM.
    pub(crate) fn check(&self) {
        let mut beyond = [0; BEYOND];
        self.file.read_exact_at(&mut beyond, SIZE).expect("the file is as long as it was");
        assert!(beyond.iter().all(|&byte| byte == CANARY), "something was changed beyond RAM");
    }
}
