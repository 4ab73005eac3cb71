//! What the host does to a guest meanwhile, in an order that follows from the seed.

use super::dice::Dice;
use crate::config::BalloonConfig;

/// Something that the host does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing: the guest storms alone.
    Nothing,
    /// Asks for a balloon of so many bytes.
    Target(u64),
    /// Holds the ledger against the host, while the guest stands still.
    Check,
    /// Takes the vCPUs out of the guest, and lets them go on.
    Pause,
    /// Gives back what the balloon holds of blocks that are not whole.
    Settle,
    /// Asks for hints; whether the guest has its pages back as soon as it has named all.
    Hint(bool),
    /// Says that hints are no longer wanted.
    StopHints,
    /// Uses so much of the host's memory for a moment.
    Pressure(u64),
}

/// The host's part of a storm.
#[derive(Clone, Debug)]
pub struct Schedule {
    dice: Dice,
    memory: u64,
    pressure: u64,
}

#[derive(Clone, Copy)]
enum Kind {
    Nothing,
    Target,
    Check,
    Pause,
    Settle,
    Hint,
    StopHints,
    Pressure,
}

impl Schedule {
    const WEIGHTS: [(u64, Kind); 8] = [
        (10, Kind::Nothing),
        (30, Kind::Target),
        (16, Kind::Check),
        (14, Kind::Pause),
        (10, Kind::Settle),
        (14, Kind::Hint),
        (4, Kind::StopHints),
        (4, Kind::Pressure),
    ];

    /// The actions of `seed` for a guest of `memory` bytes; it may use up to `pressure` bytes of the host's.
    pub fn new(seed: u64, memory: u64, pressure: u64) -> Self {
        // Not the numbers that the guest has from the same seed.
        Self { dice: Dice::new(!seed), memory, pressure }
    }

    /// What comes next.
    pub fn draw(&mut self) -> Action {
        let dice = &mut self.dice;
        // Both numbers are taken whatever comes of them: an action that is left out changes nothing behind it.
        let kind = dice.weighted(&Self::WEIGHTS).unwrap_or(Kind::Nothing);
        let value = dice.roll();
        let part = |of: u64| ((u128::from(value) * u128::from(of)) >> 64) as u64;
        match kind {
            Kind::Nothing => Action::Nothing,
            // Three quarters at most: the guest needs some of it to run in.
            Kind::Target => {
                Action::Target(part(self.memory / 4 * 3) / BalloonConfig::PAGE * BalloonConfig::PAGE)
            }
            Kind::Check => Action::Check,
            Kind::Pause => Action::Pause,
            Kind::Settle => Action::Settle,
            Kind::Hint => Action::Hint(value & 1 == 0),
            Kind::StopHints => Action::StopHints,
            Kind::Pressure => Action::Pressure(part(self.pressure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: u64 = 128 << 20;

    fn actions(seed: u64) -> Vec<Action> {
        let mut schedule = Schedule::new(seed, MEMORY, 1 << 20);
        (0..500).map(|_| schedule.draw()).collect()
    }

    #[test]
    fn a_seed_is_an_order() {
        assert_eq!(actions(7), actions(7));
        assert_ne!(actions(7), actions(8));
    }

    #[test]
    fn every_action_comes_and_none_asks_for_too_much() {
        let all = actions(1);
        for action in &all {
            match *action {
                Action::Target(bytes) => {
                    assert!(bytes <= MEMORY / 4 * 3 && bytes.is_multiple_of(4096), "{bytes}");
                }
                Action::Pressure(bytes) => assert!(bytes < 1 << 20),
                _ => {}
            }
        }
        let has = |wanted: fn(&Action) -> bool| all.iter().any(wanted);
        assert!(has(|action| *action == Action::Nothing));
        assert!(has(|action| matches!(action, Action::Target(_))));
        assert!(has(|action| *action == Action::Check));
        assert!(has(|action| *action == Action::Pause));
        assert!(has(|action| *action == Action::Settle));
        assert!(has(|action| *action == Action::Hint(true)) && has(|action| *action == Action::Hint(false)));
        assert!(has(|action| *action == Action::StopHints));
        assert!(has(|action| matches!(action, Action::Pressure(_))));
    }

    #[test]
    fn a_bound_that_differs_changes_no_other_action() {
        let mut small = Schedule::new(3, MEMORY, 0);
        for action in actions(3) {
            match (small.draw(), action) {
                (Action::Pressure(0), Action::Pressure(_)) => {}
                (mine, other) => assert_eq!(mine, other),
            }
        }
    }
}
