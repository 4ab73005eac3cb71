//! What a device is to its transport.

use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use super::interrupt::Interrupt;
use super::queue::{self, Progress, VirtQueue};

/// A device. It lives on the device thread; what vCPUs may ask it at any time is its
/// [`ConfigSpace`].
pub trait VirtioDevice: Send {
    /// The device type (virtio 1.3, 5).
    fn id(&self) -> u32;

    /// The feature bits of this device type that it offers. The transport adds its own.
    fn features(&self) -> u64;

    /// The largest size of each queue, powers of two. There are as many queues as sizes.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration that vCPUs read and write while the device is busy.
    fn config(&self) -> Arc<dyn ConfigSpace>;

    /// The driver is ready: from now on there are queues.
    fn activate(&mut self, activation: Activation);

    /// The driver has something in queue `index`, or may have.
    ///
    /// # Errors
    ///
    /// The driver broke the queue: the device is given up until it is reset.
    fn handle_queue(&mut self, index: usize) -> Result<Progress, queue::Error>;

    /// What else the device thread is to watch: descriptors that stay open as long as the device.
    fn events(&self) -> Vec<RawFd> {
        Vec::new()
    }

    /// Event `index` of [`events`](Self::events) is readable, whether or not there is a driver. The device
    /// reads it empty.
    ///
    /// # Errors
    ///
    /// As [`handle_queue`](Self::handle_queue).
    fn handle_event(&mut self, _index: usize) -> Result<(), queue::Error> {
        Ok(())
    }

    /// Forget the driver: drop all queues, and be as after creation.
    fn reset(&mut self);
}

/// What the driver and the transport have agreed upon.
pub struct Activation {
    /// The feature bits that the driver took.
    pub features: u64,
    /// By index; absent where the driver didn't set one up.
    pub queues: Vec<Option<VirtQueue>>,
    /// The way to the driver.
    pub interrupt: Arc<Interrupt>,
    /// Asked between the parts of a long request.
    pub stop: Stop,
}

/// The configuration space of a device (virtio 1.3, 2.5). It is called from vCPU threads and must not
/// wait for the device thread.
pub trait ConfigSpace: Send + Sync {
    /// Fills `data` from `offset` on; what there is nothing for stays zero.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes what the driver wrote; ignores what is not writable.
    fn write(&self, offset: u64, data: &[u8]);
}

/// A configuration that never changes.
impl ConfigSpace for Vec<u8> {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let Some(from) = usize::try_from(offset).ok().and_then(|offset| self.get(offset..)) else { return };
        let len = from.len().min(data.len());
        data[..len].copy_from_slice(&from[..len]);
    }

    fn write(&self, _: u64, _: &[u8]) {}
}

/// Whether somebody waits for the device thread to leave the guest's memory alone.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicU32>);

impl Stop {
    /// Whether to give up the request at hand.
    pub fn is_asked(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// Asks, until the answer is dropped.
    pub(super) fn ask(&self) -> Asked<'_> {
        self.0.fetch_add(1, Ordering::AcqRel);
        Asked(self)
    }
}

pub(super) struct Asked<'a>(&'a Stop);

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
