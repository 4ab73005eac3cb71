//! userfaultfd(2): faults on memory that is not there are told to this process, which has to resolve them
//! (Documentation/admin-guide/mm/userfaultfd.rst).
#![expect(unsafe_code, reason = "userfaultfd's ioctls, which no crate of ours wraps")]

use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};
use rustix::mm::UserfaultfdFlags;

/// The argument of UFFDIO_API (Linux, include/uapi/linux/userfaultfd.h).
#[repr(C)]
#[derive(Default)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Place {
    start: u64,
    len: u64,
}

/// The argument of UFFDIO_REGISTER.
#[repr(C)]
#[derive(Default)]
struct Register {
    range: Place,
    mode: u64,
    ioctls: u64,
}

/// The argument of UFFDIO_ZEROPAGE.
#[repr(C)]
#[derive(Default)]
struct ZeroPage {
    range: Place,
    mode: u64,
    zeropage: i64,
}

/// `struct uffd_msg`, of which only the fault's address is of interest.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Message {
    event: u8,
    reserved: [u8; 7],
    flags: u64,
    address: u64,
    thread: u64,
}

const MAGIC: u64 = 0xaa;
const MISSING: u64 = 1;
const PAGEFAULT: u8 = 0x12;

/// Faults of this process on ranges that are registered.
#[derive(Debug)]
pub(super) struct Userfaultfd {
    fd: OwnedFd,
    page: u64,
    features: u64,
}

impl Userfaultfd {
    /// One that is told the faults of the kernel too, KVM's among them: root only, or with
    /// vm.unprivileged_userfaultfd=1.
    pub(super) fn new() -> io::Result<Self> {
        const API: Opcode = opcode::read_write::<Api>(MAGIC as u8, 0x3f);
        let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
        // SAFETY: no memory is registered with it, so it gets no faults yet.
        let fd = unsafe { rustix::mm::userfaultfd(flags) }?;
        let mut argument = Api { api: MAGIC, ..Api::default() };
        // SAFETY: the operation's number is made from the type of its argument, and it touches nothing else.
        unsafe { ioctl(&fd, Updater::<API, _>::new(&mut argument)) }?;
        Ok(Self { fd, page: rustix::param::page_size() as u64, features: argument.features })
    }

    /// Whether it could tell of writes to what is write-protected, too (UFFD_FEATURE_PAGEFAULT_FLAG_WP).
    pub(super) fn write_protects(&self) -> bool {
        self.features & 1 != 0
    }

    /// The descriptor: readable when there are faults.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// From now on faults on what is missing of `host`, whole pages of guest memory, wait for
    /// [`Userfaultfd::zero`]. They no longer do when this is dropped.
    pub(super) fn register(&self, host: &Range<usize>) -> io::Result<()> {
        const REGISTER: Opcode = opcode::read_write::<Register>(MAGIC as u8, 0x00);
        let range = Place { start: host.start as u64, len: host.len() as u64 };
        let mut argument = Register { range, mode: MISSING, ..Register::default() };
        // SAFETY: as above. No content changes: what is missing reads as zero, as it would without.
        unsafe { ioctl(&self.fd, Updater::<REGISTER, _>::new(&mut argument)) }?;
        Ok(())
    }

    /// Faults on `host` are the kernel's again, and who waits for one goes on.
    pub(super) fn unregister(&self, host: &Range<usize>) -> io::Result<()> {
        const UNREGISTER: Opcode = opcode::read::<Place>(MAGIC as u8, 0x01);
        let mut argument = Place { start: host.start as u64, len: host.len() as u64 };
        // SAFETY: as above.
        unsafe { ioctl(&self.fd, Updater::<UNREGISTER, _>::new(&mut argument)) }?;
        Ok(())
    }

    /// The addresses of the pages that are waited for; none where nothing waits.
    pub(super) fn faults(&self) -> io::Result<Vec<u64>> {
        let mut bytes = [0u8; 64 * size_of::<Message>()];
        let len = match rustix::io::read(&self.fd, &mut bytes) {
            Ok(len) => len,
            // Somebody else's fault has been resolved, or a signal came.
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        let (messages, _) = bytes[..len].as_chunks::<{ size_of::<Message>() }>();
        // Byte 0 is the event, and bytes 16 to 23 are the address of a fault.
        Ok(messages
            .iter()
            .filter(|message| message[0] == PAGEFAULT)
            .filter_map(|message| message.get(16..24)?.try_into().ok().map(u64::from_ne_bytes))
            .map(|address| address / self.page * self.page)
            .collect())
    }

    /// Resolves a fault: the page at `address` reads as zero, and whoever waits for it goes on.
    pub(super) fn zero(&self, address: u64) -> io::Result<()> {
        const ZEROPAGE: Opcode = opcode::read_write::<ZeroPage>(MAGIC as u8, 0x04);
        let range = Place { start: address, len: self.page };
        let mut argument = ZeroPage { range, ..ZeroPage::default() };
        loop {
            // SAFETY: as above. The page is missing, in a range that was registered and so is guest memory: nothing
            // is there that zeroes could replace, and a page that has come meanwhile is left as it is (EEXIST).
            match unsafe { ioctl(&self.fd, Updater::<ZEROPAGE, _>::new(&mut argument)) } {
                Ok(()) => return Ok(()),
                // The address space is being changed: it says itself to come again.
                Err(rustix::io::Errno::AGAIN) => argument.zeropage = 0,
                // It has come meanwhile, or there is nothing to fault on any more: whoever waits finds out.
                Err(_) => return self.wake(address),
            }
        }
    }

    fn wake(&self, address: u64) -> io::Result<()> {
        const WAKE: Opcode = opcode::read::<Place>(MAGIC as u8, 0x02);
        let mut argument = Place { start: address, len: self.page };
        // SAFETY: as above; it only lets threads go on.
        unsafe { ioctl(&self.fd, Updater::<WAKE, _>::new(&mut argument)) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_have_the_kernels_sizes() {
        let sizes = [size_of::<Api>(), size_of::<Register>(), size_of::<ZeroPage>(), size_of::<Message>()];
        assert_eq!(sizes, [24, 32, 32, 32]);
    }
}
