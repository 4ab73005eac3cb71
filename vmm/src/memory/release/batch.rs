//! One batch: harvest, discard, propagate, as one step to everybody else.

use std::ops::Range;
use std::time::Instant;

use stage2::{Harvest, Marker};

use crate::faults::{self, Fault};

use super::super::discard::{self, Discard};
use super::super::ledger::{Books, State};
use super::counters::Counters;
use super::observer::{Observer, Reason, Released, Taken};
use super::{Error, ranges};

/// How a batch is done.
pub(super) struct Batch<'a> {
    pub(super) discard: &'a Discard,
    /// The least that can be given back, in bytes.
    pub(super) unit: u64,
    /// Bytes per block.
    pub(super) block: u64,
    /// What the ledger says afterwards.
    pub(super) leave: Marker,
    pub(super) reason: Reason,
}

impl Batch<'_> {
    /// Releases `ranges`: sorted, disjoint, whole units inside RAM. The books are open from before the harvest until the
    /// observers have been told.
    pub(super) fn run(
        &self,
        books: &mut Books,
        ranges: &[Range<u64>],
        counters: &mut Counters,
        observers: &mut [Box<dyn Observer>],
    ) -> Result<(), Error> {
        // What is hard is not asked about again.
        let open = books.parts(ranges, |state| state != State::Released)?;
        let bytes = ranges::bytes(ranges);
        counters.batches += 1;
        counters.skipped += bytes - ranges::bytes(&open);
        if open.is_empty() {
            return Ok(());
        }

        let started = Instant::now();
        let refresh = books.refresh(&open)?;
        counters.scan_calls += refresh.calls;
        books.fold_dirty(&open)?;
        let there = self.worth_a_call(books, &open)?;
        let mut leaves = Vec::new();
        let mut harvest = Harvest::default();
        for run in &open {
            let taken = books.take(run.clone(), self.leave, |leaf| {
                counters.dirty += if leaf.dirty() { leaf.bytes } else { 0 };
                counters.young += if leaf.young() { leaf.bytes } else { 0 };
                if !observers.is_empty() {
                    let dropped = faults::is(Fault::DropDirty) && leaves.is_empty();
                    let dirty = leaf.dirty() && !dropped;
                    leaves.push(Taken { range: leaf.range(), dirty, young: leaf.young() });
                }
            })?;
            harvest.merge(taken);
        }
        counters.latency.harvest.add(started.elapsed());

        let started = Instant::now();
        let discarded =
            if there.is_empty() { Ok(0) } else { self.discard.discard(&there).map(|done| done.calls) };
        counters.latency.discard.add(started.elapsed());
        match discarded {
            Ok(calls) => counters.discard_calls += calls,
            Err(error) => {
                // What was not discarded holds what it held: to call it populated and dirty claims nothing that may
                // be wrong.
                let from = match &error {
                    discard::Error::Refused { rest, .. } => rest.start,
                    discard::Error::Ranges(_) => 0,
                };
                let kept: Vec<_> = there.iter().map(|part| part.start.max(from)..part.end).collect();
                let kept: Vec<_> = kept.into_iter().filter(|part| part.start < part.end).collect();
                counters.failed += ranges::bytes(&kept);
                books.populate(&kept)?;
                return Err(error.into());
            }
        }
        if faults::is(Fault::ForgetRelease) {
            books.populate(&there)?;
        }
        counters.discarded += harvest.bytes;
        counters.skipped += ranges::bytes(&open) - harvest.bytes;
        self.count_blocks(&there, counters);

        let started = Instant::now();
        let released = Released { reason: self.reason, ranges: &open, leaves: &leaves, harvest };
        for observer in observers {
            observer.released(&released);
        }
        counters.latency.propagate.add(started.elapsed());
        Ok(())
    }

    /// The parts of `open` to discard: what is populated, joined over gaps of less than a block. A gap has nothing to
    /// lose, all of it is to be released; a call more costs an invalidation more.
    fn worth_a_call(&self, books: &mut Books, open: &[Range<u64>]) -> Result<Vec<Range<u64>>, Error> {
        let mut there: Vec<Range<u64>> = Vec::new();
        for run in open {
            let mut last: Option<Range<u64>> = None;
            for part in books.parts(std::slice::from_ref(run), State::is_populated)? {
                match &mut last {
                    Some(range) if part.start - range.end < self.block => range.end = part.end,
                    _ => there.extend(last.replace(part)),
                }
            }
            there.extend(last);
        }
        // The ledger's pages are the host's, and what can be given back may be larger: a whole unit goes where a part
        // of it is populated, for all of it was asked for.
        Ok(ranges::merged(ranges::outward(&there, self.unit, open)))
    }

    fn count_blocks(&self, there: &[Range<u64>], counters: &mut Counters) {
        for range in there {
            let whole = ranges::inward(std::slice::from_ref(range), self.block);
            let (blocks, bytes) = (ranges::bytes(&whole) / self.block, range.end - range.start);
            counters.whole_blocks += blocks;
            let rest = match whole.first() {
                Some(whole) => u64::from(whole.start > range.start) + u64::from(whole.end < range.end),
                None => u64::from(bytes > 0),
            };
            counters.partial_blocks += rest;
        }
    }
}
