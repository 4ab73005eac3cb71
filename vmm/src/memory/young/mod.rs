//! Which pages were used: what the guest needs in memory, and what it would not miss.
//!
//! No KVM interface exports the access flags of its stage 2. What there is instead sees each a part:
//!
//! | source | memory | sees | grain |
//! |---|---|---|---|
//! | [`faults`] | anonymous, memfd | the first use of what was never used, or was discarded since | a page |
//! | [`zap`] | memfd, file | every use since it was looked at last | a page; around a read up to 64K (fault-around) |
//! | [`damon`] | any, for root | a sample of what was used lately | what DAMON finds uniform |
//!
//! # Principles
//!
//! - **Without a source nobody knows**, and [`Answer::Unknown`] counts as young: nothing is ever called idle for want
//!   of a source.
//! - **Only [`Answer::Complete`] lets anybody conclude that the rest is idle.** [`Answer::Partial`] adds to what is
//!   known to be young, and no more.
//! - **A source changes no content**, and costs nothing while it is not there.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`zap`] | [`Zap`]: presence in the page tables, and out of them again |
//! | [`faults`] | [`Faults`]: first uses, seen by userfaultfd |
//! | [`damon`] | [`Damon`]: the kernel's sampling monitor |
//! | `fault` | userfaultfd's system calls |

use std::fmt;
use std::io;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::piece::{self, Piece};
use super::{Backing, GuestMemory, GuestRam, Host};
use crate::config::Watch;

pub mod damon;
mod fault;
pub mod faults;
pub mod zap;

use damon::Damon;
use faults::Faults;
use zap::Zap;

/// Tells which pages were used.
pub trait Source: fmt::Debug + Send + Sync {
    /// Visits what was used of `ranges` since it was visited last: ascending, disjoint, whole host pages of guest RAM.
    /// What is visited is old from then on.
    ///
    /// # Errors
    ///
    /// The kernel's. What was visited before it was used.
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<Answer>;
}

/// What can be concluded about that which was not visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[must_use]
pub enum Answer {
    /// It was not used.
    Complete,
    /// Nothing: the source may have missed its use.
    Partial,
    /// Nothing: there is no source.
    Unknown,
}

/// Why it can't be known what was used. Whoever asked takes everything for young.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ranges are wrong.
    #[error("can't look for what was used of guest memory")]
    Ranges(#[from] piece::Error),
    /// A source failed.
    #[error("can't find out what was used of guest memory")]
    Source(#[source] io::Error),
}

/// Why a source is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// Memory that would lose its content, or could not be found again.
    #[error(
        "presence in the page tables can be taken away and looked for only in shared memory: it is for backing=memfd \
         and backing=file"
    )]
    NotShared,
    /// The kernel doesn't say what is present.
    #[error("/proc/self/pagemap can't be read: is /proc mounted?")]
    Pagemap(#[source] io::Error),
    /// No first uses.
    #[error(transparent)]
    Faults(#[from] faults::Error),
    /// No sampling.
    #[error(transparent)]
    Damon(#[from] damon::Error),
}

/// Starts to watch a guest's memory in the way that `watch` says; `None` where it says off.
///
/// # Errors
/// [`Unavailable`], where this host or this backing does not offer it.
pub fn open(
    watch: Watch,
    memory: &GuestMemory,
    backing: &Backing,
) -> Result<Option<Box<dyn Source>>, Unavailable> {
    Ok(match watch {
        Watch::Off => None,
        Watch::Presence => {
            let zap = Zap::new(memory, backing).map_err(Unavailable::Pagemap)?;
            Some(Box::new(zap.ok_or(Unavailable::NotShared)?))
        }
        Watch::Faults => Some(Box::new(Faults::new(memory)?)),
        Watch::Damon => Some(Box::new(Damon::new(memory)?)),
    })
}

/// What is known of the use of one guest's memory.
#[derive(Debug)]
pub struct Young {
    memory: GuestMemory,
    page: u64,
    sources: Vec<Box<dyn Source>>,
}

impl Young {
    /// Nothing is known until there is a source.
    pub fn new(ram: &GuestRam) -> Self {
        Self { memory: ram.memory().clone(), page: Host::live().page_size(), sources: Vec::new() }
    }

    /// Adds a source.
    pub fn add(&mut self, source: Box<dyn Source>) {
        self.sources.push(source);
    }

    /// Drops every source.
    pub fn clear(&mut self) {
        self.sources.clear();
    }

    /// Visits what was used of `ranges`, ascending and whole host pages, since it was visited last; by one source after
    /// the other, each in order, so that a page may be visited twice.
    ///
    /// # Errors
    ///
    /// [`Error`]; what was visited before it was used.
    pub fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> Result<Answer, Error> {
        let pieces = Piece::of(&self.memory, self.page, ranges)?;
        let ranges: Vec<_> = pieces.iter().map(Piece::guest).collect();
        let mut best = Answer::Unknown;
        for source in &self.sources {
            let answer = source.take(&ranges, visit).map_err(Error::Source)?;
            best = match (best, answer) {
                (Answer::Complete, _) | (_, Answer::Complete) => Answer::Complete,
                (Answer::Partial, _) | (_, Answer::Partial) => Answer::Partial,
                (Answer::Unknown, Answer::Unknown) => Answer::Unknown,
            };
        }
        Ok(best)
    }
}

#[cfg(test)]
mod tests;
