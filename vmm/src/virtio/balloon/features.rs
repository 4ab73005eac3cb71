//! The feature bits of a balloon (virtio 1.3, 5.5.3), as masks.

use crate::config::BalloonConfig;

/// The driver tells before it uses a page of the balloon again.
pub(super) const MUST_TELL_HOST: u64 = 1 << 0;
/// There is a queue for statistics.
pub(super) const STATS_VQ: u64 = 1 << 1;
/// The guest may take pages back when it has no others.
pub(super) const DEFLATE_ON_OOM: u64 = 1 << 2;
/// There is a queue for hints.
pub(super) const FREE_PAGE_HINT: u64 = 1 << 3;
/// The driver says what it fills free pages with.
pub(super) const PAGE_POISON: u64 = 1 << 4;
/// There is a queue for reports.
pub(super) const PAGE_REPORTING: u64 = 1 << 5;

/// What a balloon with this configuration offers.
///
/// Poison is offered with whatever it means something for: without it a guest that fills free pages can't
/// report any.
pub(super) fn offered(config: &BalloonConfig) -> u64 {
    let when = |on: bool, bits: u64| if on { bits } else { 0 };
    when(config.must_tell_host, MUST_TELL_HOST)
        | when(config.stats > 0, STATS_VQ)
        | when(config.deflate_on_oom, DEFLATE_ON_OOM)
        | when(config.hint, FREE_PAGE_HINT)
        | when(config.report, PAGE_REPORTING)
        | when(config.hint || config.report, PAGE_POISON)
}
