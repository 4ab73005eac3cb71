//! Why a machine does not start, or does not go on.

use std::io;

use vmm_sys_util::errno;

use super::{boot, gic, host, payload, vcpu, worker};
use crate::devices::{bus, console};
use crate::kvm::memslot;
use crate::{memory, virtio};

/// Why a machine does not start, or does not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// This host can't run the guest.
    #[error(transparent)]
    Host(#[from] host::Error),
    /// Kernel or initial RAM disk can't be used.
    #[error(transparent)]
    Payload(#[from] payload::Error),
    /// What is booted does not fit into RAM.
    #[error(transparent)]
    Place(#[from] boot::Error),
    /// Guest RAM can't be had.
    #[error(transparent)]
    Memory(#[from] memory::Error),
    /// What is known of guest RAM can't be kept.
    #[error(transparent)]
    Ledger(#[from] memory::ledger::Error),
    /// What the configuration wants tracked can't be.
    #[error(transparent)]
    Tracking(#[from] super::tracking::Error),
    /// Guest RAM may not be complete where it is kept.
    #[error(transparent)]
    Teardown(#[from] memory::teardown::Error),
    /// Writing guest RAM failed.
    #[error("can't write guest memory: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// A disk can't be used.
    #[error(transparent)]
    Disk(#[from] virtio::block::Error),
    /// The console can't be opened.
    #[error(transparent)]
    Console(#[from] console::Error),
    /// Two devices claim one address.
    #[error(transparent)]
    Bus(#[from] bus::Error),
    /// There are more devices than windows or interrupts.
    #[error("the machine has no room for another virtio device: use fewer disks ({0})")]
    Slots(#[from] vm_allocator::Error),
    /// A virtio transport can't be made.
    #[error("can't create a virtio transport: {0}")]
    Transport(io::Error),
    /// A balloon can't be made.
    #[error("can't create the balloon: {0}")]
    Balloon(io::Error),
    /// The host refused the serial port's event.
    #[error("can't create the serial port: {0}")]
    Serial(io::Error),
    /// KVM refused guest memory.
    #[error(transparent)]
    Memslot(#[from] memslot::Error),
    /// The interrupt controller can't be made.
    #[error(transparent)]
    Gic(#[from] gic::Error),
    /// KVM refused something else.
    #[error("KVM refused {what}: {source}")]
    Refused {
        /// What.
        what: &'static str,
        /// Its error.
        source: errno::Error,
    },
    /// The device tree can't be written.
    #[error("can't write the device tree: {0}")]
    Tree(#[from] vm_fdt::Error),
    /// The device tree is larger than a kernel takes.
    #[error("the device tree takes {size} bytes, and a kernel takes {limit}: shorten the command line")]
    TreeTooLarge {
        /// Its size in bytes.
        size: usize,
        /// The most, in bytes.
        limit: u64,
    },
    /// The host has no entropy.
    #[error("the host gives no random numbers: {0}")]
    Entropy(rustix::io::Errno),
    /// The devices' thread can't be started.
    #[error(transparent)]
    Worker(#[from] worker::Error),
    /// Signals can't be waited for.
    #[error("can't take SIGTERM and SIGINT: {0}")]
    Signals(io::Error),
    /// vCPU threads can't be started.
    #[error("can't start the vCPU threads: {0}")]
    Threads(io::Error),
    /// Waiting for the guest failed.
    #[error("can't wait for the guest: {0}")]
    Wait(io::Error),
    /// The guest can't go on.
    #[error(transparent)]
    Crash(#[from] vcpu::Crash),
}
