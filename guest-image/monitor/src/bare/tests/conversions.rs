//! Fold, unfold, split and collapse under a payload that keeps writing from other CPUs: no write is lost, and no
//! fault comes but those that the sequence in use must have.

use core::sync::atomic::Ordering;

use stage2::{Attributes, BbmLevel, Granule, HardwareUpdate, Level, Merge, Options};

use super::Suite;
use super::dirty::{how, with_update};
use super::layout::{Kind, Place};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::mirror::{Field, Mirror, PAGES, Writers};
use crate::bare::team::Team;
use crate::shape::kib;
use crate::tap::{Miss, Outcome};
use crate::{ensure, fail, skip};

/// By each sequence that the CPU allows, with dirty state by hardware and by faults.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for bbm in [BbmLevel::Level0, BbmLevel::Level1, BbmLevel::Level2, BbmLevel::Level3] {
        for update in [HardwareUpdate::Dirty, HardwareUpdate::None] {
            for contiguous in [true, false] {
                let what = if contiguous { "blocks, groups and pages" } else { "blocks and pages" };
                let (kib, how, level) = (kib::<G>(), how(update), bbm as u8);
                suite.test(
                    format_args!("conversions: {kib}K: {what} by BBM level {level}, writes {how}"),
                    |team| convert::<G>(team, bbm, update, contiguous),
                );
            }
        }
    }
}

fn convert<G: Granule>(team: &Team, bbm: BbmLevel, update: HardwareUpdate, contiguous: bool) -> Outcome {
    if team.cpus() < 2 {
        skip!("there is no other CPU to write meanwhile");
    }
    if bbm > bed().features.bbm {
        skip!("this CPU has FEAT_BBM {:?}, no more", bed().features.bbm);
    }
    let options = Options { bbm: Some(bbm), contiguous, ..with_update(update)? };
    let guest = Guest::<G>::new(team, options)?;
    let Some(place) = Place::find(guest.config(), Kind::BLOCK, 1) else { skip!("no block fits") };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM)?;
    let field = Field { ipa: place.ipa_at(0), oa: place.oa_at(0), stride: G::SIZE };
    let (writers, mut mirror) = (Writers::default(), Mirror::new(field, team));
    // A conversion by break-before-make is two exits each for KVM, and a group is one.
    let rounds = if bed().nested { 3 } else { 24 };
    writers.beside(&guest, field, || {
        (0..rounds).try_for_each(|round| {
            let merge = if round % 2 == 0 { Merge::Harvest } else { Merge::Union };
            there_and_back(&guest, &place, field, merge, &mut mirror)
        })
    })?;
    collect(&guest, &place, &mut mirror)?;
    mirror.finish(&writers, team)?;
    let [translation, flag, wrong] =
        [&writers.faults.translation, &writers.faults.flag, &writers.faults.wrong]
            .map(|count| count.load(Ordering::Relaxed));
    ensure!(wrong == 0, "{wrong} faults that nothing explains");
    // In place nothing is ever missing; hardware that notices writes never asks.
    let in_place = bbm >= BbmLevel::Level2 || bbm == BbmLevel::Level1 && !contiguous;
    ensure!(
        !in_place || translation == 0,
        "{translation} faults for want of a translation, converted in place"
    );
    ensure!(update != HardwareUpdate::Dirty || flag == 0, "{flag} faults for flags that hardware sets");
    Ok(())
}

/// A block becomes pages, groups, and a block again; everything dirty is collected in between, or handed out by
/// the conversion.
fn there_and_back<G: Granule>(
    guest: &Guest<'_, G>,
    place: &Place,
    field: Field,
    merge: Merge,
    mirror: &mut Mirror,
) -> Outcome {
    let window = field.ipa..field.ipa + PAGES as u64 * G::SIZE;
    mirror.look(guest)?;
    let mut tables = guest.write();
    if let Err(error) = tables.split(place.range(), Level::L3) {
        fail!("split: {error}");
    }
    if let Err(error) = tables.unfold(window.clone()) {
        fail!("unfold: {error}");
    }
    tables.flush();
    drop(tables);
    collect(guest, place, mirror)?;
    if guest.config().contiguous() {
        for group in window.step_by(G::group_size(Level::L3) as usize) {
            mirror.look(guest)?;
            let visit = |leaf| harvested(merge, mirror, &leaf);
            let folded = guest.write().fold(group, Level::L3, merge, visit);
            ensure!(folded.is_ok(), "fold at {group:#x}: {folded:?}");
            guest.flush();
            mirror.settle(false)?;
        }
        collect(guest, place, mirror)?;
    }
    mirror.look(guest)?;
    let visit = |leaf| harvested(merge, mirror, &leaf);
    let done = guest.write().optimise(place.range(), merge, visit);
    ensure!(done.is_ok_and(|done| done.collapsed == 1), "collapse: {done:?}");
    guest.flush();
    mirror.settle(false)?;
    let mut blocks = 0;
    let listed = guest.read().leaves(place.range(), |leaf| blocks += u64::from(leaf.level == Level::L2));
    ensure!(listed.is_ok() && blocks == 1, "{blocks} blocks stand there after the collapse");
    collect(guest, place, mirror)
}

/// What a conversion hands out counts as reported only where it also takes it.
fn harvested(merge: Merge, mirror: &mut Mirror, leaf: &stage2::Leaf) {
    if merge == Merge::Harvest {
        mirror.report(leaf);
    }
}

/// One round of collecting.
pub(super) fn collect<G: Granule>(
    guest: &Guest<'_, G>,
    place: &Place,
    mirror: &mut Mirror,
) -> Result<(), Miss> {
    let tables = guest.read();
    let mut gather = tables.gather();
    let result = tables.collect_dirty(place.range(), &mut gather, |leaf| mirror.report(&leaf));
    mirror.owed(&gather)?;
    mirror.look(guest)?;
    tables.invalidate(&mut gather);
    drop(tables);
    if let Err(error) = result {
        fail!("collect: {error}");
    }
    mirror.settle(true)
}
