//! What the open ledger is told of writes and uses: dirty from a log and from the devices, young from who watches.

use std::ops::Range;
use std::sync::Arc;

use stage2::{Harvest, Leaf};

use super::super::dirty::DirtyLog;
use super::super::young;
use super::{Books, Error};

impl Books {
    /// Turns a dirty log on, and the tracking of what devices write. What is populated is dirty until it is collected.
    ///
    /// # Errors
    /// That of `start`; then nothing has changed.
    pub fn start_log<E>(&mut self, start: impl FnOnce() -> Result<Arc<dyn DirtyLog>, E>) -> Result<(), E> {
        self.dirty.start(start)
    }

    /// Whether a dirty log is on.
    pub fn is_logged(&self) -> bool {
        self.dirty.is_known()
    }

    /// Turns both off where nobody writes any more: what they have seen is taken in first, and stays true.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn close_log(&mut self) -> Result<(), Error> {
        let all: Vec<_> = self.ram().collect();
        self.fold_dirty(&all)?;
        drop(self.dirty.stop());
        Ok(())
    }

    /// Turns them off. Nothing can be called clean any more: what is populated is dirty again.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn stop_log(&mut self) -> Result<(), Error> {
        drop(self.dirty.stop());
        for range in self.ram().collect::<Vec<_>>() {
            self.tables.mark_dirty(range)?;
        }
        Ok(())
    }

    /// Takes in what the dirty log and the devices' marks say about `ranges`, each page once. Without a log that is
    /// nothing: populated leaves are dirty then, and stay so.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn fold_dirty(&mut self, ranges: &[Range<u64>]) -> Result<(), Error> {
        if !self.dirty.is_known() {
            return Ok(());
        }
        let mut written = Vec::new();
        if let Err(error) = self.dirty.take(ranges, &mut |run| written.push(run)) {
            // Nobody knows: then it is dirty.
            tracing::warn!(%error, "what was written is not known");
            written = ranges.to_vec();
        }
        for run in written {
            self.tables.mark_dirty(run)?;
        }
        Ok(())
    }

    /// Hands out the dirty leaves that touch `range`, as the log knows them now, and makes them clean. To be used while
    /// a log is on: without one, nothing would ever make them dirty again.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn collect_dirty(&mut self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<Harvest, Error> {
        self.fold_dirty(std::slice::from_ref(&range))?;
        let harvest = self.tables.collect_dirty(range.clone(), visit)?;
        // What was split to tell one page from its neighbours is alike again.
        self.join(range)?;
        Ok(harvest)
    }

    /// Adds somebody who sees what is used.
    pub fn watch(&mut self, source: Box<dyn young::Source>) {
        self.young.add(source);
    }

    /// Nobody sees any more what is used.
    pub fn unwatch(&mut self) {
        self.young.clear();
    }

    /// Makes young what was used of `ranges` since it was looked at last, as far as anybody saw. Where nobody watches
    /// all of it is young.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn look(&mut self, ranges: &[Range<u64>]) -> Result<young::Answer, Error> {
        let mut used = Vec::new();
        let answer = self.young.take(ranges, &mut |run| used.push(run)).unwrap_or_else(|error| {
            tracing::warn!(%error, "what was used is not known");
            young::Answer::Unknown
        });
        if answer == young::Answer::Unknown {
            used = ranges.to_vec();
        }
        for run in used {
            self.tables.mark_young(run)?;
        }
        Ok(answer)
    }

    /// Hands out the young leaves that touch `range` and makes them old.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn age(&mut self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<Harvest, Error> {
        let harvest = self.tables.age(range.clone(), visit)?;
        self.join(range)?;
        Ok(harvest)
    }
}
