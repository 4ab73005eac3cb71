//! A balloon (virtio 1.3, 5.5): memory that the guest gives back while it runs.
//!
//! | module | what it holds |
//! |---|---|
//! | [`control`] | [`Control`]: what can be asked of it from outside |
//! | [`error`] | [`Error`]: what can't |
//! | [`statistics`] | [`Statistics`]: what the guest says about its memory |
//! | [`hinting`] | free page hinting: who has said what |
//! | `features` | the feature bits |
//! | `state` | what vCPUs, the device thread and the control share |
//! | `timer` | a clock that makes a file descriptor readable |

#![expect(dead_code, reason = "the device that uses the rest comes next")]

pub mod control;
pub mod error;
mod features;
pub mod hinting;
mod state;
pub mod statistics;
mod timer;

pub use control::Control;
pub use error::Error;
pub use hinting::HintingStatus;
pub use statistics::Statistics;
