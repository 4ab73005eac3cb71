//! The watch: a payload that does not come back ends the run, and what was under test is not ok.
//!
//! Nothing can fetch a CPU out of EL1 that hangs there, or in the hypervisor below; so the others look. Those that
//! have nothing to do watch those that have, and whoever waits for others waits so long and no longer. On a machine
//! with one CPU there is nobody to look.

use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arrayvec::ArrayString;
use board::clock::{Instant, uptime};
use board::{console, say};
use spin::Mutex;

/// How long anything may take. KVM empties the tables of a guest hypervisor's guest by a walk over all of their input
/// space, which has taken 50 seconds on an emulated host.
const LIMIT_MICROS: u64 = 150_000_000;
/// CPUs that are watched.
const CPUS: usize = 64;

/// Since when each CPU has been in EL1, in microseconds of uptime; 0 where it is not, or may stay.
static SINCE: [AtomicU64; CPUS] = [const { AtomicU64::new(0) }; CPUS];
/// What is under test: its number and name.
static TEST: Mutex<Option<(u32, ArrayString<160>)>> = Mutex::new(None);

/// What is tested from here on.
pub fn begin(number: u32, name: fmt::Arguments<'_>) {
    let mut text = ArrayString::new();
    // A cut name is all that an error means here.
    let _cut = fmt::Write::write_fmt(&mut text, name);
    *TEST.lock() = Some((number, text));
}

/// CPU `cpu` enters EL1 and has to come back.
pub fn enter(cpu: usize) {
    if let Some(since) = SINCE.get(cpu) {
        since.store(uptime().max(1), Ordering::Relaxed);
    }
}

/// It has come back.
pub fn leave(cpu: usize) {
    if let Some(since) = SINCE.get(cpu) {
        since.store(0, Ordering::Relaxed);
    }
}

/// Looks at all CPUs once.
pub fn look() {
    for (cpu, since) in SINCE.iter().enumerate() {
        let since = since.load(Ordering::Relaxed);
        if since != 0 && uptime().saturating_sub(since) > LIMIT_MICROS {
            give_up(format_args!("cpu {cpu} has not come back from EL1 in {} s", LIMIT_MICROS / 1_000_000));
        }
    }
}

/// A wait that ends.
#[derive(Debug)]
pub struct Wait(Instant);

impl Wait {
    /// Begins now.
    pub fn begin() -> Self {
        Self(Instant::now())
    }

    /// Ends the run if it has been too long; `what` is waited for.
    pub fn check(&self, what: &str) {
        if self.0.micros() > LIMIT_MICROS {
            give_up(format_args!("{what}: not in {} s", LIMIT_MICROS / 1_000_000));
        }
    }
}

/// The test is not ok, and there is no next one.
fn give_up(why: fmt::Arguments<'_>) -> ! {
    static GIVEN_UP: AtomicBool = AtomicBool::new(false);
    if GIVEN_UP.swap(true, Ordering::Relaxed) {
        board::power::halt();
    }
    if let Some((number, name)) = TEST.lock().as_ref() {
        say!("not ok {number} - {name}");
        say!("# {why}");
    }
    console::fail(why)
}
