//! The nine groups of tests.
//!
//! | module | what is shown |
//! |---|---|
//! | [`translations`] | what is mapped is what the hardware translates to, for every shape and kind of leaf |
//! | [`faults`] | what is not allowed faults, with the right syndrome and address |
//! | [`demand`] | mapping by fault, in whole groups and blocks |
//! | [`access_flag`] | the access flag, set by hardware or by faults |
//! | [`dirty`] | dirty state, by hardware or by faults: reported exactly once |
//! | [`stale`] | what is taken and invalidated is gone on every CPU |
//! | [`conversions`] | fold, unfold, split and collapse under writing CPUs |
//! | [`race`] | writing CPUs against a collector: every generation is accounted for |
//! | [`invalidation`] | by entry, by range and of the VMID: what each covers |
//! | [`teardown`] | everything comes back, with one invalidation |

use core::fmt;

use board::say;
use stage2::{Features, G4K, G16K, G64K, Granule, GranuleSupport};

use crate::bare::bed::bed;
use crate::bare::team::Team;
use crate::bare::{mirror, pool, stage1, watch};
use crate::shape::kib;
use crate::skip;
use crate::tap::{Miss, Outcome, Reason, Tap};
use crate::words::{GROUPS, Program};

mod access_flag;
mod conversions;
mod demand;
mod dirty;
mod faults;
mod invalidation;
mod layout;
mod race;
mod rig;
mod stale;
mod teardown;
mod translations;

fn line(text: fmt::Arguments<'_>) {
    say!("{text}");
}

/// The tests that are run, and what they have said.
#[derive(Debug)]
pub struct Suite<'a> {
    team: &'a Team,
    /// KiB of the granule that is tested; each where absent.
    granule: Option<u64>,
    /// Rounds of each race.
    rounds: u64,
    tap: Tap<fn(fmt::Arguments<'_>)>,
}

impl<'a> Suite<'a> {
    /// Runs one test. Whatever it does, every frame has to come back.
    fn test(&mut self, name: fmt::Arguments<'_>, body: impl FnOnce(&'a Team) -> Outcome) {
        let before = pool::in_use();
        watch::begin(self.tap.next(), name);
        let mut outcome = body(self.team);
        let left = pool::in_use() - before;
        if left != 0 && !matches!(outcome, Err(Miss::Failed(_))) {
            outcome =
                Err(Miss::Failed(Reason::new(format_args!("{left:#x} bytes of frames did not come back"))));
        }
        self.tap.test(name, &outcome);
        let revived = mirror::take_revived();
        if revived > 0 {
            self.tap.note(format_args!(
                "KVM let {revived} stores through that the tables forbid, each by a translation that had been invalidated"
            ));
        }
    }

    /// Says that there is nothing to test, and why.
    fn skip(&mut self, name: fmt::Arguments<'_>, why: &str) {
        let outcome: Outcome = (|| skip!("{why}"))();
        self.tap.test(name, &outcome);
    }

    /// Whether a granule is to be tested, and the CPU has it at stage 2; says so where it has not.
    fn has<G: Granule>(&mut self, group: &str) -> bool {
        if self.granule.is_some_and(|only| only != kib::<G>()) {
            return false;
        }
        let has = has::<G>(&bed().features);
        if !has {
            self.skip(
                format_args!("{group}: {}K", kib::<G>()),
                "this CPU does not have the granule at stage 2",
            );
        }
        has
    }
}

/// Whether a CPU has a granule at stage 2.
fn has<G: Granule>(features: &Features) -> bool {
    let support = match kib::<G>() {
        4 => features.g4k,
        16 => features.g16k,
        _ => features.g64k,
    };
    support != GranuleSupport::None
}

/// Runs the tests of a module for each granule that is to be tested and that the CPU has.
macro_rules! each_granule {
    ($suite:ident, $group:expr, $module:ident) => {{
        if $suite.has::<G4K>($group) {
            $module::run::<G4K>($suite);
        }
        if $suite.has::<G16K>($group) {
            $module::run::<G16K>($suite);
        }
        if $suite.has::<G64K>($group) {
            $module::run::<G64K>($suite);
        }
    }};
}

/// Runs all groups, or one.
pub fn run(team: &Team, program: Program) {
    let rounds = u64::from(program.rounds);
    let mut suite =
        Suite { team, granule: program.granule, rounds, tap: Tap::begin(line as fn(fmt::Arguments<'_>)) };
    describe(&mut suite);
    for (index, name) in GROUPS.into_iter().enumerate() {
        if program.only.is_none_or(|only| only == index) {
            group(&mut suite, index, name);
        }
    }
    suite.tap.end();
}

fn group(suite: &mut Suite<'_>, index: usize, name: &str) {
    match index {
        0 => {
            each_granule!(suite, name, translations);
            each_granule!(suite, name, faults);
        }
        1 => each_granule!(suite, name, demand),
        2 => each_granule!(suite, name, access_flag),
        3 => each_granule!(suite, name, dirty),
        4 => each_granule!(suite, name, stale),
        5 => each_granule!(suite, name, conversions),
        6 => each_granule!(suite, name, race),
        7 => each_granule!(suite, name, invalidation),
        _ => each_granule!(suite, name, teardown),
    }
}

/// What the results stand for.
fn describe(suite: &mut Suite<'_>) {
    let bed = bed();
    let Features { pa_bits, g4k, g16k, g64k, update, bbm, tlbi_range, ttl, fwb, xnx, vmid_bits, .. } =
        bed.features;
    let below = if bed.nested { "KVM's nested virtualisation" } else { "nothing" };
    let tap = &mut suite.tap;
    tap.note(format_args!(
        "monitor: midr={:#x} cpus={} memory={} e2h={} below={below}",
        bed.midr,
        bed.cpus,
        bed.memory,
        u8::from(stage1::vhe())
    ));
    tap.note(format_args!(
        "stage 2: pa={pa_bits} 4K={g4k:?} 16K={g16k:?} 64K={g64k:?} update={update:?} bbm={bbm:?} vmid={vmid_bits}"
    ));
    tap.note(format_args!("stage 2: tlbi_range={tlbi_range} ttl={ttl} fwb={fwb} xnx={xnx}"));
}
