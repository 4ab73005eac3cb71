//! Which pages were written, by the guest and by the devices on its behalf.
//!
//! Two parties write guest memory. What the guest writes, a [`DirtyLog`] tells, if one is on: KVM has one. What the
//! devices write, KVM doesn't see: every access of theirs goes through vm-memory, which marks it in the
//! [`DeviceDirty`] of the region. [`Dirty`] puts the two together.
//!
//! # Principles
//!
//! - **Without a log nobody knows, and unknown counts as dirty.** [`Dirty::take`] then says [`Answer::Unknown`] and
//!   visits nothing: no page is ever called clean for want of a source.
//! - **Each page once.** What was visited is clean until it is written again; what could not be visited is dirty still.
//! - **Pages are the host's**, 4K, 16K or 64K: bitmaps are decoded with its page size, never with a number.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::{Arc, RwLock};

use vm_memory::{Address, GuestMemoryBackend};

use super::marks::Marks;
use super::piece::{self, Piece};
use super::{GuestMemory, GuestRam, Host};

/// What the devices wrote to a region: KVM's dirty log doesn't see it.
pub type DeviceDirty = Marks;

/// Tells which pages the guest has written.
pub trait DirtyLog: fmt::Debug + Send + Sync {
    /// Visits the pages of `ranges` that the guest has written since they were visited last, or since the log is on;
    /// the first time it may be more than that. They are clean from then on.
    ///
    /// `ranges` are ascending, disjoint, whole host pages of guest RAM.
    ///
    /// # Errors
    ///
    /// The kernel's. What was visited before it may be visited again; nothing is forgotten.
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<()>;
}

/// Why it can't be known what was written. Whoever asked takes everything for dirty.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ranges are wrong.
    #[error("can't look for what was written to guest memory")]
    Ranges(#[from] piece::Error),
    /// The log failed.
    #[error("can't read which pages the guest has written")]
    Log(#[source] io::Error),
}

/// Whether it is known what was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Answer {
    /// What was not visited is clean.
    Known,
    /// No log is on: all of it has to be taken for dirty.
    Unknown,
}

/// What is known of writes to one guest's memory.
#[derive(Debug)]
pub struct Dirty {
    memory: GuestMemory,
    page: u64,
    log: RwLock<Option<Arc<dyn DirtyLog>>>,
}

impl Dirty {
    /// Nothing is known until a log is on.
    pub fn new(ram: &GuestRam) -> Self {
        Self::over(ram.memory().clone())
    }

    /// The same for memory whose backing doesn't matter.
    pub(crate) fn over(memory: GuestMemory) -> Self {
        Self { memory, page: Host::live().page_size(), log: RwLock::new(None) }
    }

    /// Turns tracking on: the devices' writes first, then the log that `start` turns on. What either sees from then
    /// on is taken; what was written before is for the caller to take for dirty.
    ///
    /// # Errors
    ///
    /// That of `start`; then nothing is tracked.
    pub fn start<E>(&self, start: impl FnOnce() -> Result<Arc<dyn DirtyLog>, E>) -> Result<(), E> {
        let mut log = self.log.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.track(true);
        match start() {
            Ok(started) => *log = Some(started),
            Err(error) => {
                self.track(false);
                *log = None;
                return Err(error);
            }
        }
        Ok(())
    }

    /// Turns tracking off, and hands out the log, for whoever can turn that off.
    pub fn stop(&self) -> Option<Arc<dyn DirtyLog>> {
        let mut log = self.log.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        self.track(false);
        log.take()
    }

    /// Whether a log is on.
    pub fn is_known(&self) -> bool {
        self.log.read().unwrap_or_else(std::sync::PoisonError::into_inner).is_some()
    }

    /// Visits what was written in `ranges`, ascending and whole host pages, since it was visited last: by the guest, in
    /// order, and then by the devices, in order. A page that both have written is visited twice.
    ///
    /// # Errors
    ///
    /// [`Error`]: what was not visited is dirty still, and what was visited may be visited again.
    pub fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> Result<Answer, Error> {
        let pieces = Piece::of(&self.memory, self.page, ranges)?;
        let log = self.log.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let Some(log) = log.as_ref() else { return Ok(Answer::Unknown) };
        let ranges: Vec<_> = pieces.iter().map(Piece::guest).collect();
        log.take(&ranges, visit).map_err(Error::Log)?;
        for piece in &pieces {
            let start = piece.region().guest().raw_value();
            let (first, last) = (piece.guest().start - start, piece.guest().end - start);
            piece
                .region()
                .device_dirty()
                .take(first..last, &mut |run| visit(start + run.start..start + run.end));
        }
        Ok(Answer::Known)
    }

    fn track(&self, on: bool) {
        for region in self.memory.iter() {
            region.device_dirty().track(on);
        }
    }
}

#[cfg(test)]
mod tests;
