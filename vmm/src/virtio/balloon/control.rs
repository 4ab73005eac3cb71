//! What can be asked of a balloon from outside.

use std::sync::Arc;
use std::time::Duration;

use crate::config::BalloonConfig;

use super::error::Error;
use super::features::FREE_PAGE_HINT;
use super::hinting::{Hinting, HintingStatus};
use super::state::{State, pages};
use super::statistics::Statistics;

/// What the API and `quire ctl` use. Any thread may; nothing here waits for the guest.
#[derive(Clone, Debug)]
pub struct Control(pub(super) Arc<State>);

impl Control {
    /// Asks the guest for a balloon of `bytes`, a multiple of 4 KiB. The guest follows in its own time; one
    /// that is not ready yet finds the new size when it is.
    ///
    /// # Errors
    /// [`Error::TooLarge`], [`Error::Uncountable`], [`Error::NotPages`].
    pub fn set_target(&self, bytes: u64) -> Result<(), Error> {
        let memory = self.0.ram;
        if bytes > memory {
            return Err(Error::TooLarge { bytes, memory });
        }
        if bytes > BalloonConfig::LARGEST {
            return Err(Error::Uncountable { bytes });
        }
        if !bytes.is_multiple_of(BalloonConfig::PAGE) {
            return Err(Error::NotPages { bytes });
        }
        let mut values = self.0.values();
        values.target = pages(bytes);
        self.0.note_progress(&values);
        let interrupt = values.line();
        drop(values);
        if let Some(interrupt) = interrupt {
            interrupt.config_changed();
        }
        Ok(())
    }

    /// What the guest is asked for, in bytes.
    #[must_use]
    pub fn target(&self) -> u64 {
        u64::from(self.0.values().target) * BalloonConfig::PAGE
    }

    /// What the guest says that the balloon holds, in bytes; no more than there is.
    #[must_use]
    pub fn actual(&self) -> u64 {
        (u64::from(self.0.values().actual) * BalloonConfig::PAGE).min(self.0.ram)
    }

    /// Whether a driver is ready.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.0.values().driver.is_some()
    }

    /// The guest's last word on its memory. Where it has never answered, all of it is absent;
    /// [`Statistics::last_update`] tells how old it is.
    ///
    /// # Errors
    /// [`Error::NoStatistics`].
    pub fn statistics(&self) -> Result<Statistics, Error> {
        let values = self.0.values();
        if values.interval == 0 { Err(Error::NoStatistics) } else { Ok(values.statistics) }
    }

    /// Asks for statistics every `seconds` from now on.
    ///
    /// # Errors
    /// [`Error::StatisticsSwitch`] where that would switch them on or off, [`Error::TooSeldom`].
    pub fn set_statistics_interval(&self, seconds: u64) -> Result<(), Error> {
        if seconds > BalloonConfig::LONGEST_INTERVAL {
            return Err(Error::TooSeldom { seconds });
        }
        let mut values = self.0.values();
        if (values.interval == 0) != (seconds == 0) {
            return Err(Error::StatisticsSwitch { now: values.interval, asked: seconds });
        }
        values.interval = seconds;
        if values.driver.is_some() {
            self.0.clock.every(Duration::from_secs(seconds));
        }
        Ok(())
    }

    /// Seconds between two questions for statistics; 0 where there are none.
    #[must_use]
    pub fn statistics_interval(&self) -> u64 {
        self.0.values().interval
    }

    /// Asks the guest to name its free pages, once. With `acknowledge_on_stop` it has them back when it has
    /// named all; otherwise they stay out of its use until [`hinting_stop`](Self::hinting_stop).
    ///
    /// # Errors
    /// [`Error::NoHinting`], [`Error::NoDriver`], [`Error::DriverLacksHinting`].
    pub fn hinting_start(&self, acknowledge_on_stop: bool) -> Result<(), Error> {
        self.change_hinting(|hinting| hinting.start(acknowledge_on_stop))
    }

    /// Gives the guest back what it has named, whether or not it has named all.
    ///
    /// # Errors
    /// [`Error::NoHinting`], [`Error::NoDriver`], [`Error::DriverLacksHinting`].
    pub fn hinting_stop(&self) -> Result<(), Error> {
        self.change_hinting(Hinting::stop)
    }

    fn change_hinting(&self, change: impl FnOnce(&mut Hinting)) -> Result<(), Error> {
        if !self.0.config.hint {
            return Err(Error::NoHinting);
        }
        let mut values = self.0.values();
        let driver = values.driver.clone().ok_or(Error::NoDriver)?;
        if driver.features & FREE_PAGE_HINT == 0 {
            return Err(Error::DriverLacksHinting);
        }
        change(&mut values.hinting);
        drop(values);
        driver.interrupt.config_changed();
        Ok(())
    }

    /// Where free page hinting stands.
    ///
    /// # Errors
    /// [`Error::NoHinting`].
    pub fn hinting_status(&self) -> Result<HintingStatus, Error> {
        if !self.0.config.hint {
            return Err(Error::NoHinting);
        }
        Ok(self.0.values().hinting.status())
    }

    /// The configuration, with the present target and interval.
    #[must_use]
    pub fn config(&self) -> BalloonConfig {
        let values = self.0.values();
        let size = u64::from(values.target) * BalloonConfig::PAGE;
        BalloonConfig { size, stats: values.interval, ..self.0.config.clone() }
    }
}
