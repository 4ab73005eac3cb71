//! The virtual counter: time since the machine started, as the guest sees it.

use aarch64_cpu::asm::{barrier, wfe};
use aarch64_cpu::registers::{CNTFRQ_EL0, CNTKCTL_EL1, CNTVCT_EL0, Readable, Writeable};

/// A point in time.
#[derive(Clone, Copy, Debug)]
pub struct Instant(u64);

impl Instant {
    /// Now.
    pub fn now() -> Self {
        // Or the counter could be read before what comes before it.
        barrier::isb(barrier::SY);
        Self(CNTVCT_EL0.get())
    }

    /// Microseconds since then.
    pub fn micros(self) -> u64 {
        let ticks = Self::now().0.wrapping_sub(self.0);
        let frequency = CNTFRQ_EL0.get().max(1);
        (u128::from(ticks) * 1_000_000 / u128::from(frequency)) as u64
    }
}

/// Microseconds since the counter was 0.
pub fn uptime() -> u64 {
    Instant(0).micros()
}

/// Waits. The event stream wakes the CPU from WFE, so that waiting costs the host little and needs no
/// interrupt.
pub fn sleep(micros: u64) {
    // EVNTEN, EVNTI 15: an event each 2^16 ticks (DDI 0487, CNTKCTL_EL1).
    CNTKCTL_EL1.set(CNTKCTL_EL1.get() & !0xf8 | 15 << 4 | 1 << 2);
    let start = Instant::now();
    while start.micros() < micros {
        wfe();
    }
}
