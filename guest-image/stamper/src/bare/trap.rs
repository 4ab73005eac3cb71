//! Exceptions: none is expected, so each is the end.

use aarch64_cpu::registers::{Readable, TPIDR_EL1};
use board::console;

/// Reports an exception and ends the run. `kind` counts the vectors of one level: synchronous,
/// IRQ, FIQ, SError (DDI 0487, D1.3.1).
pub fn report(kind: u64, esr: u64, elr: u64, far: u64) -> ! {
    let kind = ["sync", "irq", "fiq", "serror"][(kind & 3) as usize];
    let cpu = TPIDR_EL1.get();
    console::fail(format_args!("exception cpu={cpu} kind={kind} esr={esr:#x} elr={elr:#x} far={far:#x}"))
}
