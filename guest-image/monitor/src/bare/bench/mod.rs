//! The table of costs: 256 MiB as pages, as groups and as blocks, with the 4K granule.
//!
//! | row | what is counted |
//! |---|---|
//! | populate | the payload writes to every page; each fault maps the leaf around it |
//! | harvest | `collect_dirty` over all of it, and the invalidation |
//! | dirty again | the payload writes to every page; each fault makes a leaf dirty, and its read-only view is invalidated |
//! | write-protect | `write_protect` over all of it, and the invalidation |
//! | write again | the payload writes to every page; each fault grants write to a leaf and makes it dirty |
//! | take | `get_and_clear` leaf by leaf, each with its invalidation: what gives memory back piece by piece costs |
//! | tear down | `tear_down` of all of it at once, and the one invalidation |
//!
//! Dirty state is managed by faults: with hardware's help the rows that fault would cost the payload alone.
//! *Faults* are stage-2 faults, *invalidations* are complete sequences, *TLBI* the instructions in them. Each is
//! done with invalidation by entry, by range and of the whole VMID.

use board::say;
use stage2::{
    Access, Attributes, Clear, Existing, Features, G4K, Granule, HardwareUpdate, Level, Options, Protection,
    Unresolved,
};

use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::mmu::Issued;
use crate::bare::payload::Routine;
use crate::bare::team::Team;
use crate::bare::vcpu::{Answer, Vcpu};
use crate::ensure;
use crate::fault::{Fault, Kind};
use crate::tap::{Miss, Outcome, Reason};

mod goals;
mod meter;

use goals::Goals;
use meter::Meter;

/// Bytes that are mapped.
pub const BYTES: u64 = 256 << 20;
/// Where.
const IPA: u64 = 1 << 30;
/// The payload's stride.
const PAGE: u64 = 4 << 10;

/// What the memory is mapped as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
enum Leaves {
    Pages,
    Groups,
    Blocks,
}

impl Leaves {
    const ALL: [Self; 3] = [Self::Pages, Self::Groups, Self::Blocks];

    /// Bytes of one.
    fn size(self) -> u64 {
        match self {
            Self::Pages => PAGE,
            Self::Groups => G4K::group_size(Level::L3),
            Self::Blocks => G4K::size(Level::L2),
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Groups => "groups",
            Self::Blocks => "blocks",
        }
    }
}

/// How invalidations name what they cover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Entry,
    Range,
    Vmid,
}

impl Form {
    const ALL: [Self; 3] = [Self::Entry, Self::Range, Self::Vmid];

    const fn name(self) -> &'static str {
        match self {
            Self::Entry => "entry",
            Self::Range => "range",
            Self::Vmid => "VMID",
        }
    }

    /// The CPU with no more than the form needs, and the options that lead to it; `None` where it lacks that.
    fn set_up(self, leaves: Leaves) -> Option<(Features, Options)> {
        let features = bed().features;
        if self == Self::Range && !features.tlbi_range {
            return None;
        }
        let options = Options {
            update: Some(HardwareUpdate::None),
            contiguous: leaves == Leaves::Groups,
            tlbi_limit: if self == Self::Vmid { 0 } else { u32::MAX },
            ..Options::new(36.min(features.pa_bits))
        };
        Some((Features { tlbi_range: self == Self::Range, ..features }, options))
    }
}

/// What one row costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Cost {
    instructions: u64,
    faults: u64,
    issued: Issued,
}

/// Prints the table and the goals.
pub fn run(team: &Team) {
    let meter = Meter::new();
    say!("# monitor: {} of 256 MiB, 4K granule, midr={:#x}", meter.unit(), bed().midr);
    calibrate(team, meter);
    say!(
        "{:<8} {:<6} {:<14} {:>14} {:>8} {:>14} {:>8}",
        "leaves",
        "TLBI",
        "",
        meter.unit(),
        "faults",
        "invalidations",
        "TLBI"
    );
    let mut goals = Goals::default();
    for leaves in Leaves::ALL {
        for form in Form::ALL {
            let Some((features, options)) = form.set_up(leaves) else {
                say!("{:<8} {:<6} this CPU does not have FEAT_TLBIRANGE", leaves.name(), form.name());
                continue;
            };
            let mut rows = Rows { team, meter, leaves, form, goals: &mut goals };
            if let Err(Miss::Failed(why) | Miss::Skipped(why)) = rows.all(&features, options) {
                board::console::fail(format_args!("{}, {}: {why}", leaves.name(), form.name()));
            }
        }
    }
    goals.print();
    say!("# done");
}

/// How well the meter counts: a loop whose instructions are known.
fn calibrate(team: &Team, meter: Meter) {
    const ROUNDS: u64 = 1_000_000;
    let guest = Guest::<G4K>::new(team, Options::new(36.min(bed().features.pa_bits)));
    if guest.is_ok() {
        let (counted, _) = meter.count(|| Vcpu::new().call(Routine::Calibrate, &[ROUNDS]));
        say!("# calibration: a loop of {} instructions counts as {counted} {}", 2 * ROUNDS, meter.unit());
    }
}

/// The rows of one kind of leaves and one form.
struct Rows<'a> {
    team: &'a Team,
    meter: Meter,
    leaves: Leaves,
    form: Form,
    goals: &'a mut Goals,
}

impl Rows<'_> {
    fn all(&mut self, features: &Features, options: Options) -> Outcome {
        let guest = Guest::<G4K>::with_features(self.team, features, options)?;
        let whole = IPA..IPA + BYTES;
        self.row(&guest, "populate", |guest| sweep(|fault| self_map(guest, fault, self.leaves)))?;
        let harvest = self.row(&guest, "harvest", |guest| {
            let tables = guest.read();
            let mut gather = tables.gather();
            let result = tables.collect_dirty(whole.clone(), &mut gather, |_| {});
            tables.invalidate(&mut gather);
            all_of_it(result.map(|harvest| harvest.bytes)).map(|()| 0)
        })?;
        let again = self.row(&guest, "dirty again", |guest| sweep(|fault| guest.resolve(fault).is_ok()))?;
        self.goals.harvest(self.form, self.leaves, harvest, again);
        self.row(&guest, "write-protect", |guest| {
            let mut tables = guest.write();
            let result = tables.write_protect(whole.clone(), |_| {});
            tables.flush();
            all_of_it(result.map(|harvest| harvest.bytes)).map(|()| 0)
        })?;
        self.row(&guest, "write again", |guest| sweep(|fault| grant(guest, fault, self.leaves)))?;
        let take = self.row(&guest, "take", |guest| {
            let mut tables = guest.write();
            let mut bytes = 0;
            for at in whole.clone().step_by(self.leaves.size() as usize) {
                let taken = tables.get_and_clear(at..at + self.leaves.size(), Clear::default(), |_| {});
                bytes += taken.map_or(0, |harvest| harvest.bytes);
                tables.flush();
            }
            all_of_it(Ok(bytes)).map(|()| 0)
        })?;
        self.goals.take(self.form, self.leaves, take);
        // Once more, to have something to tear down.
        sweep(|fault| self_map(&guest, fault, self.leaves))?;
        self.row(&guest, "tear down", |guest| {
            let mut tables = guest.write();
            tables.tear_down(|_| {});
            tables.flush();
            Ok(0)
        })?;
        Ok(())
    }

    /// Counts one row, and prints it.
    fn row(
        &self,
        guest: &Guest<'_, G4K>,
        name: &str,
        work: impl FnOnce(&Guest<'_, G4K>) -> Result<u64, Miss>,
    ) -> Result<Cost, Miss> {
        let before = guest.issued();
        let (instructions, faults) = self.meter.count(|| work(guest));
        let cost = Cost { instructions, faults: faults?, issued: guest.issued().since(before) };
        let Cost { instructions, faults, issued } = cost;
        let (leaves, form, sequences, tlbis) =
            (self.leaves.name(), self.form.name(), issued.sequences, issued.tlbis());
        say!("{leaves:<8} {form:<6} {name:<14} {instructions:>14} {faults:>8} {sequences:>14} {tlbis:>8}");
        Ok(cost)
    }
}

/// The payload writes to every page; how often it faulted.
fn sweep(mut resolve: impl FnMut(&Fault) -> bool) -> Result<u64, Miss> {
    let mut faults = 0;
    let result = Vcpu::new().run(Routine::SweepWrite, &[IPA, PAGE, BYTES / PAGE, 1], |fault| {
        faults += 1;
        if resolve(fault) { Answer::Retry } else { Answer::Stop }
    });
    match result {
        Ok(_) => Ok(faults),
        Err(fault) => Err(Miss::Failed(Reason::new(format_args!("{fault:?}")))),
    }
}

/// Maps the leaf around a fault, dirty because it is a store.
fn self_map(guest: &Guest<'_, G4K>, fault: &Fault, leaves: Leaves) -> bool {
    let base = fault.ipa() & !(leaves.size() - 1);
    let range = base..base + leaves.size();
    let oa = bed().arena.start + (base - IPA);
    fault.kind() == Kind::Translation
        && guest.write().map(range, oa, &Attributes::RAM.dirty(), Existing::Refuse).is_ok()
}

/// Grants write to the leaf around a fault, and makes it dirty.
fn grant(guest: &Guest<'_, G4K>, fault: &Fault, leaves: Leaves) -> bool {
    let base = fault.ipa() & !(leaves.size() - 1);
    let denied = matches!(guest.resolve(fault), Err(Unresolved::Denied { access: Access::Write, .. }));
    let writable = Protection { write: Some(true), ..Protection::default() };
    let mut tables = guest.write();
    let granted = denied && tables.protect(base..base + leaves.size(), writable).is_ok();
    // The leaf becomes dirty in the same fault. What is owed for that is the leaf too: one invalidation, after
    // both, does for both.
    let mut gather = tables.gather();
    let marked = granted && tables.set_access_flags(fault.ipa(), Access::Write, &mut gather).is_ok();
    tables.flush();
    gather.clear();
    marked
}

/// An operation that went over all of it.
fn all_of_it(bytes: Result<u64, stage2::Error>) -> Outcome {
    ensure!(bytes == Ok(BYTES), "{bytes:x?} bytes, not {BYTES:#x}");
    Ok(())
}
