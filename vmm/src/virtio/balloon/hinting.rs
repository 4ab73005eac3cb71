//! Free page hinting: who has said what (virtio 1.3, 5.5.6.6).
//!
//! The device starts a round by a command id in its configuration. The driver repeats it on the queue, sends
//! its free pages, and ends with a stop; it keeps the pages until the device says that it is done.

use serde::{Deserialize, Serialize};

/// No round is on; what was hinted stays with the driver's hints.
pub(super) const STOP: u32 = 0;
/// No round is on; what was hinted is the guest's again.
pub(super) const DONE: u32 = 1;

/// Where free page hinting stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HintingStatus {
    /// The command that the device shows: 0 stop, 1 done, else the id of the round.
    pub host_cmd: u32,
    /// The last command that the guest sent; absent before the first.
    pub guest_cmd: Option<u32>,
}

/// The state of hinting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Hinting {
    status: HintingStatus,
    /// The id of the last round. It outlives a driver: an id that comes late names no new round.
    last: u32,
    acknowledge_on_stop: bool,
}

impl Hinting {
    pub(super) fn status(&self) -> HintingStatus {
        self.status
    }

    /// Begins a round, whether or not one is on.
    pub(super) fn start(&mut self, acknowledge_on_stop: bool) {
        self.last = self.last.wrapping_add(1).max(DONE + 1);
        self.status.host_cmd = self.last;
        self.acknowledge_on_stop = acknowledge_on_stop;
    }

    /// Ends the round, if any: the guest has its pages back.
    pub(super) fn stop(&mut self) {
        self.status.host_cmd = DONE;
    }

    /// Takes a command of the guest's; says whether what the device shows has changed by it.
    pub(super) fn take(&mut self, command: u32) -> bool {
        // A stop that ends another round than the present one ends nothing.
        let ends = matches!(command, STOP | DONE) && self.is_on();
        self.status.guest_cmd = Some(command);
        if ends && self.acknowledge_on_stop {
            self.stop();
        }
        ends && self.acknowledge_on_stop
    }

    /// Whether a page that the guest sends now belongs to the present round.
    pub(super) fn is_on(&self) -> bool {
        self.status.host_cmd > DONE && self.status.guest_cmd == Some(self.status.host_cmd)
    }

    /// The driver is gone.
    pub(super) fn reset(&mut self) {
        *self = Self { last: self.last, ..Self::default() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(acknowledge: bool) -> (Hinting, u32) {
        let mut hinting = Hinting::default();
        hinting.start(acknowledge);
        (hinting, hinting.status().host_cmd)
    }

    #[test]
    fn hints_count_between_the_right_command_and_the_stop() {
        let (mut hinting, id) = started(false);
        assert!(!hinting.is_on());
        for stale in [STOP, DONE, id - 1, id + 1] {
            assert!(!hinting.take(stale));
            assert!(!hinting.is_on());
        }
        hinting.take(id);
        assert!(hinting.is_on());
        assert!(!hinting.take(STOP));
        assert!(!hinting.is_on());
        assert_eq!(hinting.status(), HintingStatus { host_cmd: id, guest_cmd: Some(STOP) });
    }

    #[test]
    fn the_end_of_a_round_is_acknowledged_where_that_is_asked_for() {
        let (mut hinting, id) = started(true);
        // One that was on its way before the round began.
        assert!(!hinting.take(STOP));
        hinting.take(id);
        assert!(hinting.take(STOP));
        assert_eq!(hinting.status(), HintingStatus { host_cmd: DONE, guest_cmd: Some(STOP) });
        assert!(!hinting.take(STOP));
    }

    #[test]
    fn hints_that_come_after_the_device_has_stopped_are_late() {
        let (mut hinting, id) = started(false);
        hinting.take(id);
        hinting.stop();
        assert!(!hinting.is_on());
        hinting.start(false);
        assert_ne!(hinting.status().host_cmd, id);
        assert!(!hinting.is_on());
    }

    #[test]
    fn ids_are_never_the_reserved_ones() {
        let mut hinting = Hinting { last: u32::MAX, ..Hinting::default() };
        hinting.start(false);
        assert_eq!(hinting.status().host_cmd, 2);
        hinting.reset();
        assert_eq!(hinting.status(), HintingStatus::default());
        hinting.start(false);
        assert_eq!(hinting.status().host_cmd, 3);
    }
}
