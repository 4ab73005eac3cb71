//! CPUs write generations without pause while this one collects what is dirty, over and over: every generation is
//! accounted for.

use core::sync::atomic::Ordering;

use spin::RelaxStrategy;
use stage2::{Attributes, Granule, HardwareUpdate, Options};

use super::Suite;
use super::conversions::collect;
use super::dirty::{how, with_update};
use super::layout::{Kind, Place};
use crate::bare::guest::Guest;
use crate::bare::mirror::{Field, Mirror, PAGES, Writers};
use crate::bare::team::{Team, Yield};
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, skip};

/// Rounds altogether for each of those: on a busy machine the writers get their turn only now and then.
const PATIENCE: u64 = 1 << 16;

/// In pages, groups and blocks; by hardware and by faults.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for update in [HardwareUpdate::Dirty, HardwareUpdate::AccessFlag, HardwareUpdate::None] {
        for kind in [Kind::PAGE, Kind::GROUP, Kind::BLOCK] {
            let (kib, name, how, rounds) = (kib::<G>(), kind.name(), how(update), suite.rounds);
            suite.test(format_args!("race: {kib}K: {name}, {rounds} rounds, writes {how}"), |team| {
                race::<G>(team, update, kind, rounds)
            });
        }
    }
}

fn race<G: Granule>(team: &Team, update: HardwareUpdate, kind: Kind, rounds: u64) -> Outcome {
    if team.cpus() < 2 {
        skip!("there is no other CPU to write meanwhile");
    }
    let options = Options { contiguous: kind != Kind::PAGE, ..with_update(update)? };
    let guest = Guest::<G>::new(team, options)?;
    let Some(place) = Place::find(guest.config(), kind, if kind == Kind::PAGE { PAGES as u64 } else { 4 })
    else {
        skip!("one does not fit");
    };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM)?;
    let stride = place.touchable() / PAGES as u64;
    let field = Field { ipa: place.ipa_at(0), oa: place.oa_at(0), stride };
    let (writers, mut mirror) = (Writers::default(), Mirror::new(field, team));
    writers.beside(&guest, field, || {
        let (mut found, mut tried) = (0, 0);
        while found < rounds {
            let before = mirror.reports;
            collect(&guest, &place, &mut mirror)?;
            found += u64::from(mirror.reports > before);
            tried += 1;
            // The writers' turn.
            Yield::relax();
            ensure!(tried < PATIENCE * rounds, "{found} of {tried} rounds found something to collect");
        }
        Ok(())
    })?;
    collect(&guest, &place, &mut mirror)?;
    mirror.finish(&writers, team)?;
    let load = |count: &core::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
    let (translation, flag, wrong) =
        (load(&writers.faults.translation), load(&writers.faults.flag), load(&writers.faults.wrong));
    ensure!(
        translation == 0 && wrong == 0,
        "{translation} faults for want of a translation, {wrong} odd ones"
    );
    ensure!((update == HardwareUpdate::Dirty) == (flag == 0), "{flag} faults to notice writes");
    Ok(())
}
