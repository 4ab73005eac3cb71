//! The access flag: set by the payload's access on exactly what it touched, cleared by ageing, set again.

use stage2::{Access, Attributes, Gather, Granule, HardwareUpdate, Options};

use super::Suite;
use super::layout::{Kind, Place};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::payload::Routine;
use crate::bare::probe;
use crate::bare::team::Team;
use crate::bare::vcpu::{Answer, Vcpu};
use crate::fault;
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, fail, skip};

/// By hardware where it does that, and by faults.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for update in [HardwareUpdate::AccessFlag, HardwareUpdate::None] {
        let by = if update == HardwareUpdate::None { "faults" } else { "hardware" };
        for kind in [Kind::PAGE, Kind::GROUP, Kind::BLOCK] {
            let name = kind.name();
            suite.test(format_args!("access-flag: {}K: {name}, set by {by}", kib::<G>()), |team| {
                flags::<G>(team, update, kind)
            });
        }
    }
}

fn flags<G: Granule>(team: &Team, update: HardwareUpdate, kind: Kind) -> Outcome {
    if update > bed().features.update {
        skip!("this CPU does not set the access flag by itself (ID_AA64MMFR1_EL1.HAFDBS)");
    }
    let options = Options { update: Some(update), ..Options::new(36.min(bed().features.pa_bits)) };
    let guest = Guest::<G>::new(team, options)?;
    let Some(place) = Place::find(guest.config(), kind, if kind == Kind::PAGE { 7 } else { 4 }) else {
        skip!("one does not fit");
    };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM.dirty().old())?;
    let size = kind.size::<G>();
    let leaves = place.bytes / size;
    let mut vcpu = Vcpu::new();
    for round in 0..3 {
        let (mut count, mut young) = (0, 0);
        let listed = guest.read().leaves(place.range(), |leaf| {
            count += 1;
            young += u64::from(leaf.young());
        });
        ensure!(
            listed.is_ok() && (count, young) == (leaves, 0),
            "round {round}: {young} of {count} are young"
        );
        // Other leaves in each round; in the leaf, a place that is arena.
        let touched: [u64; 2] = [round % leaves, (round + 2) % leaves];
        let mut faults = 0;
        for leaf in touched {
            let at = if leaves == 1 { 0 } else { (leaf * size + size / 2) & !7 };
            let result = vcpu.run(Routine::Read, &[place.ipa_at(at)], |fault| {
                faults += 1;
                let expected = fault.kind() == fault::Kind::AccessFlag && fault.access() == Access::Read;
                let resolved = expected && guest.resolve(fault).is_ok();
                if resolved { Answer::Retry } else { Answer::Stop }
            });
            if let Err(fault) = result {
                fail!("round {round}, leaf {leaf}: {fault:?}");
            }
        }
        let distinct = if touched[0] == touched[1] { 1 } else { 2 };
        let expected = if update == HardwareUpdate::None { distinct } else { 0 };
        ensure!(faults == expected, "round {round}: {faults} faults, not {expected}");
        check::<G>(&guest, kind, &place, &touched)?;
        // Ageing finds exactly those, and each once.
        let mut gather = guest.read().gather();
        let aged = age(&guest, &place, &mut gather, &touched)?;
        ensure!(aged == distinct, "round {round}: {aged} leaves were young, not {distinct}");
        guest.read().invalidate(&mut gather);
    }
    Ok(())
}

/// Exactly the leaves that were touched are young; and of a group, no more members than were touched where
/// hardware did it, and all where software did.
fn check<G: Granule>(guest: &Guest<'_, G>, kind: Kind, place: &Place, touched: &[u64]) -> Outcome {
    let tables = guest.read();
    let (size, mut wrong) = (kind.size::<G>(), None);
    let listed = tables.leaves(place.range(), |leaf| {
        let index = (leaf.ipa - place.ipa) / size;
        if leaf.young() != touched.contains(&index) {
            wrong = Some(index);
        }
    });
    ensure!(listed.is_ok() && wrong.is_none(), "leaf {wrong:?} is young and untouched, or old and touched");
    if kind.group {
        let by_software = tables.config().update() == HardwareUpdate::None;
        let entry = G::size(kind.level);
        let young = |ipa: u64| probe::descriptor(&tables, ipa).0.young();
        let members = (size / entry) as usize;
        let first = place.ipa + touched[0] * size;
        let marked = (0..members).filter(|&member| young(first + member as u64 * entry)).count();
        let expected = if by_software { members } else { 1 };
        ensure!(marked == expected, "{marked} members of the group have AF, not {expected}");
    }
    Ok(())
}

fn age<G: Granule>(
    guest: &Guest<'_, G>,
    place: &Place,
    gather: &mut Gather,
    touched: &[u64],
) -> Result<u64, crate::tap::Miss> {
    let (mut aged, mut wrong) = (0, 0);
    let result = guest.read().age(place.range(), gather, |leaf| {
        aged += 1;
        let index = (leaf.ipa - place.ipa) / leaf.bytes;
        wrong += u64::from(!touched.contains(&index));
    });
    ensure!(result.is_ok() && wrong == 0, "ageing reported {wrong} leaves that were not touched");
    Ok(aged)
}
