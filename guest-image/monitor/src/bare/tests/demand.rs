//! Mapping by fault: each fault maps the whole group or block around it.

use core::sync::atomic::{AtomicU64, Ordering};

use stage2::{Attributes, Existing, Granule, Options};

use super::Suite;
use super::layout::{Kind, Place};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::payload::{Routine, peek};
use crate::bare::team::Team;
use crate::bare::vcpu::{Answer, Vcpu};
use crate::fault;
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, skip};

/// In pages, groups and blocks, on all CPUs at once.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for kind in [Kind::PAGE, Kind::GROUP, Kind::BLOCK] {
        suite.test(
            format_args!("demand: {}K: {} mapped by fault, by all CPUs", kib::<G>(), kind.name()),
            |team| by_fault::<G>(team, kind),
        );
    }
}

fn by_fault<G: Granule>(team: &Team, kind: Kind) -> Outcome {
    let options = Options::new(36.min(bed().features.pa_bits));
    let guest = Guest::<G>::new(team, options)?;
    let Some(place) = Place::find(guest.config(), kind, if kind == Kind::PAGE { 7 } else { 4 }) else {
        skip!("one does not fit");
    };
    let size = kind.size::<G>();
    let (maps, faults, wrong) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    // Sixteen places in each leaf, or all its pages.
    let stride = (size / 16).max(G::SIZE).min(size);
    team.all(&|cpu| {
        let mut vcpu = Vcpu::new();
        // Each CPU has a word of its own in each place, and some go through it all before others.
        let first = place.ipa_at(cpu as u64 * 64);
        let count = place.touchable().div_ceil(stride);
        let answer = |fault: &fault::Fault| {
            faults.fetch_add(1, Ordering::Relaxed);
            let (ipa, expected) = (fault.ipa(), fault.kind() == fault::Kind::Translation);
            if !expected || !place.range().contains(&ipa) {
                wrong.fetch_add(1, Ordering::Relaxed);
                return Answer::Stop;
            }
            let mut tables = guest.write();
            if tables.translate(ipa).is_none() {
                let base = ipa & !(size - 1);
                let oa = place.oa + (base - place.ipa);
                let mapped = tables.map(base..base + size, oa, &Attributes::RAM.dirty(), Existing::Refuse);
                maps.fetch_add(u64::from(mapped.is_ok()), Ordering::Relaxed);
            }
            Answer::Retry
        };
        let value = 0x1000 + cpu as u64;
        let result = vcpu.run(Routine::SweepWrite, &[first, stride, count, value], answer);
        wrong.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
    });
    let (maps, faults, wrong) = (maps.into_inner(), faults.into_inner(), wrong.into_inner());
    ensure!(wrong == 0, "{wrong} faults that were not for want of a translation");
    let touched = place.touchable().div_ceil(size);
    ensure!(maps == touched, "{maps} times something was mapped, not {touched} times");
    ensure!(faults >= maps && faults <= maps * team.cpus() as u64, "{faults} faults for {maps} leaves");
    let mut odd = 0u64;
    let listed = guest.read().leaves(place.range(), |leaf| {
        odd += u64::from((leaf.level, leaf.is_group()) != (kind.level, kind.group));
    });
    ensure!(listed.is_ok() && odd == 0, "{odd} leaves of another kind");
    for cpu in 0..team.cpus() as u64 {
        for at in (0..place.touchable()).step_by(stride as usize) {
            let value = peek(place.oa_at(at + cpu * 64));
            ensure!(value == 0x1000 + cpu, "cpu {cpu} wrote at {:#x}: {value:#x} is there", place.ipa_at(at));
        }
    }
    Ok(())
}
