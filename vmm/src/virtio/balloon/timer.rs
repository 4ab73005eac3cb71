//! A clock that makes a file descriptor readable.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

/// A timer of the kernel's, disarmed at first. It can be set from any thread.
#[derive(Debug)]
pub(super) struct Timer(OwnedFd);

const NEVER: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Timer {
    pub(super) fn new() -> io::Result<Self> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Self(timerfd_create(TimerfdClockId::Monotonic, flags)?))
    }

    /// Expires once, in `delay`, whatever was set before.
    pub(super) fn once(&self, delay: Duration) {
        // A delay of 0 would disarm it.
        self.set(NEVER, timespec(delay.max(Duration::from_nanos(1))));
    }

    /// Expires every `interval`, whatever was set before; never again where that is 0.
    pub(super) fn every(&self, interval: Duration) {
        self.set(timespec(interval), timespec(interval));
    }

    /// Takes note of an expiry: until the next one it is not readable.
    pub(super) fn acknowledge(&self) {
        // Nothing to read: somebody has set it anew meanwhile.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    fn set(&self, interval: Timespec, value: Timespec) {
        let spec = Itimerspec { it_interval: interval, it_value: value };
        if let Err(error) = timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &spec) {
            tracing::error!(%error, ?spec, "a timer can't be set");
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration).unwrap_or(NEVER)
}

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
