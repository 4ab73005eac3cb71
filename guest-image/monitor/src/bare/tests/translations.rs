//! What is mapped is what the hardware translates to.

use stage2::{Attributes, Granule, Memory, Options};

use super::Suite;
use super::layout::{Kind, Place};
use crate::bare::bed::{self, bed};
use crate::bare::guest::Guest;
use crate::bare::payload::{Routine, peek, poke};
use crate::bare::probe::{self, Answer};
use crate::bare::team::Team;
use crate::bare::vcpu::Vcpu;
use crate::shape::{Shape, kib, options, shapes};
use crate::tap::Outcome;
use crate::{ensure, fail, skip};

/// Write-Back, as `MAIR` and `PAR_EL1` have it.
const WRITE_BACK: u8 = 0xff;

/// All shapes and all kinds of leaves.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for shape in shapes::<G>(&bed().features) {
        let Shape { start, ipa_bits } = shape;
        let Ok(config) = stage2::Config::<G>::new(&bed().features, options(shape)) else { continue };
        for kind in Kind::all(&config) {
            let name = kind.name();
            suite.test(
                format_args!("translations: {}K from {start}, {ipa_bits} bits: {name}", kib::<G>()),
                |team| agree::<G>(team, options(shape), kind),
            );
        }
    }
    let base = Options::new(36.min(bed().features.pa_bits));
    suite.test(format_args!("translations: {}K with forced memory types (FWB)", kib::<G>()), |team| {
        if !bed().features.fwb {
            skip!("this CPU does not have FEAT_S2FWB");
        }
        agree::<G>(team, Options { fwb: true, ..base }, Kind::PAGE)
    });
    for fwb in [false, true] {
        if fwb && !bed().features.fwb {
            continue;
        }
        let how = if fwb { ", forced" } else { "" };
        suite.test(format_args!("translations: {}K: each memory type{how}", kib::<G>()), |team| {
            memory_types::<G>(team, Options { fwb, ..base })
        });
    }
}

/// Maps a few leaves of a kind; `AT` says of every page what was asked for, and the payload finds its memory there.
fn agree<G: Granule>(team: &Team, options: Options, kind: Kind) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    // Of pages fewer than a group, and of all else as many as fit beside each other without becoming one.
    let count = if kind == Kind::PAGE { 5 } else { 1 + u64::from(kind.group) };
    let Some(place) = Place::find(guest.config(), kind, count) else {
        skip!("one does not fit into {} bits", guest.config().ipa_bits());
    };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM.dirty())?;
    let (mut leaves, mut wrong) = (0u64, None);
    let listed = guest.read().leaves(place.range(), |leaf| {
        leaves += 1;
        if (leaf.level, leaf.is_group()) != (kind.level, kind.group) {
            wrong = Some(leaf);
        }
    });
    ensure!(
        listed.is_ok() && leaves == place.bytes / kind.size::<G>(),
        "{leaves} leaves in {:#x?}",
        place.range()
    );
    ensure!(wrong.is_none(), "not the leaf that was wanted: {wrong:x?}");
    // On a machine of its own `AT` is one instruction; under KVM it is an exit and a walk by software.
    let most = if bed().nested { 48 } else { 1 << 14 };
    let pages = place.bytes / G::SIZE;
    for index in 0..=pages.min(most) {
        let offset =
            if pages <= most { index.min(pages - 1) } else { (index * (pages / most)).min(pages - 1) };
        let (ipa, oa) = (place.ipa + offset * G::SIZE, place.oa + offset * G::SIZE);
        for write in [false, true] {
            // Somewhere within the page: the low bits must come from the address.
            let within = (offset * 8 * 7) % G::SIZE;
            let answer = probe::translate(ipa + within, write);
            let expected = Answer::Address { page: (oa + within) & !0xfff, memory: WRITE_BACK };
            let right = answer == expected || bed().nested && without_dc(answer) == without_dc(expected);
            ensure!(right, "AT of {ipa:#x}, write={write}: {answer:x?}, not {expected:x?}");
        }
    }
    reach(&place)
}

/// What of an answer does not depend on HCR_EL2.DC. Once it has tables for a guest, KVM (7.3) has the hardware
/// translate at stage 1, without the DC of its guest hypervisor: then stage 1, being off, says device memory.
const fn without_dc(answer: Answer) -> Option<u64> {
    match answer {
        Answer::Address { page, .. } => Some(page),
        Answer::Fault { .. } => None,
    }
}

/// The payload reads, writes, adds to and executes what is there.
fn reach(place: &Place) -> Outcome {
    let mut vcpu = Vcpu::new();
    let last = place.touchable() - 8;
    for at in [0, (last / 2) & !7, last] {
        let (ipa, oa) = (place.ipa_at(at), place.oa_at(at));
        poke(oa, ipa ^ 0x5555);
        match vcpu.read(ipa) {
            Ok(value) => ensure!(value == ipa ^ 0x5555, "read {value:#x} at {ipa:#x}"),
            Err(fault) => fail!("read at {ipa:#x}: {fault:?}"),
        }
        if let Err(fault) = vcpu.write(ipa, ipa) {
            fail!("write at {ipa:#x}: {fault:?}");
        }
        ensure!(peek(oa) == ipa, "{:#x} stands at {oa:#x} after the write at {ipa:#x}", peek(oa));
        match vcpu.call(Routine::Add, &[ipa, 3]) {
            Ok(old) => {
                ensure!(old == ipa && peek(oa) == ipa + 3, "add at {ipa:#x}: {old:#x}, {:#x}", peek(oa))
            }
            Err(fault) => fail!("add at {ipa:#x}: {fault:?}"),
        }
        // mov x0, #at; ret
        poke(oa & !0xfff, 0xd65f_03c0_d280_0000 | (at & 0xffff) << 5);
        bed::publish_code(oa & !0xfff, 8);
        match vcpu.call(Routine::Call, &[ipa & !0xfff]) {
            Ok(value) => ensure!(value == at & 0xffff, "the code at {ipa:#x} returned {value:#x}"),
            Err(fault) => fail!("execute at {ipa:#x}: {fault:?}"),
        }
    }
    Ok(())
}

/// `AT` reports the memory type of each.
fn memory_types<G: Granule>(team: &Team, options: Options) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    let types = [
        (Memory::WriteBack, WRITE_BACK),
        (Memory::NonCacheable, 0x44),
        (Memory::DevicenGnRnE, 0x00),
        (Memory::DevicenGnRE, 0x04),
        (Memory::DevicenGRE, 0x08),
        (Memory::DeviceGRE, 0x0c),
    ];
    for (index, (memory, expected)) in (0..).zip(types) {
        let (ipa, oa) = ((1 << 29) + index * G::SIZE, bed().arena.start + index * G::SIZE);
        guest.map(ipa, oa, G::SIZE, &Attributes { memory, ..Attributes::RAM.dirty() })?;
        let answer = probe::translate(ipa, false);
        let expected = Answer::Address { page: oa, memory: expected };
        if bed().nested && answer != expected && without_dc(answer) == Some(oa) {
            skip!("KVM has stage 1 translated without HCR_EL2.DC, so that everything is device memory");
        }
        ensure!(answer == expected, "{memory:?}: AT says {answer:x?}, not {expected:x?}");
    }
    Ok(())
}
