//! One CPU's EL1: its registers, and the way there and back.

#![expect(unsafe_code, reason = "enters EL1, and writes its system registers")]

use core::arch::asm;

use aarch64_cpu::registers::{Readable, TPIDR_EL2};
use board::console;

use crate::bare::bed::bed;
use crate::bare::payload::{self, Routine};
use crate::bare::stage1::vhe;
use crate::bare::watch;
use crate::fault::{Fault, hypercall};

/// Where the words behind the payload's code begin.
pub const MAIL: u64 = 0x2000;

/// EL1h, everything masked.
const PSTATE: u64 = 0x3c5;
/// Faults of one run that nobody counts on: a payload that faults for ever ends the run instead.
const PATIENCE: u64 = 1 << 24;

/// What the entry code saves and restores; it knows the offsets.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Context {
    x: [u64; 31],
    pc: u64,
    pstate: u64,
    esr: u64,
    far: u64,
    hpfar: u64,
    /// The vector: synchronous, IRQ, FIQ, SError.
    kind: u64,
}

/// What to do about a fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Repeat the access.
    Retry,
    /// Give the fault to whoever has started the routine.
    Stop,
}

/// One CPU's EL1.
#[derive(Debug, Default)]
pub struct Vcpu(Context);

impl Vcpu {
    /// EL1 of this CPU, for a moment.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs a routine to its end; `answer` sees every fault.
    ///
    /// # Errors
    /// The fault at which it was stopped.
    pub fn run(
        &mut self,
        routine: Routine,
        arguments: &[u64],
        mut answer: impl FnMut(&Fault) -> Answer,
    ) -> Result<u64, Fault> {
        self.0.x = [0; 31];
        self.0.x[1..=arguments.len()].copy_from_slice(arguments);
        (self.0.pc, self.0.pstate) = (routine.entry(), PSTATE);
        let cpu = TPIDR_EL2.get() as usize;
        if !routine.is_endless() {
            watch::enter(cpu);
        }
        let result = self.until_done(routine, arguments, &mut answer);
        watch::leave(cpu);
        result
    }

    fn until_done(
        &mut self,
        routine: Routine,
        arguments: &[u64],
        answer: &mut dyn FnMut(&Fault) -> Answer,
    ) -> Result<u64, Fault> {
        let mut last = None;
        for _ in 0..PATIENCE {
            // SAFETY: the context is the entry code's layout, and this CPU is in a guest (`guest::enter`), so that
            // EL1 sees nothing but what the guest's tables map.
            unsafe { (bed().enter)(&raw mut self.0) };
            let Context { kind, esr, far, hpfar, pc, .. } = self.0;
            let fault = (kind == 0).then(|| Fault::new(esr, far, hpfar)).flatten();
            match (fault, hypercall(esr)) {
                (Some(fault), _) => {
                    last = Some(fault);
                    if answer(&fault) == Answer::Stop {
                        return Err(fault);
                    }
                }
                (None, Some(0)) if kind == 0 => return Ok(self.0.x[0]),
                (None, Some(1)) if kind == 0 => {
                    let [esr, elr, far] = exception_of_el1();
                    console::fail(format_args!(
                        "the payload took an exception to EL1: esr={esr:#x} elr={elr:#x} far={far:#x}"
                    ));
                }
                _ => console::fail(format_args!(
                    "the payload came back by vector {kind}: esr={esr:#x} pc={pc:#x} far={far:#x}"
                )),
            }
        }
        console::fail(format_args!(
            "{routine:?} with {arguments:#x?} has faulted {PATIENCE} times, at last by {last:?}"
        ))
    }

    /// Runs a routine that must not fault.
    ///
    /// # Errors
    /// The fault that it took.
    pub fn call(&mut self, routine: Routine, arguments: &[u64]) -> Result<u64, Fault> {
        self.run(routine, arguments, |_| Answer::Stop)
    }

    /// Loads a word.
    ///
    /// # Errors
    /// The fault.
    pub fn read(&mut self, address: u64) -> Result<u64, Fault> {
        self.call(Routine::Read, &[address])
    }

    /// Stores a word.
    ///
    /// # Errors
    /// The fault.
    pub fn write(&mut self, address: u64, value: u64) -> Result<(), Fault> {
        self.call(Routine::Write, &[address, value]).map(drop)
    }
}

/// Writes a register of EL1, whatever EL2's own E2H makes of its name.
macro_rules! set_el1 {
    ($name:literal, $with_vhe:literal, $value:expr) => {
        if vhe() {
            // SAFETY: nothing runs at EL1 now, and EL2 does not use the register.
            unsafe { asm!(concat!("msr ", $with_vhe, ", {}"), in(reg) $value, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: as above.
            unsafe { asm!(concat!("msr ", $name, ", {}"), in(reg) $value, options(nostack, preserves_flags)) };
        }
    };
}

/// Reads one.
macro_rules! get_el1 {
    ($name:literal, $with_vhe:literal) => {{
        let value: u64;
        if vhe() {
            // SAFETY: reading it has no effect.
            unsafe { asm!(concat!("mrs {}, ", $with_vhe), out(reg) value, options(nostack, preserves_flags)) };
        } else {
            // SAFETY: as above.
            unsafe { asm!(concat!("mrs {}, ", $name), out(reg) value, options(nostack, preserves_flags)) };
        }
        value
    }};
}

/// Prepares this CPU's EL1: vectors, stage 1 off.
pub fn prepare() {
    set_el1!("vbar_el1", "s3_5_c12_c0_0", payload::VECTORS);
    stage1_off();
}

/// Switches stage 1 of EL1 off, on this CPU.
pub fn stage1_off() {
    /// RES1 bits.
    const SCTLR: u64 = 0x30d0_0800;
    set_el1!("sctlr_el1", "s3_5_c1_c0_0", SCTLR);
    isb();
}

/// Switches it on, with 4 KiB tables for 39 bits whose start level stands at this IPA.
pub fn stage1_on(root: u64) {
    /// Attribute 0: normal write-back.
    const MAIR: u64 = 0xff;
    /// T0SZ 25, write-back walks, inner shareable, EPD1, 4 KiB, 40 bits of address.
    const TCR: u64 = 25 | 1 << 8 | 1 << 10 | 3 << 12 | 1 << 23 | 2 << 30 | 2 << 32;
    /// RES1 bits, I, C, M.
    const SCTLR: u64 = 0x30d0_1805;
    set_el1!("mair_el1", "s3_5_c10_c2_0", MAIR);
    set_el1!("tcr_el1", "s3_5_c2_c0_2", TCR);
    set_el1!("ttbr0_el1", "s3_5_c2_c0_0", root);
    set_el1!("sctlr_el1", "s3_5_c1_c0_0", SCTLR);
    isb();
}

fn exception_of_el1() -> [u64; 3] {
    [
        get_el1!("esr_el1", "s3_5_c5_c2_0"),
        get_el1!("elr_el1", "s3_5_c4_c0_1"),
        get_el1!("far_el1", "s3_5_c6_c0_0"),
    ]
}

/// What was written to system registers counts from here on.
pub fn isb() {
    // SAFETY: a barrier.
    unsafe { asm!("isb", options(nostack, preserves_flags)) };
}
