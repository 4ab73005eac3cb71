//! What vCPUs, the device thread and whoever controls the balloon share.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::config::BalloonConfig;
use crate::lock::lock;
use crate::virtio::Interrupt;

use super::hinting::Hinting;
use super::statistics::Statistics;
use super::timer::Timer;

/// The shared state of a balloon.
#[derive(Debug)]
pub(super) struct State {
    /// What it was made from.
    pub(super) config: BalloonConfig,
    /// Bytes of guest RAM.
    pub(super) ram: u64,
    /// Expires when the guest is to be asked for statistics.
    pub(super) clock: Timer,
    /// Wakes the device thread: the guest has reached its target.
    pub(super) reached: EventFd,
    /// Held for the time of a few assignments, never during a system call that can wait.
    values: Mutex<Values>,
}

/// What changes. Pages are the balloon's, of 4 KiB.
#[derive(Debug)]
pub(super) struct Values {
    /// What the guest is asked for, in pages.
    pub(super) target: u32,
    /// What it says that the balloon holds, in pages.
    pub(super) actual: u32,
    /// What it fills free pages with.
    pub(super) poison: u32,
    /// Seconds between two questions for statistics.
    pub(super) interval: u64,
    /// Its last answer.
    pub(super) statistics: Statistics,
    pub(super) hinting: Hinting,
    /// The driver, while there is one.
    pub(super) driver: Option<Line>,
}

/// The way to the driver.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The features that it took.
    pub(super) features: u64,
    pub(super) interrupt: Arc<Interrupt>,
}

impl State {
    pub(super) fn new(config: &BalloonConfig, ram: u64) -> io::Result<Self> {
        Ok(Self {
            config: config.clone(),
            ram,
            clock: Timer::new()?,
            reached: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            values: Mutex::new(Values {
                // A size that was validated fits.
                target: pages(config.size.min(ram)),
                actual: 0,
                poison: 0,
                interval: config.stats,
                statistics: Statistics::default(),
                hinting: Hinting::default(),
                driver: None,
            }),
        })
    }

    pub(super) fn values(&self) -> MutexGuard<'_, Values> {
        lock(&self.values)
    }

    /// Wakes the device thread where the balloon is what it should be. It takes what lies around then.
    pub(super) fn note_progress(&self, values: &Values) {
        if values.driver.is_some() && values.actual == values.target {
            // Full means that it is readable, which is what it is for.
            let _ = self.reached.write(1);
        }
    }
}

impl Values {
    /// Whom to tell of a change, once the lock has been dropped.
    pub(super) fn line(&self) -> Option<Arc<Interrupt>> {
        self.driver.as_ref().map(|line| line.interrupt.clone())
    }
}

/// Whole pages of the balloon's in so many bytes, at most as many as it can count.
pub(super) fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes / BalloonConfig::PAGE).unwrap_or(u32::MAX)
}
