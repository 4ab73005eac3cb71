//! What was done, and how long it took.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Sums since the VM was started. Bytes, unless the name says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Batches in all.
    pub batches: u64,
    /// Named by inflate requests, inside RAM.
    pub inflated: u64,
    /// Named by deflate requests, inside RAM.
    pub deflated: u64,
    /// Named by free page reports, inside RAM.
    pub reported: u64,
    /// Named by free page hints, inside RAM.
    pub hinted: u64,
    /// Not RAM, or less than what can be given back and not to be carried.
    pub refused: u64,
    /// Held by the balloon and not yet discarded.
    pub carried: u64,
    /// Given back to the host.
    pub discarded: u64,
    /// Not given back because there was nothing.
    pub skipped: u64,
    /// The host refused to take it; it stays with the guest.
    pub failed: u64,
    /// Brought back in whole blocks before the guest asked.
    pub repopulated: u64,
    /// Of what was given back, dirty: written since the last collection, or nobody can tell.
    pub dirty: u64,
    /// Of what was given back, young.
    pub young: u64,
    /// Whole blocks given back, in blocks.
    pub whole_blocks: u64,
    /// Pieces given back that were no whole blocks, in pieces.
    pub partial_blocks: u64,
    /// System calls that asked what is populated.
    pub scan_calls: u64,
    /// System calls that discarded.
    pub discard_calls: u64,
    /// System calls that brought blocks back.
    pub populate_calls: u64,
    /// How long each step took.
    pub latency: Latency,
}

/// Histograms of the steps: of a batch, and the last one of a descriptor.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Clip, sort, merge.
    pub gather: Histogram,
    /// Ask the host, get and clear.
    pub harvest: Histogram,
    /// Give back.
    pub discard: Histogram,
    /// Tell the observers.
    pub propagate: Histogram,
    /// Acknowledge a descriptor, from its arrival on: how long the guest waits for it. With MUST_TELL_HOST that is none of
    /// the steps before, which follow.
    pub acknowledge: Histogram,
}

/// Buckets of a [`Histogram`].
const BUCKETS: usize = 32;

/// Durations by their logarithm.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Histogram {
    /// How many there were.
    pub count: u64,
    /// Nanoseconds in all.
    pub total_ns: u64,
    /// Bucket `n` counts durations of 2^n to 2^(n+1) nanoseconds; the first takes 0, too, and the last whatever is longer.
    pub log2_ns: [u64; BUCKETS],
}

impl Histogram {
    /// Adds one.
    pub fn add(&mut self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (ns.max(1).ilog2() as usize).min(BUCKETS - 1);
        self.count += 1;
        self.total_ns = self.total_ns.saturating_add(ns);
        self.log2_ns[bucket] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_bucket_of_its_logarithm() {
        let mut histogram = Histogram::default();
        for ns in [0, 1, 2, 3, 4, 1023, 1024] {
            histogram.add(Duration::from_nanos(ns));
        }
        histogram.add(Duration::MAX);
        assert_eq!(histogram.count, 8);
        let filled: Vec<_> = histogram.log2_ns.iter().copied().enumerate().filter(|&(_, n)| n > 0).collect();
        assert_eq!(filled, [(0, 2), (1, 2), (2, 1), (9, 1), (10, 1), (31, 1)]);
    }
}
