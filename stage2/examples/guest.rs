//! The life of a guest's stage-2 tables: map, resolve a fault, track what is written, take memory back,
//! tear down. `cargo run -p stage2 --example guest`
//!
//! It runs anywhere: the frames come from the heap, and the executor prints what a hypervisor at EL2 would
//! issue (there it is `stage2::el2::Vmid`).

use std::error::Error;

use stage2::{
    Access, Attributes, Clear, Config, Executor, Existing, Features, G4K, HardwareUpdate, HeapFrames, Level,
    Marker, Options, Sequence, Tables, Unresolved,
};

/// Prints instead of issuing.
struct Print;

impl Executor for Print {
    fn execute(&self, sequence: Sequence<'_>) {
        for instruction in sequence {
            println!("    {instruction:x?}");
        }
    }
}

const RAM: u64 = 0x4000_0000;
const SIZE: u64 = 64 << 20;
const PIECE: u64 = 64 << 10;
const BACKING: u64 = 0x8_0000_0000;

fn main() -> Result<(), Box<dyn Error>> {
    // On hardware: Features::from_id_registers. This processor has everything but hardware management of
    // dirty state, so that the first store to a clean leaf faults.
    let features = Features { update: HardwareUpdate::AccessFlag, ..Features::ALL };
    let config = Config::<G4K>::new(&features, Options::new(36))?;
    let mut tables = Tables::new(config, HeapFrames::<G4K>::new(), Print)?;
    println!("VTCR_EL2  {:#x}", config.vtcr());
    println!("VTTBR_EL2 {:#x}", config.vttbr(tables.root(), 1).ok_or("the VMID does not fit")?);

    println!("map {} MiB of RAM", SIZE >> 20);
    tables.map(RAM..RAM + SIZE, BACKING, &Attributes::RAM, Existing::Refuse)?;
    tables.leaves(RAM..RAM + SIZE, |leaf| {
        let kind = if leaf.is_group() { "contiguous group" } else { "leaf" };
        println!("  {:#x}: {kind} of {} KiB at {}", leaf.ipa, leaf.bytes >> 10, leaf.level);
    })?;

    println!("dirty logging by the page, in the first 64 KiB: one store there shall not dirty 32 MiB");
    tables.split(RAM..RAM + PIECE, Level::L3)?;
    tables.unfold(RAM..RAM + PIECE)?;
    tables.flush();

    println!("a store faults; a load of an address without memory too");
    let mut gather = tables.gather();
    let changed = tables.set_access_flags(RAM + 0x5123, Access::Write, &mut gather)?;
    println!("  store resolved: {changed}");
    tables.invalidate(&mut gather);
    match tables.set_access_flags(0, Access::Read, &mut gather) {
        Err(Unresolved::Unmapped { marker, .. }) => println!("  load not resolved, marker {marker:?}"),
        other => println!("  {other:?}"),
    }

    println!("what was written, exactly once");
    for round in 1..=2 {
        let harvest = tables.collect_dirty(RAM..RAM + SIZE, &mut gather, |leaf| {
            println!("  {:#x} +{:#x}", leaf.ipa, leaf.bytes);
        })?;
        tables.invalidate(&mut gather);
        println!("  round {round}: {} bytes", harvest.bytes);
    }

    println!("the balloon takes 2 MiB");
    let harvest = tables.get_and_clear(RAM..RAM + (2 << 20), Clear::leaving(Marker::Released), |_| {})?;
    println!("  {harvest:?}");
    // Only now may the memory go: until the flush a processor may still use the old translation.
    tables.flush();
    println!("  {:?}", tables.lookup(RAM)?);

    println!("tear down");
    let harvest = tables.tear_down(|_| {});
    tables.flush();
    println!("  {harvest:?}, {} bytes of frames left", tables.frame_bytes());
    Ok(())
}
