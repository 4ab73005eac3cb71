//! Dirty state: each member of a group in turn is the dirty one, and each operation reports it exactly once.

use stage2::{Attributes, Clear, Existing, Granule, HardwareUpdate, Leaf, Options, Protection, Unresolved};

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
use crate::tap::{Miss, Outcome};
use crate::{ensure, fail, skip};

/// What reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    Collect,
    WriteProtect,
    Clear,
}

/// By hardware, with the access flag by hardware, and by faults alone.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    let kib = kib::<G>();
    for update in [HardwareUpdate::Dirty, HardwareUpdate::AccessFlag, HardwareUpdate::None] {
        let how = how(update);
        for kind in [Kind::PAGE, Kind::GROUP, Kind::BLOCK] {
            for operation in [Operation::Collect, Operation::WriteProtect, Operation::Clear] {
                let verb = match operation {
                    Operation::Collect => "collected",
                    Operation::WriteProtect => "write-protected",
                    Operation::Clear => "taken",
                };
                let name = kind.name();
                suite.test(format_args!("dirty: {kib}K: {name} {verb}, {how}"), |team| {
                    once::<G>(team, update, kind, operation)
                });
            }
        }
    }
    suite.test(format_args!("dirty: {kib}K: hardware marks one member on behalf of its group"), |team| {
        on_behalf::<G>(team)
    });
}

/// Who notices what.
pub(super) const fn how(update: HardwareUpdate) -> &'static str {
    match update {
        HardwareUpdate::Dirty => "noticed by hardware",
        HardwareUpdate::AccessFlag => "noticed by faults, AF by hardware",
        HardwareUpdate::None => "noticed by faults",
    }
}

/// Options with this update, where the CPU has it.
pub(super) fn with_update(update: HardwareUpdate) -> Result<Options, Miss> {
    if update > bed().features.update {
        let hidden = if bed().nested { ": KVM hides it from its guests" } else { "" };
        skip!("HAFDBS says {:?}, no more{hidden}", bed().features.update);
    }
    Ok(Options { update: Some(update), ..Options::new(36.min(bed().features.pa_bits)) })
}

fn once<G: Granule>(team: &Team, update: HardwareUpdate, kind: Kind, operation: Operation) -> Outcome {
    let guest = Guest::<G>::new(team, with_update(update)?)?;
    let Some(place) = Place::find(guest.config(), kind, if kind == Kind::PAGE { 5 } else { 2 }) else {
        skip!("one does not fit");
    };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM)?;
    // The last leaf that has all of its pages in the arena, or the only one there is.
    let size = kind.size::<G>();
    let leaf = if place.touchable() == place.bytes { place.bytes / size - 1 } else { 0 };
    let entry = if kind.group { G::size(kind.level) } else { size };
    let members = size / entry;
    let step = if bed().nested { (members / 8).max(1) } else { 1 };
    let mut vcpu = Vcpu::new();
    for member in (0..members).step_by(step as usize) {
        let at = if place.touchable() == place.bytes { leaf * size + member * entry + 0x18 } else { 0x18 };
        let address = place.ipa_at(at);
        let faults = store(&guest, &mut vcpu, address, member)?;
        let expected = u64::from(update != HardwareUpdate::Dirty);
        ensure!(faults == expected, "member {member}: {faults} faults, not {expected}");
        if kind.group {
            let first = place.ipa + leaf * size;
            let tables = guest.read();
            let dirty = |member: u64| probe::descriptor(&tables, first + member * entry).0.dirty();
            let marked = (0..members).filter(|&member| dirty(member)).count() as u64;
            let expected = if update == HardwareUpdate::Dirty { 1 } else { members };
            ensure!(marked == expected, "member {member}: {marked} are marked, not {expected}");
        }
        // The other leaves are clean, and this one is reported by its whole range, once.
        let whole = place.ipa + leaf * size..place.ipa + (leaf + 1) * size;
        let first = report(&guest, &place, operation)?;
        ensure!(first == Some(whole.clone()), "member {member}: reported {first:x?}, not {whole:x?}");
        let again = report(&guest, &place, operation)?;
        ensure!(again.is_none(), "member {member}: {again:x?} was reported again");
        if operation == Operation::WriteProtect {
            protected(&guest, &mut vcpu, address)?;
        }
        rearm(&guest, &place, operation)?;
    }
    Ok(())
}

/// Stores; software does what hardware doesn't. How often it was asked to.
fn store<G: Granule>(guest: &Guest<'_, G>, vcpu: &mut Vcpu, address: u64, value: u64) -> Result<u64, Miss> {
    let mut faults = 0;
    let result = vcpu.run(Routine::Write, &[address, value], |fault| {
        faults += 1;
        let expected = fault.kind() == fault::Kind::Permission && fault.level() > 1;
        if expected && guest.resolve(fault).is_ok() { Answer::Retry } else { Answer::Stop }
    });
    match result {
        Ok(_) => Ok(faults),
        Err(fault) => fail!("store at {address:#x}: {fault:?}"),
    }
}

/// Has an operation report over all of the place, and does what it owes: the dirty leaf, if there was one.
fn report<G: Granule>(
    guest: &Guest<'_, G>,
    place: &Place,
    operation: Operation,
) -> Result<Option<core::ops::Range<u64>>, Miss> {
    let (mut dirty, mut count) = (None, 0);
    let mut visit = |leaf: Leaf| {
        if leaf.dirty() {
            dirty = Some(leaf.range());
            count += 1;
        }
    };
    let result = match operation {
        Operation::Collect => {
            let tables = guest.read();
            let mut gather = tables.gather();
            let result = tables.collect_dirty(place.range(), &mut gather, visit);
            tables.invalidate(&mut gather);
            result
        }
        Operation::WriteProtect => guest.write().write_protect(place.range(), visit),
        Operation::Clear => guest.write().get_and_clear(place.range(), Clear::default(), &mut visit),
    };
    guest.flush();
    match result {
        Ok(harvest) => {
            ensure!(harvest.dirty == (count > 0), "dirty is {}, {count} leaves were", harvest.dirty)
        }
        Err(error) => fail!("{operation:?}: {error}"),
    }
    ensure!(count <= 1, "{count} leaves are dirty, one was written to");
    Ok(dirty)
}

/// A store to what is write-protected faults, and flags alone can't resolve that.
fn protected<G: Granule>(guest: &Guest<'_, G>, vcpu: &mut Vcpu, address: u64) -> Outcome {
    let Err(fault) = vcpu.write(address, 0) else {
        fail!("{address:#x} is write-protected, and was written to")
    };
    ensure!(fault.kind() == fault::Kind::Permission, "a store to {address:#x}: {fault:?}");
    let resolved = guest.resolve(&fault);
    ensure!(
        matches!(resolved, Err(Unresolved::Denied { .. })),
        "write protection was resolved: {resolved:?}"
    );
    Ok(())
}

/// Makes the place clean and writable again.
fn rearm<G: Granule>(guest: &Guest<'_, G>, place: &Place, operation: Operation) -> Outcome {
    match operation {
        Operation::Collect => {}
        Operation::WriteProtect => {
            // Dirty has outlived write permission, and is collected once.
            let kept = report(guest, place, Operation::Collect)?;
            ensure!(kept.is_some(), "dirty was lost with write permission");
            let writable = Protection { write: Some(true), ..Protection::default() };
            let granted = guest.write().protect(place.range(), writable);
            ensure!(granted.is_ok(), "granting write: {granted:?}");
            guest.flush();
            let dirtied = report(guest, place, Operation::Collect)?;
            ensure!(dirtied.is_none(), "granting write has made {dirtied:x?} dirty");
        }
        Operation::Clear => {
            let mapped = guest.write().map(place.range(), place.oa, &Attributes::RAM, Existing::Refuse);
            ensure!(mapped.is_ok(), "mapping again: {mapped:?}");
        }
    }
    Ok(())
}

/// Where a TLB holds a group as one entry, an access to a second member finds it there, and leaves that member's
/// descriptor alone.
fn on_behalf<G: Granule>(team: &Team) -> Outcome {
    let guest = Guest::<G>::new(team, with_update(HardwareUpdate::AccessFlag)?)?;
    let Some(place) = Place::find(guest.config(), Kind::GROUP, 1) else { skip!("none fits") };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM.dirty().old())?;
    let mut vcpu = Vcpu::new();
    for member in 0..2 {
        if let Err(fault) = vcpu.read(place.ipa + member * G::SIZE) {
            fail!("member {member}: {fault:?}");
        }
    }
    let young = probe::descriptor(&guest.read(), place.ipa + G::SIZE).0.young();
    if young {
        let why = if bed().nested {
            "KVM's own tables, which the MMU walks here, have no groups"
        } else {
            "each member was looked up by itself, as QEMU does, which ignores the Contiguous bit"
        };
        skip!("{why}");
    }
    Ok(())
}
