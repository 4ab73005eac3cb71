//! One movement of a balloon, watched from outside.

use std::thread;
use std::time::{Duration, Instant};

use e2e::guest::LIMIT;
use e2e::measure::process::{self, Times};

use crate::vmm::Vmm;

/// Between two looks at a VMM's memory, which cost it nothing.
const LOOK: Duration = Duration::from_millis(2);
/// Between two questions how large the balloon is, which cost it a little.
const ASK: Duration = Duration::from_millis(10);
/// How long memory must have stayed the same before it counts as settled.
const QUIET: Duration = Duration::from_millis(100);
/// What may be missing of all that goes when "gone" is said.
const TOLERANCE: u64 = 1 << 20;

/// What a movement took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Movement {
    /// From the request until the guest says that the balloon is as large as was asked for. With an inflate, where
    /// nobody looks before the memory has gone, this is no measure.
    pub(crate) answered: Duration,
    /// From the request until the last of the memory had gone.
    pub(crate) gone: Duration,
    /// The VMM's resident memory before, less the one afterwards.
    pub(crate) freed: u64,
    /// Processor time.
    pub(crate) times: Times,
}

/// Asks for a balloon of `bytes`, and watches until it has it and all is quiet.
pub(crate) fn move_to(vmm: &mut Vmm, bytes: u64) -> Movement {
    let pid = vmm.pid();
    let look = || process::resident(pid).expect("the VMM is there");
    let inflates = vmm.balloon() < bytes;
    let (first, before) = (look(), process::times(pid).expect("the VMM is there"));
    let started = Instant::now();
    vmm.set_balloon(bytes);
    let mut seen = vec![(Duration::ZERO, first)];
    let (mut changed, mut asked) = (Duration::ZERO, Duration::ZERO);
    let answered = loop {
        thread::sleep(LOOK);
        let (now, resident) = (started.elapsed(), look());
        if seen.last().is_some_and(|&(_, last)| last.abs_diff(resident) > 64 << 10) {
            changed = now;
        }
        seen.push((now, resident));
        // While memory can be seen to go nobody asks.
        let ask = if inflates { now - changed > QUIET } else { now - asked > ASK };
        if ask {
            if vmm.balloon() == bytes {
                break now;
            }
            asked = now;
        }
        assert!(now < LIMIT, "the balloon did not come to {bytes}: it is at {}", vmm.balloon());
    };
    let last = seen.iter().map(|&(_, resident)| resident).min().unwrap_or(first);
    let gone = seen.iter().find(|&&(_, resident)| resident <= last + TOLERANCE).map(|&(at, _)| at);
    Movement {
        answered,
        gone: gone.unwrap_or_default(),
        freed: first.saturating_sub(last),
        times: process::times(pid).expect("the VMM is there") - before,
    }
}

/// The median by each of its figures.
pub(crate) fn median(movements: &[Movement]) -> Movement {
    fn middle<T: Ord + Copy>(movements: &[Movement], of: impl Fn(&Movement) -> T) -> T {
        let mut all: Vec<T> = movements.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    }
    Movement {
        answered: middle(movements, |one| one.answered),
        gone: middle(movements, |one| one.gone),
        freed: middle(movements, |one| one.freed),
        times: Times {
            user: middle(movements, |one| one.times.user),
            system: middle(movements, |one| one.times.system),
            guest: middle(movements, |one| one.times.guest),
        },
    }
}
