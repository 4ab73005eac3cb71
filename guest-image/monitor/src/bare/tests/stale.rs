//! What is cleared and invalidated is gone on every CPU; what is cleared and not invalidated need not be.

use core::sync::atomic::{AtomicU64, Ordering};

use stage2::{Attributes, Granule, Options};

use super::Suite;
use super::layout::{Kind, Place};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::team::Team;
use crate::bare::vcpu::Vcpu;
use crate::fault;
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, skip};

/// Addresses that are looked at in each place.
const SPOTS: u64 = 16;

/// In pages, groups and blocks.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for kind in [Kind::PAGE, Kind::GROUP, Kind::BLOCK] {
        let (kib, name) = (kib::<G>(), kind.name());
        suite.test(
            format_args!("stale: {kib}K: {name} taken, not invalidated: CPUs may still reach them"),
            |team| taken::<G>(team, kind, false),
        );
        suite.test(format_args!("stale: {kib}K: {name} taken and invalidated: every CPU faults"), |team| {
            taken::<G>(team, kind, true)
        });
    }
}

fn taken<G: Granule>(team: &Team, kind: Kind, invalidate: bool) -> Outcome {
    let guest = Guest::<G>::new(team, Options::new(36.min(bed().features.pa_bits)))?;
    let Some(place) = Place::find(guest.config(), kind, if kind == Kind::PAGE { 5 } else { 2 }) else {
        skip!("one does not fit");
    };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM.dirty())?;
    // Everybody has it in a TLB.
    let (reached, faulted, wrong) = look(team, &place);
    let all = SPOTS * team.cpus() as u64;
    ensure!(
        (reached, faulted, wrong) == (all, 0, 0),
        "{faulted} faults before anything was taken, {wrong} odd"
    );
    let harvest = guest.write().unmap(place.range());
    ensure!(harvest.is_ok_and(|harvest| harvest.bytes == place.bytes), "taken: {harvest:?}");
    ensure!(guest.read().pending().overlaps(&place.range()), "no invalidation is owed");
    if invalidate {
        guest.flush();
    }
    let (reached, faulted, wrong) = look(team, &place);
    ensure!(wrong == 0, "{wrong} odd faults");
    guest.flush();
    if invalidate {
        ensure!((reached, faulted) == (0, all), "{reached} of {all} accesses still went through");
        return Ok(());
    }
    // This is what the other test can fail by.
    if reached == 0 {
        skip!("no TLB had kept any of it: what is stale can't be seen here");
    }
    let (reached, faulted, _) = look(team, &place);
    ensure!(
        (reached, faulted) == (0, all),
        "{reached} of {all} accesses went through after the invalidation"
    );
    Ok(())
}

/// Every CPU loads from every spot: how many went through, faulted for want of a translation, and otherwise.
fn look(team: &Team, place: &Place) -> (u64, u64, u64) {
    let [reached, faulted, wrong] = [const { AtomicU64::new(0) }; 3];
    let stride = (place.touchable() / SPOTS) & !7;
    team.all(&|_| {
        let mut vcpu = Vcpu::new();
        for spot in 0..SPOTS {
            let ipa = place.ipa_at(spot * stride);
            let count = match vcpu.read(ipa) {
                Ok(_) => &reached,
                Err(fault) if fault.kind() == fault::Kind::Translation && fault.ipa() == ipa => &faulted,
                Err(_) => &wrong,
            };
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    (reached.into_inner(), faulted.into_inner(), wrong.into_inner())
}
