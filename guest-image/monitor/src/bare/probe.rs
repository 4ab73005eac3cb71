//! What the hardware says: address translation instructions, and descriptors as they stand in memory.

#![expect(unsafe_code, reason = "address translation instructions, and tables read by address")]

use core::arch::asm;

use aarch64_cpu::registers::{PAR_EL1, Readable};
use stage2::{Config, Descriptor, Entry, Frames, Granule, Level};

use crate::bare::guest::GuestTables;

/// What `AT` answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// The physical address of the page of 4 KiB, and the memory type as in `MAIR`.
    Address {
        /// The address.
        page: u64,
        /// The memory type.
        memory: u8,
    },
    /// A fault.
    Fault {
        /// The fault status code.
        status: u8,
        /// Whether it was stage 2's.
        stage2: bool,
    },
}

/// `AT S12E1R` or `S12E1W`: both stages of EL1, for a load or a store. Stage 1 is off, so `address` is the IPA.
pub fn translate(address: u64, write: bool) -> Answer {
    // SAFETY: it answers in PAR_EL1, and changes at most the access flag of what it walks.
    unsafe {
        if write {
            asm!("at s12e1w, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        } else {
            asm!("at s12e1r, {}", "isb", in(reg) address, options(nostack, preserves_flags));
        }
    }
    let par = PAR_EL1.get();
    if par & 1 == 0 {
        Answer::Address { page: par & 0x000f_ffff_ffff_f000, memory: (par >> 56) as u8 }
    } else {
        Answer::Fault { status: (par >> 1 & 0x3f) as u8, stage2: par & 1 << 9 != 0 }
    }
}

/// The descriptor at which a walk for `ipa` ends, read by a walk of this crate's own, and its level.
pub fn descriptor<G: Granule>(tables: &GuestTables<G>, ipa: u64) -> (Descriptor, Level) {
    let config: &Config<G> = tables.config();
    let (mut frame, mut level, mut entries) = (tables.root(), config.start(), config.root_entries());
    loop {
        let index = (ipa >> G::shift(level)) as usize & (entries - 1);
        let table: &[Entry] = tables.frames().table(frame, entries);
        let word = table[index].load(core::sync::atomic::Ordering::Relaxed);
        let descriptor = Descriptor::new(word);
        if !descriptor.is_table(level) {
            return (descriptor, level);
        }
        frame = config.format().table(word);
        (level, entries) = (level.next(), G::ENTRIES);
    }
}
