//! What can't be asked of a balloon.

use crate::config::{BalloonConfig, Size};

/// What can't be asked of a balloon. Each says what to do instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than there is.
    #[error("a balloon of {} is larger than the guest's memory of {}", Size(*bytes), Size(*memory))]
    TooLarge {
        /// What was asked for.
        bytes: u64,
        /// Bytes of guest RAM.
        memory: u64,
    },
    /// More than the device can count.
    #[error(
        "a balloon of {} is more than the device can count: ask for at most {}",
        Size(*bytes), Size(BalloonConfig::LARGEST)
    )]
    Uncountable {
        /// What was asked for.
        bytes: u64,
    },
    /// Within a page.
    #[error("a balloon of {} is not a multiple of 4K, the unit of balloons", Size(*bytes))]
    NotPages {
        /// What was asked for.
        bytes: u64,
    },
    /// Nobody asks the guest for statistics.
    #[error("the balloon has no statistics: start with --balloon stats=SECONDS")]
    NoStatistics,
    /// The statistics queue is there from the start, or not at all.
    #[error(
        "statistics can't be switched on or off while the guest runs: their interval is {now} s, not {asked} s"
    )]
    StatisticsSwitch {
        /// The interval in seconds.
        now: u64,
        /// What was asked for.
        asked: u64,
    },
    /// An interval that is no interval.
    #[error("{seconds} s between statistics are more than {}", BalloonConfig::LONGEST_INTERVAL)]
    TooSeldom {
        /// What was asked for.
        seconds: u64,
    },
    /// Nobody offers free page hinting.
    #[error("the balloon has no free page hinting: start with --balloon hint=on")]
    NoHinting,
    /// The guest has no driver for the device, or none yet.
    #[error("the guest does not drive the balloon: its driver is not loaded, or not ready yet")]
    NoDriver,
    /// The guest's driver doesn't know free page hinting.
    #[error("the guest's driver does not do free page hinting")]
    DriverLacksHinting,
}
