//! From the device to the driver.

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};

use virtio_bindings::virtio_mmio::{VIRTIO_MMIO_INT_CONFIG, VIRTIO_MMIO_INT_VRING};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// The interrupt line, its status register and the configuration's generation. Any thread may use it.
#[derive(Debug)]
pub struct Interrupt {
    status: AtomicU32,
    generation: AtomicU32,
    event: EventFd,
}

impl Interrupt {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self { status: AtomicU32::new(0), generation: AtomicU32::new(0), event })
    }

    /// Something was put into a used ring.
    pub fn used(&self) {
        self.raise(VIRTIO_MMIO_INT_VRING);
    }

    /// The configuration has changed, or the device needs a reset. To be called after the change.
    pub fn config_changed(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.raise(VIRTIO_MMIO_INT_CONFIG);
    }

    /// Written for each interrupt: an edge.
    pub fn event(&self) -> &EventFd {
        &self.event
    }

    pub(super) fn status(&self) -> u32 {
        self.status.load(Ordering::Acquire)
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    /// The driver has seen these bits.
    pub(super) fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn reset(&self) {
        self.status.store(0, Ordering::Release);
    }

    fn raise(&self, bit: u32) {
        // The status first: the driver reads it as soon as the edge arrives.
        self.status.fetch_or(bit, Ordering::AcqRel);
        match self.event.write(1) {
            Ok(()) => {}
            // As many edges as a counter holds are waiting: one more makes no difference.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => tracing::error!(%error, "an interrupt is lost"),
        }
    }
}
