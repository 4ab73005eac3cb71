//! Pages for virtqueues, and what the driver crate wants to know about the machine: that an address is an
//! address.

#![expect(unsafe_code, reason = "the trait that hands out pages is unsafe")]

use core::ptr::{self, NonNull};

use board::ram::{PAGE_SIZE, Span};
use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PhysAddr};

/// Pages that there are. A queue takes two, a balloon has five queues at most.
pub const PAGES: usize = 16;

/// Where they start, and which of them are taken.
static POOL: Mutex<(u64, [bool; PAGES])> = Mutex::new((0, [false; PAGES]));

/// Gives the pool its pages.
///
/// # Safety
///
/// `pages`, [`PAGES`] of them, are mapped at their own address, and nobody else uses them, for good.
pub unsafe fn provide(pages: Span) {
    *POOL.lock() = (pages.start, [false; PAGES]);
}

/// Memory as the devices see it: where it is, uncached by nobody.
#[derive(Debug)]
pub struct Identity;

// SAFETY: what is handed out lies in the pool, is marked as taken until it is given back, and is zeroed. Devices
// and CPU use the same addresses.
unsafe impl Hal for Identity {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut pool = POOL.lock();
        let (start, taken) = &mut *pool;
        let free = (0..=PAGES.saturating_sub(pages))
            .find(|&at| taken.get(at..at + pages).is_some_and(|pages| pages.iter().all(|&page| !page)));
        // An address of 0 means that there is none.
        let Some(at) = free.filter(|_| *start != 0) else { return (0, NonNull::dangling()) };
        taken[at..at + pages].fill(true);
        let address = *start + at as u64 * PAGE_SIZE;
        let Some(pointer) = NonNull::new(address as *mut u8) else { return (0, NonNull::dangling()) };
        // SAFETY: mapped pages of the pool, and nobody has them.
        unsafe { ptr::write_bytes(pointer.as_ptr(), 0, pages * PAGE_SIZE as usize) };
        (address, pointer)
    }

    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        let mut pool = POOL.lock();
        let (start, taken) = &mut *pool;
        let at = (address.wrapping_sub(*start) / PAGE_SIZE) as usize;
        match taken.get_mut(at..at.saturating_add(pages)) {
            Some(pages) => {
                pages.fill(false);
                0
            }
            None => -1,
        }
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, _: usize) -> NonNull<u8> {
        NonNull::new(address as *mut u8).unwrap_or(NonNull::dangling())
    }

    unsafe fn share(buffer: NonNull<[u8]>, _: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as u64
    }

    unsafe fn unshare(_: PhysAddr, _: NonNull<[u8]>, _: BufferDirection) {}
}
