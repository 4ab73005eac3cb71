//! What is tracked of the guest's use of its memory: turned on and off while it runs, and asked.
//!
//! What the guest writes only KVM sees, and a reset makes another VM of KVM's. So the machine hands in, for every VM,
//! how its log is turned on ([`Tracking::powered_on`]), and this remembers whether it is to be. After a reset
//! everything counts as written: the new kernel was loaded where nobody logged it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use serde::{Deserialize, Serialize};

use crate::config::{TrackConfig, Watch};
use crate::lock::lock;
use crate::memory::dirty::DirtyLog;
use crate::memory::ledger::{self, Books, Ledger};
use crate::memory::young::{self, Answer};
use crate::memory::{Backing, GuestMemory, GuestRam};

/// Why a dirty log can't be turned on.
pub type LogError = Box<dyn std::error::Error + Send + Sync>;

/// Turns on the dirty log of one VM. The log goes off when it is dropped.
pub type StartLog = Box<dyn Fn() -> Result<Arc<dyn DirtyLog>, LogError> + Send>;

/// Why something is not tracked, or not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no VM to track.
    #[error("the guest has not started yet, or is being reset: ask again in a moment")]
    NotRunning,
    /// KVM does not log.
    #[error("what the guest writes can't be tracked")]
    Log(#[source] LogError),
    /// Nobody can watch.
    #[error("what the guest uses can't be tracked with young={watch}")]
    Watch {
        /// How it was to be.
        watch: Watch,
        /// Why not.
        source: young::Unavailable,
    },
    /// Dirty pages are only known with a log.
    #[error("no dirty log is on, so all of memory counts as written: turn on tracking with dirty=on")]
    NotLogged,
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
}

/// What was written since the last collection. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Collected {
    /// Written by the guest or a device.
    pub dirty: u64,
    /// Holds something, and is as it was.
    pub clean: u64,
}

/// What was used since the last ageing. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Aged {
    /// What can be concluded about the rest.
    pub known: Answer,
    /// Used.
    pub young: u64,
    /// Holds something, and was not seen to be used.
    pub old: u64,
}

/// What is tracked of one guest's memory.
pub struct Tracking {
    ledger: Ledger,
    memory: GuestMemory,
    backing: Backing,
    wanted: Mutex<Wanted>,
}

struct Wanted {
    track: TrackConfig,
    /// How the log of the VM is turned on that there is.
    log: Option<StartLog>,
}

impl fmt::Debug for Tracking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracking").field("track", &self.state()).finish_non_exhaustive()
    }
}

impl Tracking {
    /// Tracks what `track` says, what is used from now on and what is written as soon as there is a VM.
    ///
    /// # Errors
    /// [`Error::Watch`].
    pub fn new(track: TrackConfig, ram: &GuestRam, ledger: Ledger) -> Result<Self, Error> {
        let off = TrackConfig { dirty: track.dirty, young: Watch::Off };
        let (memory, backing) = (ram.memory().clone(), ram.backing().clone());
        let tracking = Self { ledger, memory, backing, wanted: Mutex::new(Wanted { track: off, log: None }) };
        tracking.watch(track.young)?;
        Ok(tracking)
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        lock(&self.wanted)
    }

    /// What is tracked.
    pub fn state(&self) -> TrackConfig {
        self.wanted().track
    }

    /// There is a VM, and `start` turns its log on.
    ///
    /// # Errors
    /// [`Error::Log`] where it is wanted and is not to be had.
    pub fn powered_on(&self, start: StartLog) -> Result<(), Error> {
        let mut wanted = self.wanted();
        if wanted.track.dirty {
            self.ledger.open().start_log(&start).map_err(Error::Log)?;
        }
        wanted.log = Some(start);
        Ok(())
    }

    /// The VM is about to go, for a reset.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    pub fn reset(&self) -> Result<(), Error> {
        self.wanted().log = None;
        Ok(self.ledger.open().stop_log()?)
    }

    /// The VM is about to go, and nobody writes to its memory any more.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    pub fn end(&self) -> Result<(), Error> {
        self.wanted().log = None;
        let mut books = self.ledger.open();
        // Who watches may hold up who uses memory: nobody does that any more.
        books.unwatch();
        Ok(books.close_log()?)
    }

    /// Tracks something else from now on; what is `None` stays.
    ///
    /// # Errors
    /// Those of [`log`](Self::log) and [`watch`](Self::watch): then all of it is as it was.
    pub fn change(&self, dirty: Option<bool>, young: Option<Watch>) -> Result<(), Error> {
        let before = self.state().young;
        if let Some(watch) = young {
            self.watch(watch)?;
        }
        let Some(Err(error)) = dirty.map(|on| self.log(on)) else { return Ok(()) };
        self.watch(before)?;
        Err(error)
    }

    /// Tracks what is written, or no longer.
    ///
    /// # Errors
    /// [`Error::NotRunning`], [`Error::Log`]: then it is as it was.
    pub fn log(&self, on: bool) -> Result<(), Error> {
        let mut wanted = self.wanted();
        if wanted.track.dirty == on {
            return Ok(());
        }
        let start = wanted.log.as_ref().ok_or(Error::NotRunning)?;
        let mut books = self.ledger.open();
        if on {
            books.start_log(start).map_err(Error::Log)?;
        } else {
            books.stop_log()?;
        }
        drop(books);
        wanted.track.dirty = on;
        Ok(())
    }

    /// Tracks what is used by `watch`, and by nothing else.
    ///
    /// # Errors
    /// [`Error::Watch`]: then it is as it was.
    pub fn watch(&self, watch: Watch) -> Result<(), Error> {
        let mut wanted = self.wanted();
        if wanted.track.young == watch {
            return Ok(());
        }
        let mut books = self.ledger.open();
        // While the other one still watches, so that nothing has changed where this one is not to be had. Of some kinds
        // there can only be one, but these are two kinds.
        let opened = young::open(watch, &self.memory, &self.backing);
        let opened = opened.map_err(|source| Error::Watch { watch, source })?;
        books.unwatch();
        if let Some(source) = opened {
            books.watch(source);
        }
        wanted.track.young = watch;
        Ok(())
    }

    /// Takes what was written since this was last asked, or since the log is on: the first time that is all that
    /// memory holds. It is clean from then on.
    ///
    /// # Errors
    /// [`Error::NotLogged`], [`Error::Ledger`].
    pub fn collect(&self) -> Result<Collected, Error> {
        let mut books = self.ledger.open();
        if !books.is_logged() {
            return Err(Error::NotLogged);
        }
        let mut collected = Collected::default();
        let populated = in_all(&mut books, |books, range| {
            books.collect_dirty(range, |leaf| collected.dirty += leaf.bytes).map(drop)
        })?;
        collected.clean = populated.saturating_sub(collected.dirty);
        Ok(collected)
    }

    /// Takes what was used since this was last asked, as far as anybody has seen. It is old from then on.
    ///
    /// # Errors
    /// [`Error::Ledger`].
    pub fn age(&self) -> Result<Aged, Error> {
        let mut books = self.ledger.open();
        let mut aged = Aged { known: Answer::Unknown, young: 0, old: 0 };
        let ram: Vec<_> = books.ram().collect();
        books.refresh(&ram)?;
        aged.known = books.look(&ram)?;
        let populated =
            in_all(&mut books, |books, range| books.age(range, |leaf| aged.young += leaf.bytes).map(drop))?;
        aged.old = populated.saturating_sub(aged.young);
        Ok(aged)
    }
}

/// Looks at the host, does `each` with every region of RAM, and returns how many bytes hold something.
fn in_all(
    books: &mut Books,
    mut each: impl FnMut(&mut Books, std::ops::Range<u64>) -> Result<(), ledger::Error>,
) -> Result<u64, ledger::Error> {
    let ram: Vec<_> = books.ram().collect();
    books.refresh(&ram)?;
    for range in ram {
        each(books, range)?;
    }
    Ok(books.summary()?.populated)
}

#[cfg(test)]
#[path = "tracking_tests.rs"]
mod tests;
