//! The executor: `stage2::el2::Vmid`, counted.

#![expect(unsafe_code, reason = "the executor asks for a promise about EL2")]

use core::arch::asm;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use stage2::el2::Vmid;
use stage2::{Executor, Granule, Instruction, Sequence};

/// What has been issued.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Issued {
    /// Invalidations: sequences with at least one TLBI.
    pub sequences: u64,
    /// TLBI by address.
    pub by_entry: u64,
    /// TLBI by range.
    pub by_range: u64,
    /// TLBI of the whole VMID, both stages.
    pub whole: u64,
}

impl Issued {
    /// What has been issued since `before`.
    pub const fn since(self, before: Self) -> Self {
        Self {
            sequences: self.sequences - before.sequences,
            by_entry: self.by_entry - before.by_entry,
            by_range: self.by_range - before.by_range,
            whole: self.whole - before.whole,
        }
    }

    /// TLBI instructions at stage 2.
    pub const fn tlbis(&self) -> u64 {
        self.by_entry + self.by_range + self.whole
    }
}

/// The executor of the tables of one guest.
#[derive(Debug, Default)]
pub struct Mmu {
    vttbr: AtomicU64,
    sequences: AtomicU64,
    by_entry: AtomicU64,
    by_range: AtomicU64,
    whole: AtomicU64,
    retired: AtomicBool,
}

impl Mmu {
    /// Names the tables, once their root is known: before anything of them is invalidated.
    pub fn set(&self, vttbr: u64) {
        self.vttbr.store(vttbr, Ordering::Relaxed);
    }

    /// Invalidates all that is mapped, which is `stretches`, and nothing from then on: of tables that no CPU uses any
    /// more. The CPU has FEAT_TLBIRANGE.
    pub fn retire<G: Granule>(&self, stretches: &[Range<u64>]) {
        // SAFETY: barriers, and invalidations, which only make the hardware look translations up again.
        unsafe { asm!("dsb ishst", options(nostack, preserves_flags)) };
        for stretch in stretches {
            // 2^16 granules at a time (SCALE 3, NUM 0); more than what is mapped may go.
            for base in (stretch.start..stretch.end).step_by(1 << (16 + G::SHIFT)) {
                let granule = u64::from(G::SHIFT / 2 - 5);
                let operand = granule << 46 | 3 << 44 | base >> G::SHIFT;
                // SAFETY: as above. RIPAS2E1IS, which assemblers know only where the target has it.
                unsafe { asm!("sys #4, c8, c0, #2, {}", in(reg) operand, options(nostack, preserves_flags)) };
            }
        }
        // SAFETY: as above.
        unsafe {
            asm!("dsb ish", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags));
        }
        self.retired.store(true, Ordering::Relaxed);
    }

    /// What has been issued so far.
    pub fn issued(&self) -> Issued {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Issued {
            sequences: load(&self.sequences),
            by_entry: load(&self.by_entry),
            by_range: load(&self.by_range),
            whole: load(&self.whole),
        }
    }
}

impl Executor for Mmu {
    fn execute(&self, sequence: Sequence<'_>) {
        if self.retired.load(Ordering::Relaxed) {
            return;
        }
        let add = |count: &AtomicU64| {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let mut any = false;
        for instruction in sequence.clone() {
            match instruction {
                Instruction::Ipas2e1is(_) | Instruction::Ipas2le1is(_) => add(&self.by_entry),
                Instruction::Ripas2e1is(_) | Instruction::Ripas2le1is(_) => add(&self.by_range),
                Instruction::Vmalls12e1is => add(&self.whole),
                _ => continue,
            }
            any = true;
        }
        if any {
            add(&self.sequences);
        }
        // SAFETY: this is EL2 with TGE = 0 on every CPU, and at EL2 nothing of EL1 runs on it; the guest has put
        // the tables' VTCR_EL2 on all CPUs before their first operation, and leaves it there until they are gone.
        unsafe { Vmid::new(self.vttbr.load(Ordering::Relaxed)) }.execute(sequence);
    }
}
