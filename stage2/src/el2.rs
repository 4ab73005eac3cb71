//! EL2: the executor that issues the real instructions.
//!
//! Source: DDI 0487, C5.5 (TLBI), C6.2 (DSB, ISB); D8.17 for what completes what.
#![expect(unsafe_code, reason = "barriers, TLB maintenance and VTTBR_EL2 have no safe form")]

use core::arch::asm;

use crate::gather::Sequence;
use crate::tlbi::{Executor, Instruction};

/// Invalidates the translations of one VM, by the VMID in its `VTTBR_EL2` value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vmid {
    vttbr: u64,
}

impl Vmid {
    /// The executor for the tables that `vttbr` (see [`Config::vttbr`](crate::Config::vttbr)) names.
    ///
    /// # Safety
    /// The processor runs at EL2 with `HCR_EL2.TGE` = 0 wherever an operation of the tables is called
    /// (with TGE = 1 and E2H = 1, `VMALLE1IS` means the host's own translations), and nothing runs at EL1 or
    /// EL0 on it meanwhile: `VTTBR_EL2` is changed for the time of a sequence. `VTCR_EL2` holds the value of
    /// these tables ([`Config::vtcr`](crate::Config::vtcr)): a range operand counts its base by `VTCR_EL2.DS`,
    /// and covers nothing where the granule isn't the one in force.
    pub const unsafe fn new(vttbr: u64) -> Self {
        Self { vttbr }
    }
}

impl Executor for Vmid {
    fn execute(&self, sequence: Sequence<'_>) {
        let saved: u64;
        // SAFETY: reading VTTBR_EL2 has no effect; the contract of `new` says that this is EL2.
        unsafe { asm!("mrs {}, vttbr_el2", out(reg) saved, options(nomem, nostack, preserves_flags)) };
        let other = saved != self.vttbr;
        if other {
            set_vttbr(self.vttbr);
        }
        for instruction in sequence {
            issue(instruction);
        }
        if other {
            set_vttbr(saved);
        }
    }
}

/// Makes the VMID current for the TLBI instructions that follow.
fn set_vttbr(value: u64) {
    // SAFETY: at EL2 stage 2 translates nothing that runs now (`Vmid::new`); the value goes back afterwards.
    unsafe { asm!("msr vttbr_el2, {}", "isb", in(reg) value, options(nostack, preserves_flags)) };
}

/// Issues one instruction. None of the blocks says `nomem`: the compiler must not move stores to the tables
/// across them.
fn issue(instruction: Instruction) {
    // SAFETY: barriers and TLB maintenance never change what memory holds, and an invalidation only
    // makes the hardware look a translation up again. That it is done at EL2 says the contract of `new`.
    unsafe {
        match instruction {
            Instruction::DsbIshst => asm!("dsb ishst", options(nostack, preserves_flags)),
            Instruction::DsbIsh => asm!("dsb ish", options(nostack, preserves_flags)),
            Instruction::Isb => asm!("isb", options(nostack, preserves_flags)),
            Instruction::Ipas2e1is(operand) => {
                asm!("tlbi ipas2e1is, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            Instruction::Ipas2le1is(operand) => {
                asm!("tlbi ipas2le1is, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            // TLBI RIPAS2E1IS and RIPAS2LE1IS, spelt so that an assembler without FEAT_TLBIRANGE takes them.
            Instruction::Ripas2e1is(operand) => {
                asm!("sys #4, c8, c0, #2, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            Instruction::Ripas2le1is(operand) => {
                asm!("sys #4, c8, c0, #6, {}", in(reg) operand, options(nostack, preserves_flags))
            }
            Instruction::Vmalle1is => asm!("tlbi vmalle1is", options(nostack, preserves_flags)),
            Instruction::Vmalls12e1is => asm!("tlbi vmalls12e1is", options(nostack, preserves_flags)),
        }
    }
}
