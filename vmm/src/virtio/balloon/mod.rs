//! A balloon (virtio 1.3, 5.5): memory that the guest gives back while it runs.
//!
//! # Principles
//!
//! - **The contract decides when.** Without MUST_TELL_HOST a page may be changed only before its descriptor is
//!   acknowledged; with it the guest is told first, and the work is done while it goes on.
//! - **Nothing that the guest says ends the thread.** A page that is none is left out, a chain that is none
//!   comes back untouched, and only rings that make no sense cost the guest the device.
//! - **Nobody waits for the guest.** What is asked of the balloon is written down; the guest finds it when it
//!   looks, or never.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`device`] | [`Balloon`]: its queues and events |
//! | [`control`] | [`Control`]: what can be asked of it from outside |
//! | [`memory`] | [`Memory`]: what it does to guest memory |
//! | `behind` | [`Behind`]: the work that the guest does not wait for |
//! | [`statistics`] | [`Statistics`]: what the guest says about its memory |
//! | [`hinting`] | free page hinting: who has said what |
//! | [`error`] | [`Error`]: what can't be asked of it |
//! | `features`, `numbering` | what is offered, and which queue is which then |
//! | `config_space` | what the driver reads and writes |
//! | `pfn` | page numbers |
//! | `deadline`, `timer` | when parts of blocks go too |
//! | `state` | what vCPUs, the device thread and the control share |

mod behind;
mod config_space;
pub mod control;
mod deadline;
pub mod device;
pub mod error;
mod features;
pub mod hinting;
pub mod memory;
mod numbering;
mod pfn;
mod state;
pub mod statistics;
mod timer;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use behind::Behind;
pub use control::Control;
pub use device::Balloon;
pub use error::Error;
pub use hinting::HintingStatus;
pub use memory::{Contract, Memory};
pub use statistics::Statistics;
