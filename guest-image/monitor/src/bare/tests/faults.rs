//! What is not allowed faults, with the right syndrome and address.

use stage2::{Access, Attributes, Execute, Granule, HardwareUpdate, Memory, Options};

use super::{Suite, rig};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::payload::Routine;
use crate::bare::probe::{self, Answer};
use crate::bare::team::Team;
use crate::bare::vcpu::Vcpu;
use crate::fault::{Fault, Kind};
use crate::shape::kib;
use crate::tap::Outcome;
use crate::{ensure, fail, skip};

/// Where the leaf under test stands.
const AT: u64 = 1 << 29;

/// All kinds of faults.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    let kib = kib::<G>();
    let options = Options::new(36.min(bed().features.pa_bits));
    suite.test(format_args!("translations: {kib}K: an address that is not mapped faults"), |team| {
        unmapped::<G>(team, options)
    });
    suite.test(format_args!("translations: {kib}K: an address beyond the input size faults"), |team| {
        beyond::<G>(team, options)
    });
    suite.test(format_args!("translations: {kib}K: a store to a read-only page faults"), |team| {
        let attributes = Attributes::RAM.read_only();
        denied::<G>(team, options, attributes, &[Access::Write], &[Access::Read, Access::Execute])
    });
    suite.test(
        format_args!("translations: {kib}K: a load of a page without read permission faults"),
        |team| {
            let attributes = Attributes { read: false, ..Attributes::RAM.dirty() };
            denied::<G>(team, options, attributes, &[Access::Read], &[Access::Write])
        },
    );
    suite.test(
        format_args!("translations: {kib}K: a fetch of a page without execute permission faults"),
        |team| {
            let attributes = Attributes { execute: Execute::None, ..Attributes::RAM.dirty() };
            denied::<G>(team, options, attributes, &[Access::Execute], &[Access::Read, Access::Write])
        },
    );
    suite.test(format_args!("translations: {kib}K: execute permission by exception level"), |team| {
        if !bed().features.xnx {
            skip!("this CPU does not have FEAT_XNX");
        }
        let el0 = Attributes { execute: Execute::El0, ..Attributes::RAM.dirty() };
        denied::<G>(team, options, el0, &[Access::Execute], &[Access::Read])?;
        let el1 = Attributes { execute: Execute::El1, ..Attributes::RAM.dirty() };
        denied::<G>(team, options, el1, &[], &[Access::Read, Access::Execute])
    });
    suite.test(
        format_args!("translations: {kib}K: an old page faults where software sets the flag"),
        |team| old::<G>(team, Options { update: Some(HardwareUpdate::None), ..options }),
    );
    suite.test(format_args!("translations: {kib}K: a walk of stage 1 faults on its table"), |team| {
        walk::<G>(team, options)
    });
    suite
        .test(format_args!("translations: {kib}K: a walk of stage 1 through device memory faults"), |team| {
            walk_of_device::<G>(team, options)
        });
}

/// Does one access at `address`.
fn access(vcpu: &mut Vcpu, access: Access, address: u64) -> Result<u64, Fault> {
    match access {
        Access::Read => vcpu.read(address),
        Access::Write => vcpu.write(address, 0xd65f_03c0_d65f_03c0).map(|()| 0),
        Access::Execute => vcpu.call(Routine::Call, &[address]),
    }
}

/// The fault must be this one.
fn expect(result: Result<u64, Fault>, address: u64, kind: Kind, level: i32, access: Access) -> Outcome {
    let Err(fault) = result else { fail!("{access:?} at {address:#x} did not fault") };
    let right = (fault.kind(), fault.level(), fault.access(), fault.far) == (kind, level, access, address);
    ensure!(right, "{access:?} at {address:#x}: {fault:?}, not {kind:?} L{level}");
    ensure!(fault.ipa() == address, "HPFAR_EL2 names {:#x}, not {address:#x}", fault.page());
    Ok(())
}

fn unmapped<G: Granule>(team: &Team, options: Options) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    // One page beside it makes the walk go down to the last level; elsewhere it ends further up.
    guest.map(AT, bed().arena.start, G::SIZE, &Attributes::RAM)?;
    let mut vcpu = Vcpu::new();
    for address in [AT + G::SIZE + 0x128, AT + (1 << 30) + 0x1238, (1 << 35) + 0x4560] {
        let (_, level) = probe::descriptor(&guest.read(), address);
        for kind in [Access::Read, Access::Write, Access::Execute] {
            expect(access(&mut vcpu, kind, address), address, Kind::Translation, level.number(), kind)?;
        }
        let answer = probe::translate(address, false);
        let expected = Answer::Fault { status: 0b00_0100 | level.number() as u8, stage2: true };
        ensure!(answer == expected, "AT of {address:#x}: {answer:x?}, not {expected:x?}");
    }
    Ok(())
}

fn beyond<G: Granule>(team: &Team, options: Options) -> Outcome {
    if options.ipa_bits >= bed().features.pa_bits {
        skip!("stage 1 can't name an address beyond {} bits on this CPU", bed().features.pa_bits);
    }
    let guest = Guest::<G>::new(team, options)?;
    let address = guest.config().ipa_size() + 0x1000;
    let mut vcpu = Vcpu::new();
    for kind in [Access::Read, Access::Write] {
        let result = access(&mut vcpu, kind, address);
        if let Err(fault) = result
            && bed().nested
            && fault.level() != 0
        {
            expect(result, address, Kind::Translation, fault.level(), kind)?;
            skip!("KVM looks such an address up by its lower bits, and faults where that ends");
        }
        expect(result, address, Kind::Translation, 0, kind)?;
    }
    Ok(())
}

/// A page and a block with these attributes: the first accesses fault, the others don't.
fn denied<G: Granule>(
    team: &Team,
    options: Options,
    attributes: Attributes,
    denied: &[Access],
    allowed: &[Access],
) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    let (page, block) = (AT + G::SIZE, AT + G::size(stage2::Level::L2) * 2);
    let arena = bed().arena.start;
    let offset = arena & (G::size(stage2::Level::L2) - 1);
    guest.map(page, arena + 2 * G::SIZE, G::SIZE, &attributes)?;
    guest.map(block, arena - offset, G::size(stage2::Level::L2), &attributes)?;
    // A return, for those who may execute.
    crate::bare::payload::poke(arena + 2 * G::SIZE + 0x100, 0xd65f_03c0_d65f_03c0);
    crate::bare::payload::poke(arena + 0x100, 0xd65f_03c0_d65f_03c0);
    crate::bare::bed::publish_code(arena, 3 * G::SIZE);
    let mut vcpu = Vcpu::new();
    for (address, level) in [(page + 0x100, 3), (block + offset + 0x100, 2)] {
        for &kind in denied {
            expect(access(&mut vcpu, kind, address), address, Kind::Permission, level, kind)?;
        }
        for &kind in allowed {
            if let Err(fault) = access(&mut vcpu, kind, address) {
                fail!("{kind:?} at {address:#x} should be allowed: {fault:?}");
            }
        }
        for (write, kind) in [(false, Access::Read), (true, Access::Write)] {
            if denied.contains(&kind) {
                let answer = probe::translate(address, write);
                let expected = Answer::Fault { status: 0b00_1100 | level as u8, stage2: true };
                ensure!(
                    answer == expected,
                    "AT of {address:#x}, write={write}: {answer:x?}, not {expected:x?}"
                );
            }
        }
    }
    Ok(())
}

fn old<G: Granule>(team: &Team, options: Options) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    guest.map(AT, bed().arena.start, G::SIZE, &Attributes::RAM.dirty().old())?;
    let mut vcpu = Vcpu::new();
    let address = AT + 0x40;
    expect(access(&mut vcpu, Access::Read, address), address, Kind::AccessFlag, 3, Access::Read)?;
    expect(access(&mut vcpu, Access::Write, address), address, Kind::AccessFlag, 3, Access::Write)
}

/// Runs with stage 1 on, its last table at `AT`.
fn with_stage1<G: Granule>(body: impl FnOnce(&mut Vcpu) -> Result<u64, Fault>) -> Result<u64, Fault> {
    rig::build(1, |_| (AT, bed().arena.start));
    Guest::<G>::stage1(true);
    let result = body(&mut Vcpu::new());
    Guest::<G>::stage1(false);
    result
}

fn walk<G: Granule>(team: &Team, options: Options) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    let address = rig::through(0);
    let result = with_stage1::<G>(|vcpu| vcpu.read(address + 8));
    let (_, level) = probe::descriptor(&guest.read(), AT);
    let Err(fault) = result else { fail!("the walk found a table that is not mapped") };
    let right = fault.kind() == Kind::Translation && fault.level() == level.number() && fault.stage1_walk();
    ensure!(right && fault.ipa() == AT && fault.far == address + 8, "{fault:?}, not a walk's at {AT:#x}");
    guest.map(AT, bed().arena.start, G::SIZE, &Attributes::RAM.dirty())?;
    match with_stage1::<G>(|vcpu| vcpu.read(address)) {
        Ok(_) => Ok(()),
        Err(fault) => fail!("the table is mapped now: {fault:?}"),
    }
}

fn walk_of_device<G: Granule>(team: &Team, options: Options) -> Outcome {
    let guest = Guest::<G>::new(team, options)?;
    let memory = Memory::DevicenGnRE;
    guest.map(AT, bed().arena.start, G::SIZE, &Attributes { memory, ..Attributes::RAM.dirty() })?;
    Guest::<G>::protect_walks(true);
    let result = with_stage1::<G>(|vcpu| vcpu.read(rig::through(0)));
    Guest::<G>::protect_walks(false);
    match result {
        Err(fault) => {
            // Not its level: QEMU 10 says 0 here, whatever the level.
            let right = fault.kind() == Kind::Permission && fault.stage1_walk();
            ensure!(right && fault.ipa() == AT, "{fault:?}, not a walk's permission fault at {AT:#x}");
            Ok(())
        }
        Ok(_) if bed().nested => skip!("the tables that KVM makes of these leave out the memory type"),
        Ok(_) => fail!("the walk went through device memory with HCR_EL2.PTW set"),
    }
}
