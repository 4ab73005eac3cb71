//! What CPU and board are, and the memory that the tests use: found out once, then only read.

#![expect(unsafe_code, reason = "copies the payload to its page")]

use core::arch::asm;

use aarch64_cpu::registers::{
    ID_AA64ISAR0_EL1, ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, MIDR_EL1, Readable,
};
use board::console;
use board::power;
use board::ram::{Ram, Span};
use board::tree::Board;
use spin::Once;
use stage2::{Features, IdRegisters};

use crate::bare::{Image, pool, vcpu};

/// Bytes of the arena: what the tests map. A block of 32 MiB (16K granule) and another.
pub const ARENA: u64 = 64 << 20;
/// The payload's home: the largest granule, so that one page holds it whatever the granule is.
pub const HOME: u64 = 64 << 10;

/// CPU and board.
#[derive(Debug)]
pub struct Bed {
    /// What the CPU offers for stage 2.
    pub features: Features,
    /// `MIDR_EL1`.
    pub midr: u64,
    /// CPUs.
    pub cpus: usize,
    /// Whether KVM is below: then the MMU walks tables that KVM makes of ours.
    pub nested: bool,
    /// All memory.
    pub memory: Span,
    /// Memory that the tests map, aligned to its size.
    pub arena: Span,
    /// The page with the payload.
    pub home: u64,
    /// The way into EL1.
    pub(super) enter: unsafe extern "C" fn(*mut vcpu::Context),
}

static BED: Once<Bed> = Once::new();

/// CPU and board; set before anything else runs.
pub fn bed() -> &'static Bed {
    BED.get().unwrap_or_else(|| console::fail(format_args!("asked about the board too early")))
}

/// Finds out, and gives the pool and the arena, of so many bytes, their memory.
pub fn set_up(image: &Image, board: &Board<'_>, mut free: Ram, arena: u64) {
    let arena = carve(&mut free, arena, ARENA, "the memory to map");
    pool::set_up(carve(&mut free, pool::SIZE, pool::ALIGN, "table frames"));
    let home = carve(&mut free, HOME, HOME, "the payload").start;
    if image.payload.len() as u64 > vcpu::MAIL {
        console::fail(format_args!("the payload has {} bytes: too many", image.payload.len()));
    }
    // SAFETY: a page of memory that has just been taken, and nobody else's.
    unsafe { core::ptr::copy_nonoverlapping(image.payload.as_ptr(), home as *mut u8, image.payload.len()) };
    publish_code(home, image.payload.len() as u64);
    let ids = IdRegisters {
        isar0: ID_AA64ISAR0_EL1.get(),
        mmfr0: ID_AA64MMFR0_EL1.get(),
        mmfr1: ID_AA64MMFR1_EL1.get(),
        mmfr2: ID_AA64MMFR2_EL1.get(),
    };
    let memory = board.memory.spans();
    let memory = Span { start: memory[0].start, end: memory[memory.len() - 1].end };
    BED.call_once(|| Bed {
        features: Features::from_id_registers(ids),
        midr: MIDR_EL1.get(),
        cpus: board.cpus.len(),
        nested: power::kvm_below(),
        memory,
        arena,
        home,
        enter: image.enter,
    });
}

/// Takes an aligned piece of memory, from the end of the largest span that holds one.
pub fn carve(free: &mut Ram, size: u64, align: u64, what: &str) -> Span {
    let fits = |span: &&Span| {
        let start = span.end.checked_sub(size).map(|start| start & !(align - 1));
        start.is_some_and(|start| start >= span.start)
    };
    let Some(span) = free.spans().iter().rfind(fits) else {
        console::fail(format_args!(
            "no {size:#x} bytes of memory for {what}: give the machine more (512M will do, 1G for the benchmark)"
        ));
    };
    let start = (span.end - size) & !(align - 1);
    let piece = Span { start, end: start + size };
    if !piece.is_empty()
        && let Err(error) = free.remove(piece.outer_pages())
    {
        console::fail(format_args!("{error}"));
    }
    piece
}

/// Makes stores to code visible to instruction fetches of every CPU (DDI 0487, B2.4.4).
pub fn publish_code(start: u64, size: u64) {
    for address in (start..start + size).step_by(16) {
        // SAFETY: cleaning a mapped line changes nothing that this CPU can see.
        unsafe { asm!("dc cvau, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: barriers, and an invalidation that makes instructions be fetched anew.
    unsafe { asm!("dsb ish", "ic ialluis", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
