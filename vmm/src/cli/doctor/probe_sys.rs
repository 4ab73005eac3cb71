//! The system calls that nothing wraps, each on memory and descriptors of its own.

#![expect(unsafe_code, reason = "system calls and ioctls that no crate of ours wraps")]

use std::ffi::c_void;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::ptr;

use kvm_bindings::{KVM_CREATE_DEVICE_TEST, KVMIO, kvm_create_device};
use kvm_ioctls::VmFd;
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, UserfaultfdFlags, mmap_anonymous, munmap};
use rustix::process::{PidfdFlags, getpid, pidfd_open};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

/// A private anonymous page of our own; nothing else has its address.
struct Page {
    start: *mut c_void,
    size: usize,
}

impl Page {
    fn new() -> io::Result<Self> {
        let size = rustix::param::page_size();
        // SAFETY: a new mapping where the kernel likes it: it replaces none.
        let start = unsafe {
            mmap_anonymous(ptr::null_mut(), size, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)
        }?;
        Ok(Self { start, size })
    }

    fn write(&self, byte: u8) {
        // SAFETY: the page is mapped writable until `self` is dropped, and nothing refers to it.
        unsafe { self.start.cast::<u8>().write_volatile(byte) }
    }

    fn read(&self) -> u8 {
        // SAFETY: the page is mapped readable until `self` is dropped; volatile, since the kernel may
        // have changed it.
        unsafe { self.start.cast::<u8>().read_volatile() }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` has mapped, and nothing refers to it. What could fail is an address
        // that is not a page's.
        let _ = unsafe { munmap(self.start, self.size) };
    }
}

/// Whether `process_madvise(DONTNEED)` on this process discards a page.
///
/// # Errors
/// The kernel's; EINVAL before Linux 6.13.
pub(super) fn process_madvise_discards() -> io::Result<bool> {
    let page = Page::new()?;
    page.write(1);
    let process = pidfd_open(getpid(), PidfdFlags::empty())?;
    let range = libc::iovec { iov_base: page.start, iov_len: page.size };
    // SAFETY: the descriptor is open and the vector has one element, both for the time of the call. The advice
    // discards a page that only `page` refers to, by address.
    let advised = unsafe {
        libc::syscall(
            libc::SYS_process_madvise,
            process.as_raw_fd(),
            &raw const range,
            1usize,
            libc::MADV_DONTNEED,
            0u32,
        )
    };
    if advised < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(page.read() == 0)
}

/// The argument of PAGEMAP_SCAN (Linux, include/uapi/linux/fs.h, `struct pm_scan_arg`).
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// A run of pages that PAGEMAP_SCAN found (`struct page_region`).
#[repr(C)]
#[derive(Default)]
struct ScanRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// The category of pages that are in memory (`PAGE_IS_PRESENT`).
const PRESENT: u64 = 1 << 3;

/// Whether PAGEMAP_SCAN finds a page once it has been written, and not before.
///
/// # Errors
/// The kernel's; ENOTTY before Linux 6.7.
pub(super) fn pagemap_scan_sees_pages() -> io::Result<bool> {
    let page = Page::new()?;
    let pagemap = File::open("/proc/self/pagemap")?;
    let before = scan(&pagemap, &page)?;
    page.write(1);
    Ok(!before && scan(&pagemap, &page)?)
}

/// Whether the page is present.
fn scan(pagemap: &File, page: &Page) -> io::Result<bool> {
    const SCAN: rustix::ioctl::Opcode = opcode::read_write::<ScanArgument>(b'f', 16);
    let start = page.start as u64;
    let end = start + page.size as u64;
    let mut region = ScanRegion::default();
    let mut argument = ScanArgument {
        size: size_of::<ScanArgument>() as u64,
        start,
        end,
        regions: (&raw mut region) as u64,
        regions_len: 1,
        category_mask: PRESENT,
        return_mask: PRESENT,
        ..ScanArgument::default()
    };
    // SAFETY: the operation's number is made from the type of its argument, and the kernel writes to the
    // argument and to `regions_len` regions at `regions`, where there is one. No flag asks it to change
    // the page.
    unsafe { ioctl(pagemap, Updater::<SCAN, _>::new(&mut argument)) }?;
    // The kernel says how far it walked, and leaves a region alone where nothing matches.
    Ok(argument.walk_end == end && (region.start, region.end) == (start, end))
}

/// What userfaultfd offers.
pub(super) struct Userfaultfd {
    /// Faults on write-protected pages.
    pub(super) write_protect: bool,
}

/// The argument of UFFDIO_API (Linux, include/uapi/linux/userfaultfd.h).
#[repr(C)]
struct ApiArgument {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// Opens a userfaultfd that gets the faults of the kernel too (KVM's among them), and asks it what it can.
///
/// # Errors
/// The kernel's; EPERM where only root may.
pub(super) fn userfaultfd() -> io::Result<Userfaultfd> {
    const API: rustix::ioctl::Opcode = opcode::read_write::<ApiArgument>(0xaa, 0x3f);
    const WRITE_PROTECT: u64 = 1;
    // SAFETY: no memory is registered with it, so it gets no faults.
    let fd = unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK) }?;
    let mut argument = ApiArgument { api: 0xaa, features: 0, ioctls: 0 };
    // SAFETY: the operation's number is made from the type of its argument, and it touches nothing else.
    unsafe { ioctl(&fd, Updater::<API, _>::new(&mut argument)) }?;
    Ok(Userfaultfd { write_protect: argument.features & WRITE_PROTECT != 0 })
}

/// Reads the flags of the first page frame.
///
/// # Errors
/// The kernel's.
pub(super) fn page_flags() -> io::Result<()> {
    File::open("/proc/kpageflags")?.read_exact(&mut [0; 8])
}

vmm_sys_util::ioctl_iowr_nr!(KVM_CREATE_DEVICE, KVMIO, 0xe0, kvm_create_device);

/// Whether a VM can have a device of type `kind` (KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST).
///
/// Not through [`VmFd::create_device`], which takes the descriptor that the kernel does not make here
/// (it stays 0: standard input) for one of its own, and closes it.
pub(super) fn can_create_device(vm: &VmFd, kind: u32) -> bool {
    let mut device = kvm_create_device { type_: kind, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    // SAFETY: the descriptor is a VM's, the operation's number is made from the type of its argument, and the
    // kernel writes nothing else.
    let outcome = unsafe { ioctl_with_mut_ref(vm, KVM_CREATE_DEVICE(), &mut device) };
    outcome == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_have_the_kernels_sizes() {
        assert_eq!(size_of::<ScanArgument>(), 96);
        assert_eq!(size_of::<ScanRegion>(), 24);
        assert_eq!(size_of::<ApiArgument>(), 24);
    }

    #[test]
    fn a_page_is_zero_until_it_is_written() {
        let page = Page::new().unwrap();
        assert_eq!(page.read(), 0);
        page.write(7);
        assert_eq!(page.read(), 7);
    }
}
