//! What a balloon does to guest memory.

use std::error::Error;
use std::ops::Range;
use std::time::Duration;

pub use crate::memory::release::Contract;
use crate::memory::release::Release;

/// Why something could not be done to guest memory.
pub type Failure = Box<dyn Error + Send + Sync>;

/// What a balloon does to guest memory. Ranges are half-open, in guest-physical bytes, and as the guest
/// sent them: in any order, more than once, and not in RAM perhaps. What is not to be had is left alone.
pub trait Memory: Send + Sync {
    /// These pages are in the balloon. With [`Contract::Free`] they are discarded when it returns; otherwise
    /// they are only noted, and [`work`](Self::work) follows once the guest has been told.
    ///
    /// # Errors
    /// The host's.
    fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Failure>;

    /// Discards what has become whole blocks.
    ///
    /// # Errors
    /// The host's.
    fn work(&self) -> Result<(), Failure>;

    /// Discards blocks too of which the balloon has a part only.
    ///
    /// # Errors
    /// The host's.
    fn settle(&self) -> Result<(), Failure>;

    /// Whether there is something to settle.
    fn has_partial(&self) -> bool;

    /// These pages leave the balloon; the guest uses them as soon as it is told.
    ///
    /// # Errors
    /// The host's.
    fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Failure>;

    /// The guest cares for nothing in these pages, and uses none of them before it is told. Returns how many
    /// bytes of them read as zero now.
    ///
    /// # Errors
    /// The host's.
    fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Failure>;

    /// The guest cared for nothing in these pages when it said so, and may have written them since.
    ///
    /// # Errors
    /// The host's.
    fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Failure>;

    /// A descriptor was acknowledged this long after it had arrived.
    fn acknowledged(&self, took: Duration);

    /// There is no balloon any more: the guest uses all of its memory as it likes.
    fn forget(&self);
}

/// Reports the first failure; the guest is none the wiser, whose memory is as good as before.
pub(super) fn logged<T>(reported: &mut bool, done: Result<T, Failure>) -> Option<T> {
    done.inspect_err(|error| {
        if !std::mem::replace(reported, true) {
            tracing::warn!(
                error = &**error as &dyn std::error::Error,
                "the balloon can't give memory back; more of it is not reported"
            );
        }
    })
    .ok()
}

impl Memory for Release {
    fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Failure> {
        Ok(Self::inflate(self, ranges, contract)?)
    }

    fn work(&self) -> Result<(), Failure> {
        Ok(Self::work(self)?)
    }

    fn settle(&self) -> Result<(), Failure> {
        Ok(Self::settle(self)?)
    }

    fn has_partial(&self) -> bool {
        Self::has_partial(self)
    }

    fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        Ok(Self::deflate(self, ranges)?)
    }

    fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Failure> {
        Ok(Self::report(self, ranges)?)
    }

    fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        Ok(Self::hint(self, ranges)?)
    }

    fn acknowledged(&self, took: Duration) {
        Self::acknowledged(self, took);
    }

    fn forget(&self) {
        Self::forget(self);
    }
}
