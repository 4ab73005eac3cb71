//! A stage 1 whose tables lie where the test wants them: a walk of stage 1 then reads the pages under test, by
//! translations of stage 2 that a TLB keeps apart from the combined ones.

use core::sync::atomic::{Ordering, fence};

use crate::bare::payload::{self, poke};
use crate::bare::vcpu::isb;

/// Valid, table or page.
const TABLE: u64 = 0b11;
/// Attribute 0, inner shareable, AF, read and write at EL1, not executable at EL0.
const MEMORY: u64 = 3 << 8 | 1 << 10 | 1 << 54;
/// Where the tables under test map: each of them its own 2 MiB.
const WINDOW: u64 = 64 << 30;

/// Builds it: table `k` of level 3 lies at IPA and address `tables(k)`; the payload's home is itself.
pub(super) fn build(count: u64, tables: impl Fn(u64) -> (u64, u64)) {
    let home = payload::HOME;
    poke(payload::table(0) + (home >> 30) * 8, (payload::tables_ipa() + 0x1000) | TABLE);
    poke(payload::table(0) + (WINDOW >> 30) * 8, (payload::tables_ipa() + 0x2000) | TABLE);
    poke(payload::table(1) + (home >> 21 & 511) * 8, home & !0x1f_ffff | MEMORY | 1);
    for k in 0..512 {
        let entry = if k < count { tables(k).0 | TABLE } else { 0 };
        poke(payload::table(2) + k * 8, entry);
        if k < count {
            poke(tables(k).1, payload::data_ipa() | MEMORY | TABLE);
        }
    }
    // Before a walk may read them.
    fence(Ordering::SeqCst);
    isb();
}

/// A virtual address whose walk reads table `k`.
pub(super) const fn through(k: u64) -> u64 {
    WINDOW + (k << 21)
}
