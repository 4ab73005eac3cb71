//! The ledger: what this VMM knows about every page of guest RAM.
//!
//! KVM's stage 2 is a cache of what the host maps. The ledger is what we *know*: stage-2 tables of our own that no
//! MMU walks, from guest-physical addresses to offsets in the memory object that backs the guest. Leaves are
//! blocks, contiguous groups or pages, whichever is the largest that is uniform, so a guest that nobody has looked at
//! costs a few KiB.
//!
//! # Principles
//!
//! - **Every page is in exactly one [`State`].**
//! - **The ledger never claims more than it knows.** `Released` is hard: the driver has promised to tell before it uses
//!   the page. `Vacant` is soft: the guest may fill the page at any time without a word, so whoever relies on it
//!   asks the host first ([`Books::refresh`]). A populated page counts as dirty where nothing says otherwise.
//! - **One lock, held for a whole batch.** What is harvested, discarded and told to observers under one
//!   [`Ledger::open`] is one step to everybody else: a collection of dirty pages sees all of it or nothing.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`state`] | [`State`] of a page, [`Stretch`] of pages |
//! | [`books`] | [`Books`]: the open ledger, with every operation on it |
//! | `sources` | what it is told of writes and uses |
//! | `tables` | the tables, whichever the host's page size, packed where nobody looks |
//! | [`summary`] | [`Summary`]: how much is in which state, in leaves of which size |
//! | [`check`] | [`Check`]: the whole ledger held against the host |

use std::sync::{Arc, Mutex, MutexGuard};

use crate::lock::lock;

use super::GuestRam;

pub mod books;
pub mod check;
mod sources;
#[cfg(test)]
mod sources_tests;
pub mod state;
pub mod summary;
mod tables;
#[cfg(test)]
mod tests;

pub use books::Books;
pub use check::Check;
pub use state::{State, Stretch};
pub use summary::Summary;

/// What keeps the ledger from being kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tables refused: out of memory, or a bug.
    #[error("the ledger's tables refused: {0}")]
    Tables(#[from] stage2::Error),
    /// The guest's memory is too large for the tables.
    #[error("the ledger can't describe this guest's memory: {0}")]
    Config(#[from] stage2::ConfigError),
    /// No ledger can be kept for this page size.
    #[error("this host has pages of {0} bytes, and stage 2 knows 4K, 16K and 64K")]
    PageSize(u64),
    /// The host won't ever say what is populated.
    #[error("/proc/self/pagemap can't be read: is /proc mounted?")]
    NoPresence(#[source] std::io::Error),
    /// The host can't say what is populated.
    #[error(transparent)]
    Presence(#[from] super::presence::Error),
    /// The content of a page can't be read.
    #[error("guest memory can't be read back: {0}")]
    Read(#[from] vm_memory::GuestMemoryError),
}

/// The ledger of one VM. Clones are the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger(Arc<Mutex<Books>>);

impl Ledger {
    /// The ledger of memory that nobody has used yet. A file that held something before is looked at.
    ///
    /// # Errors
    /// [`Error`].
    pub fn new(ram: &GuestRam) -> Result<Self, Error> {
        Ok(Self(Arc::new(Mutex::new(Books::new(ram)?))))
    }

    /// The open books: nobody else reads or writes them meanwhile.
    pub fn open(&self) -> MutexGuard<'_, Books> {
        lock(&self.0)
    }
}
