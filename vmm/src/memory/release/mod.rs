//! The way of memory back to the host.
//!
//! ```text
//! guest driver --descriptor--> virtio/balloon --ranges--> here
//!     1 gather      clip to RAM, sort, merge; align down to whole host pages and blocks, never up
//!     2 harvest     ask the host about what is only softly known, then one get-and-clear for each run:
//!                   dirty and young come back, each exactly once
//!     3 discard     one vectored call for the batch, of what is populated
//!     4 propagate   tell the observers
//!     5 acknowledge the descriptor: the device's part, when this has returned
//! ```
//!
//! # Principles
//!
//! - **The contract decides when** (virtio 1.3, 5.5.6.1). A driver that took VIRTIO_BALLOON_F_MUST_TELL_HOST asks before it
//!   uses a page again, so its pages may be discarded after the acknowledgement, gathered into whole blocks across
//!   descriptors. Any other driver may use them as soon as the descriptor is acknowledged: what has not been done by then
//!   is not done, and what is less than a host page is forgotten.
//! - **Whole blocks first.** A hole in a block splits it in the host's tables and in KVM's, so a block is discarded when
//!   all of it is held. What is left is discarded when there is no point in waiting: [`Release::settle`].
//! - **No work without effect.** What is known to be released is not asked about again; what is not populated is not
//!   discarded.
//! - **Nothing kills the device.** What is not RAM or not whole is counted as refused.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | `batch` | the steps 2 to 4 of one batch |
//! | `carry` | what the balloon holds of blocks that are not whole |
//! | `ranges` | clip, sort, merge, align |
//! | [`counters`] | [`Counters`]: what was done, and how long it took |
//! | [`observer`] | [`Observer`]: who is told |

use std::ops::Range;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use stage2::{Harvest, Marker};

use crate::faults::{self, Fault};
use crate::lock::lock;

use super::discard::{self, Discard};
use super::ledger::State;
use super::ledger::{self, Books, Ledger};
use super::populate::{self, Populate};
use super::{Backing, GuestRam};

mod batch;
mod carry;
pub mod counters;
#[cfg(test)]
mod diff_tests;
pub mod observer;
mod ranges;
#[cfg(test)]
mod tests;

pub use counters::{Counters, Histogram};
pub use observer::{Observer, Reason, Released, Taken};

use batch::Batch;
use carry::Carry;

/// The unit of a page frame number, whatever the guest's or the host's page size (virtio 1.3, 5.5.6).
pub const PFN: u64 = 4096;

/// Bytes of whole blocks that are discarded together where nothing is in a hurry: an unmap costs the host an
/// invalidation however large it is.
const TOGETHER: u64 = 32 << 20;

/// Ranges that may wait to be noted; whoever has more waits himself. A driver that names pages one by one has named 64 MiB
/// by then.
const INBOX: usize = 1 << 14;

/// What the driver has promised.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Contract {
    /// VIRTIO_BALLOON_F_MUST_TELL_HOST: it deflates before it uses a page again.
    MustTell,
    /// Nothing: it may use a page as soon as the descriptor is acknowledged.
    Free,
}

/// Why memory was not given back. What was not discarded is in the ledger as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// The host refused to take memory back.
    #[error(transparent)]
    Discard(#[from] discard::Error),
    /// The host refused to bring blocks back.
    #[error(transparent)]
    Populate(#[from] populate::Error),
}

/// How to release.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Options {
    /// What is gathered before it is discarded, in bytes, a power of two; by default the block that the memory was
    /// asked for in, 32 MiB at most.
    pub block: Option<u64>,
    /// Bring a block back whole as soon as all of it has been deflated, before the guest is told.
    pub repopulate: bool,
}

/// Gives memory back to the host, and knows what it has given. Any thread may call it; a batch is one step to
/// all others.
#[derive(Debug)]
pub struct Release {
    ledger: Ledger,
    discard: Discard,
    populate: Populate,
    ram: Vec<Range<u64>>,
    /// The least that can be given back.
    unit: u64,
    block: u64,
    repopulate: bool,
    /// Whether memory outlives the guest, so that what was dirty matters at its end.
    asks_at_the_end: bool,
    /// Locked before the ledger, and for as long as a discard takes.
    state: Mutex<Working>,
    /// What the balloon has taken hold of and nobody has noted yet. Locked last, and for moments only: who puts something
    /// in waits for no discard.
    inbox: Mutex<Inbox>,
    /// How long the guest waited for its descriptors. Locked last, and for moments only, for the same reason.
    acknowledged: Mutex<Histogram>,
}

/// Ranges as they were told, each batch a descriptor's.
#[derive(Debug, Default)]
struct Inbox {
    batches: Vec<Vec<Range<u64>>>,
    ranges: usize,
}

/// What changes from batch to batch.
#[derive(Debug)]
struct Working {
    carry: Carry,
    counters: Counters,
    observers: Vec<Box<dyn Observer>>,
}

impl Release {
    /// The way back for `ram`, whose ledger is `ledger`.
    pub fn new(ram: &GuestRam, ledger: Ledger, options: Options) -> Self {
        let discard = Discard::new(ram);
        let unit = discard.unit();
        Self::with(ram, ledger, options, discard, unit)
    }

    fn with(ram: &GuestRam, ledger: Ledger, options: Options, discard: Discard, unit: u64) -> Self {
        let largest = ram.regions().map(|region| region.block()).max().unwrap_or(unit);
        // Never less than can be given back, nor less than a page frame number names.
        let block = options.block.unwrap_or(largest.min(32 << 20)).max(unit).max(PFN).next_power_of_two();
        let ram_ranges: Vec<_> = ledger.open().ram().collect();
        let carry = Carry::new(block, ram_ranges.clone());
        let state = Working { carry, counters: Counters::default(), observers: Vec::new() };
        Self {
            ledger,
            discard,
            populate: Populate::new(ram),
            ram: ram_ranges,
            unit,
            block,
            repopulate: options.repopulate,
            asks_at_the_end: matches!(ram.backing(), Backing::File { .. }),
            state: Mutex::new(state),
            inbox: Mutex::default(),
            acknowledged: Mutex::default(),
        }
    }

    /// What is gathered before it is discarded, in bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// The least that can be given back, in bytes.
    pub fn unit(&self) -> u64 {
        self.unit
    }

    /// The ledger that this keeps.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Adds someone who is told of every batch from now on, in the order of the batches.
    pub fn observe(&self, observer: Box<dyn Observer>) {
        self.state().observers.push(observer);
    }

    /// The balloon takes hold of `ranges`. With [`Contract::Free`] whole units of them have been discarded when this
    /// returns; with [`Contract::MustTell`] they are only written down, beside a discard that may be under way: the caller
    /// acknowledges the descriptor and then lets [`work`](Self::work).
    ///
    /// # Errors
    /// [`Error`]; the guest need not care.
    pub fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Error> {
        match contract {
            Contract::Free => {
                let mut state = self.state();
                let ranges = self.gather(&mut state, ranges, PFN);
                state.counters.inflated += ranges::bytes(&ranges);
                self.give_back(&mut state, &ranges, Marker::Vacant, Reason::Inflate).map(drop)
            }
            Contract::MustTell => {
                let mut inbox = lock(&self.inbox);
                // A descriptor that names nothing takes room, too.
                inbox.ranges += ranges.len().max(1);
                inbox.batches.push(ranges.to_vec());
                let is_full = inbox.ranges > INBOX;
                drop(inbox);
                if is_full {
                    drop(self.state());
                }
                Ok(())
            }
        }
    }

    /// Notes what a driver that must tell has put into the balloon.
    fn note(&self, state: &mut Working, ranges: &[Range<u64>]) {
        let ranges = self.gather(state, ranges, PFN);
        state.counters.inflated += ranges::bytes(&ranges);
        let mut books = self.ledger.open();
        for range in ranges {
            state.carry.hold(range, |block| is_released(&mut books, block));
        }
    }

    /// Discards the blocks that have become whole, once there are enough of them to be worth a call.
    ///
    /// # Errors
    /// [`Error`].
    pub fn work(&self) -> Result<(), Error> {
        let mut state = self.state();
        if state.carry.due() < TOGETHER {
            return Ok(());
        }
        let whole = state.carry.take_whole();
        self.give_back(&mut state, &whole, Marker::Released, Reason::Inflate).map(drop)
    }

    /// Discards all that the balloon holds, whole blocks or not: the target is reached, or it has waited long enough,
    /// or somebody wants to see it. What is less than a unit stays held.
    ///
    /// # Errors
    /// [`Error`].
    pub fn settle(&self) -> Result<(), Error> {
        let mut state = self.state();
        let all = state.carry.take_all(self.unit);
        self.give_back(&mut state, &all, Marker::Released, Reason::Inflate).map(drop)
    }

    /// Whether [`settle`](Self::settle) has something to do: a deadline is needed.
    pub fn has_partial(&self) -> bool {
        self.state().carry.is_waiting(self.unit)
    }

    /// The balloon lets go of `ranges`: the guest uses them as soon as the descriptor is acknowledged.
    ///
    /// # Errors
    /// [`Error`]; the pages are the guest's all the same.
    pub fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Error> {
        let mut state = self.state();
        let ranges = self.gather(&mut state, ranges, PFN);
        state.counters.deflated += ranges::bytes(&ranges);
        let mut books = self.ledger.open();
        let mut complete = Vec::new();
        for range in &ranges {
            if faults::is(Fault::ForgetDeflate) {
                continue;
            }
            let blocks = state.carry.let_go(range.clone(), |block| is_released(&mut books, block));
            complete.extend(blocks);
        }
        // A host page of which the guest may use a part is no longer known to be zero.
        for range in ranges::outward(&ranges, self.unit, &self.ram) {
            books.let_go(range)?;
        }
        if self.repopulate && !complete.is_empty() {
            self.bring_back(&mut books, &complete, &mut state.counters)?;
        }
        Ok(())
    }

    /// The driver reports `ranges` free. They have been discarded, and read as zero, when this returns. Returns the bytes
    /// that do: of each range what is whole units.
    ///
    /// # Errors
    /// [`Error`]; nothing may be said to be cleared then.
    pub fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Error> {
        self.free(ranges, Reason::Report)
    }

    /// The driver hints that `ranges` are free. They have been discarded when this returns. A driver that takes a page back
    /// before its hint comes back to it (virtio 1.3, 5.5.6.6, allows that) may lose what it writes in between: nothing here
    /// can tell.
    ///
    /// # Errors
    /// [`Error`].
    pub fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Error> {
        self.free(ranges, Reason::Hint).map(drop)
    }

    fn free(&self, ranges: &[Range<u64>], reason: Reason) -> Result<u64, Error> {
        let mut state = self.state();
        let ranges = self.gather(&mut state, ranges, 1);
        match reason {
            Reason::Report => state.counters.reported += ranges::bytes(&ranges),
            _ => state.counters.hinted += ranges::bytes(&ranges),
        }
        if faults::is(Fault::ReportNothing) {
            return Ok(ranges::bytes(&ranges));
        }
        self.give_back(&mut state, &ranges, Marker::Vacant, reason)
    }

    /// The device was reset: the balloon is empty, and what it held is the guest's, to use without a word.
    pub fn forget(&self) {
        let mut state = self.state();
        state.carry.forget();
        let mut books = self.ledger.open();
        for range in &self.ram {
            // Cutting nothing, this needs no frames and can't fail; were it to, the pages stay known as zero, and
            // are asked about by nobody before the next inflate.
            if let Err(error) = books.let_go(range.clone()) {
                tracing::error!(%error, "the ledger can't let go of the balloon's pages");
            }
        }
    }

    /// The guest has ended: the last harvest, one get-and-clear of everything. Who observes is told; where nobody does
    /// and nothing outlives the guest, the host isn't asked what there was.
    ///
    /// # Errors
    /// [`Error::Ledger`](ledger::Error) where the host can't say what is populated.
    pub(super) fn tear_down(&self) -> Result<Harvest, ledger::Error> {
        let mut state = self.state();
        state.carry.forget();
        let mut books = self.ledger.open();
        let refreshed = if self.asks_at_the_end || !state.observers.is_empty() {
            books.refresh(&self.ram).map(drop)
        } else {
            Ok(())
        };
        let mut leaves = Vec::new();
        let observed = !state.observers.is_empty();
        let harvest = books.tear_down(|leaf| {
            if observed {
                leaves.push(Taken { range: leaf.range(), dirty: leaf.dirty(), young: leaf.young() });
            }
        });
        let released = Released { reason: Reason::Teardown, ranges: &self.ram, leaves: &leaves, harvest };
        state.observers.iter_mut().for_each(|observer| observer.released(&released));
        refreshed.map(|()| harvest)
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        let state = self.state();
        let mut counters = Counters { carried: state.carry.pending(), ..state.counters.clone() };
        counters.latency.acknowledge = lock(&self.acknowledged).clone();
        counters
    }

    /// Step 5, which is the device's: a descriptor was acknowledged this long after it had arrived.
    pub fn acknowledged(&self, took: Duration) {
        lock(&self.acknowledged).add(took);
    }

    /// The state, with everything noted that was told before.
    fn state(&self) -> MutexGuard<'_, Working> {
        let mut state = lock(&self.state);
        let told = std::mem::take(&mut *lock(&self.inbox));
        for ranges in &told.batches {
            self.note(&mut state, ranges);
        }
        state
    }

    /// Step 1, but for the last alignment: clip, sort, merge, and round to whole `unit`s.
    fn gather(&self, state: &mut Working, ranges: &[Range<u64>], unit: u64) -> Vec<Range<u64>> {
        let started = Instant::now();
        let sizes = ranges.iter().map(|range| range.end.saturating_sub(range.start));
        let asked = sizes.fold(0u64, u64::saturating_add);
        let clipped = ranges::inward(&ranges::clipped(ranges, &self.ram), unit);
        let refused = asked.saturating_sub(ranges::bytes(&clipped));
        state.counters.refused = state.counters.refused.saturating_add(refused);
        state.counters.latency.gather.add(started.elapsed());
        clipped
    }

    /// Brings `blocks` back whole, of which the balloon holds nothing any more.
    fn bring_back(
        &self,
        books: &mut Books,
        blocks: &[Range<u64>],
        counters: &mut Counters,
    ) -> Result<(), Error> {
        counters.scan_calls += books.refresh(blocks)?.calls;
        // What is in pages in part would be filled up with pages.
        let mut apart = Vec::new();
        for block in blocks {
            if !books.parts(std::slice::from_ref(block), State::is_populated)?.is_empty() {
                apart.push(block.clone());
            }
        }
        counters.populate_calls += self.populate.join(&apart)?;
        let blocks = ranges::merged(blocks.to_vec());
        let done = self.populate.populate(&blocks)?;
        books.populate(&blocks)?;
        counters.repopulated += done.bytes;
        counters.populate_calls += done.calls;
        Ok(())
    }

    /// Steps 2 to 4 for whole units of `ranges`. Returns their bytes.
    fn give_back(
        &self,
        state: &mut Working,
        ranges: &[Range<u64>],
        leave: Marker,
        reason: Reason,
    ) -> Result<u64, Error> {
        let mut whole = ranges::inward(ranges, self.unit);
        if faults::is(Fault::RoundUp) {
            whole = ranges::outward(ranges, self.unit.max(64 << 10), &self.ram);
        }
        state.counters.refused += ranges::bytes(ranges).saturating_sub(ranges::bytes(&whole));
        if whole.is_empty() {
            return Ok(0);
        }
        let bytes = ranges::bytes(&whole);
        let batch = Batch { discard: &self.discard, unit: self.unit, block: self.block, leave, reason };
        batch.run(&mut self.ledger.open(), &whole, &mut state.counters, &mut state.observers)?;
        Ok(bytes)
    }
}

/// Whether the ledger says of all of `range` that the balloon holds it.
fn is_released(books: &mut Books, range: Range<u64>) -> bool {
    let mut all = true;
    let known = books.stretches(range, |stretch| all &= stretch.state == State::Released);
    known.is_ok() && all
}
