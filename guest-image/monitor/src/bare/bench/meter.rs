//! Instructions, counted by the CPU: the PMU's event for retired instructions where it has that, else the virtual
//! counter. In an emulator that counts instructions instead of time both give the same figures in every run.

#![expect(unsafe_code, reason = "registers of the PMU")]

use core::arch::asm;

use aarch64_cpu::registers::{CNTFRQ_EL0, CNTVCT_EL0, ID_AA64DFR0_EL1, Readable};

use crate::bare::vcpu::isb;

/// INST_RETIRED, and the bit that has it counted at EL2 too (`PMEVTYPER0_EL0.NSH`).
const INST_RETIRED: u64 = 8;
const AT_EL2: u64 = 1 << 27;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meter {
    /// Instructions, by event counter 0.
    Instructions,
    /// Nanoseconds of the virtual counter.
    Nanoseconds,
}

impl Meter {
    /// Sets up what this CPU has.
    pub(super) fn new() -> Self {
        let pmu = ID_AA64DFR0_EL1.get() >> 8 & 0xf;
        if pmu == 0 || pmu == 0xf {
            return Self::Nanoseconds;
        }
        let events: u64;
        // SAFETY: reading which events there are has no effect.
        unsafe { asm!("mrs {}, pmceid0_el0", out(reg) events, options(nomem, nostack, preserves_flags)) };
        if events >> INST_RETIRED & 1 == 0 {
            return Self::Nanoseconds;
        }
        // SAFETY: nobody else uses the PMU. PMCR_EL0: E, P (counters start at 0).
        unsafe {
            asm!(
                "msr pmevtyper0_el0, {event}", "msr pmcntenset_el0, {one}", "msr pmcr_el0, {control}", "isb",
                event = in(reg) INST_RETIRED | AT_EL2, one = in(reg) 1u64, control = in(reg) 0b11u64,
                options(nostack, preserves_flags)
            );
        }
        Self::Instructions
    }

    /// What it counts.
    pub(super) const fn unit(self) -> &'static str {
        match self {
            Self::Instructions => "instructions",
            Self::Nanoseconds => "nanoseconds",
        }
    }

    /// Counts what `work` takes, on this CPU, at EL1 and EL2. Less than 2^32 instructions.
    pub(super) fn count<R>(self, work: impl FnOnce() -> R) -> (u64, R) {
        let before = self.read();
        let result = work();
        let after = self.read();
        let counted = match self {
            Self::Instructions => u64::from((after as u32).wrapping_sub(before as u32)),
            Self::Nanoseconds => {
                let ticks = u128::from(after.wrapping_sub(before));
                (ticks * 1_000_000_000 / u128::from(CNTFRQ_EL0.get().max(1))) as u64
            }
        };
        (counted, result)
    }

    fn read(self) -> u64 {
        isb();
        match self {
            Self::Instructions => {
                let count: u64;
                // SAFETY: reading a counter has no effect.
                unsafe { asm!("mrs {}, pmevcntr0_el0", out(reg) count, options(nostack, preserves_flags)) };
                count
            }
            Self::Nanoseconds => CNTVCT_EL0.get(),
        }
    }
}
