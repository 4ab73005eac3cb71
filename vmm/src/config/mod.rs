//! What a VM is: plain, validated, serde types.
//!
//! Principles: nothing here has a side effect or looks at the host; one vocabulary serves the command
//! line and the JSON of `--config FILE`; every wrong word is answered with the right ones.
//!
//! # The vocabulary
//!
//! A value that has parts is written on the command line as words separated by commas, `key=value` or a
//! bare word, and in JSON either as the same string or as an object with the same keys. A comma that
//! belongs to a path is written twice (`--disk a,,b.img,ro`), as in QEMU; an equals sign needs nothing,
//! since only the first one separates. Where nothing can follow a path (`--console file:PATH`, and
//! every path that has a JSON key of its own) it is taken as it stands. Paths are relative to the
//! current folder, in a configuration file too.
//!
//! | module | noun |
//! |---|---|
//! | `vm` | [`VmConfig`], a whole VM |
//! | `validate` | what can be checked of it without a host |
//! | `memory`, `backing`, `block` | [`MemoryConfig`], [`Backing`], [`BlockSize`] |
//! | `el2` | [`El2`], whether the guest starts there |
//! | `disk`, `console` | [`DiskConfig`], [`ConsoleConfig`] |
//! | `balloon` | [`BalloonConfig`], and what [`Repopulate`] can be |
//! | `track` | [`TrackConfig`], what is tracked of memory, and what can [`Watch`] it |
//! | [`size`] | sizes in bytes, as people write them |
//! | `words` | comma-separated words, `key=value`, and the nearest valid key |
//! | `json` | the same from JSON |
//! | `error` | [`Error`], every way in which a configuration can be wrong |

mod backing;
mod balloon;
mod block;
mod console;
mod disk;
mod el2;
mod error;
mod json;
mod memory;
pub mod size;
mod track;
mod validate;
mod vm;
pub(crate) mod words;

pub use backing::Backing;
pub use balloon::{BalloonConfig, Repopulate};
pub use block::BlockSize;
pub use console::ConsoleConfig;
pub use disk::DiskConfig;
pub use el2::El2;
pub use error::Error;
pub use memory::MemoryConfig;
pub use size::Size;
pub use track::{TrackConfig, Watch};
pub use validate::{MAX_CMDLINE, MAX_CPUS};
pub use vm::VmConfig;
