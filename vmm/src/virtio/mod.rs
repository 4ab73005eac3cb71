//! virtio devices behind the modern MMIO transport (virtio 1.3, 4.2).
//!
//! # Principles
//!
//! - **A vCPU's register access takes no lock that is held during I/O.** Registers, interrupt status
//!   and config space belong to the vCPU side; device and queues to the device thread. The one access
//!   that waits is a reset, and only for the system call at hand: drivers free their buffers as soon
//!   as the write of 0 has returned, so nothing may touch them after it.
//! - **What the guest says is checked where it enters.** A queue is looked at once it is complete, by
//!   [`registers`]; a descriptor chain becomes a [`chain::Chain`] before a device sees it. A driver
//!   that breaks the rules loses its device (DEVICE_NEEDS_RESET), never more.
//! - **Each head that is popped is returned once**: it is a value that can't be copied, and returning
//!   it consumes it.
//! - **Guest memory is written through vm-memory only**, so that a dirty bitmap sees it.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | [`VirtioDevice`]: what a device is to its transport |
//! | [`mmio`] | [`MmioTransport`]: a device on the MMIO bus and on the device thread |
//! | [`registers`] | the transport's state machine, without side effects |
//! | [`interrupt`] | [`Interrupt`]: from the device to the driver |
//! | [`queue`] | [`VirtQueue`]: pop, serve, return |
//! | [`chain`] | [`Chain`](chain::Chain): a checked descriptor chain |
//! | [`balloon`] | [`Balloon`]: memory that the guest gives back |
//! | [`block`] | [`Block`]: a disk on a raw file |
//! | [`rng`] | [`Rng`]: entropy |

pub mod balloon;
pub mod block;
pub mod chain;
pub mod device;
#[cfg(test)]
mod driver;
pub mod interrupt;
pub mod mmio;
pub mod queue;
pub mod registers;
pub mod rng;

pub use balloon::Balloon;
pub use block::Block;
pub use device::{Activation, ConfigSpace, VirtioDevice};
pub use interrupt::Interrupt;
pub use mmio::MmioTransport;
pub use queue::VirtQueue;
pub use rng::Rng;
