//! When blocks that the balloon has a part of are given back in parts.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use super::timer::Timer;

/// How long the guest has to be quiet: it fills a balloon in one go, and the rest of a block comes soon if
/// it comes.
const QUIET: Duration = Duration::from_millis(100);

/// How long a part of a block waits at most, however busy the guest is.
const LATEST: Duration = Duration::from_secs(2);

/// A deadline that moves while the guest inflates, but not for ever.
#[derive(Debug)]
pub(super) struct Deadline {
    timer: Timer,
    /// Since when there is something to settle.
    since: Option<Instant>,
}

impl Deadline {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { timer: Timer::new()?, since: None })
    }

    /// The guest has inflated or deflated: there is something to settle, or there is not.
    pub(super) fn update(&mut self, has_partial: bool) {
        if has_partial {
            let now = Instant::now();
            let waited = now.duration_since(*self.since.get_or_insert(now));
            self.timer.once(delay(waited));
        } else if self.since.take().is_some() {
            self.timer.every(Duration::ZERO);
        }
    }

    /// The time has come.
    pub(super) fn acknowledge(&mut self) {
        self.timer.acknowledge();
        self.since = None;
    }
}

/// How long to wait still, after so long.
fn delay(waited: Duration) -> Duration {
    LATEST.saturating_sub(waited).min(QUIET)
}

impl AsRawFd for Deadline {
    fn as_raw_fd(&self) -> RawFd {
        self.timer.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_guest_moves_the_deadline_but_not_for_ever() {
        assert_eq!(delay(Duration::ZERO), QUIET);
        assert_eq!(delay(LATEST - QUIET), QUIET);
        assert_eq!(delay(LATEST - QUIET / 2), QUIET / 2);
        assert_eq!(delay(LATEST), Duration::ZERO);
        assert_eq!(delay(LATEST * 2), Duration::ZERO);
    }
}
