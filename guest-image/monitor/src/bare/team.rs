//! The CPUs: started once, then waiting at EL2 for work.

#![expect(unsafe_code, reason = "starts CPUs, and lends them work that lives on another's stack")]

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem;
use core::sync::atomic::{AtomicU32, Ordering};

use aarch64_cpu::asm::{sev, wfe};
use aarch64_cpu::registers::{TPIDR_EL2, Writeable};
use board::clock::Instant;
use board::ram::Span;
use board::{console, power};
use spin::RelaxStrategy;

use crate::bare::{STACK, watch};

/// How long a CPU may take to come up.
const START_MICROS: u64 = 30_000_000;

/// What a CPU does: called with its index.
type Work<'a> = &'a (dyn Fn(usize) + Sync + 'a);

/// CPUs that run, the one that boots among them.
static RUNNING: AtomicU32 = AtomicU32::new(1);
static JOB: Job = Job { serial: AtomicU32::new(0), left: AtomicU32::new(0), work: UnsafeCell::new(None) };

/// The work in hand. `serial` is written last and makes the rest visible.
struct Job {
    serial: AtomicU32,
    /// CPUs that have not finished.
    left: AtomicU32,
    work: UnsafeCell<Option<Work<'static>>>,
}

// SAFETY: `work` is written by the boot CPU while no other reads it: before `serial` says that there is work,
// and after `left` has said that all have finished. What it points to is `Sync`.
unsafe impl Sync for Job {}

/// What a starting CPU reads before its caches are on.
#[repr(C)]
struct Start {
    root: u64,
    stack: u64,
    index: u64,
}

/// How a CPU waits for another: an emulator that runs one at a time then goes on to that.
#[derive(Debug)]
pub struct Yield;

impl RelaxStrategy for Yield {
    fn relax() {
        // SAFETY: a hint.
        unsafe { asm!("yield", options(nomem, nostack, preserves_flags)) };
    }
}

/// The CPUs of the machine, up and waiting.
#[derive(Debug)]
pub struct Team {
    cpus: usize,
}

impl Team {
    /// Starts the CPUs with these affinities, except `own`, which is running this. Each gets its part of
    /// `stacks`, which has room for all of them.
    ///
    /// # Safety
    ///
    /// `stacks` is mapped in the tables at `root`, nobody else uses it, and `entry` is the entry code's.
    pub unsafe fn start(affinities: &[u64], own: u64, stacks: Span, root: u64, entry: u64) -> Self {
        let cpus = affinities.len();
        let others = affinities.iter().filter(|&&affinity| affinity != own);
        for (&affinity, index) in others.zip(1..) {
            let stack = stacks.start + index * STACK;
            let context = stack - 64;
            // SAFETY: the top of a stack that no CPU uses yet, by the contract of this function.
            unsafe { (context as *mut Start).write(Start { root, stack: context, index }) };
            clean(context, size_of::<Start>() as u64);
            if let Err(error) = power::cpu_on(affinity, entry, context) {
                console::fail(format_args!("cpu {index} (affinity {affinity:#x}) does not start: {error}"));
            }
        }
        let start = Instant::now();
        while (RUNNING.load(Ordering::Acquire) as usize) < cpus {
            if start.micros() > START_MICROS {
                let running = RUNNING.load(Ordering::Acquire);
                console::fail(format_args!("{running} of {cpus} cpus run after {START_MICROS} us"));
            }
            Yield::relax();
        }
        Self { cpus }
    }

    /// How many they are.
    pub const fn cpus(&self) -> usize {
        self.cpus
    }

    /// Has all other CPUs do one thing, while this one does another; returns when all have finished.
    pub fn beside<R>(&self, others: Work<'_>, own: impl FnOnce() -> R) -> R {
        // SAFETY: the reference outlives its use: this function returns only once `left` says that every CPU
        // has finished with it, and a panic ends the machine.
        let work = unsafe { mem::transmute::<Work<'_>, Work<'static>>(others) };
        // SAFETY: no other CPU reads it now, see `Job`.
        unsafe { *JOB.work.get() = Some(work) };
        JOB.left.store(self.cpus as u32 - 1, Ordering::Relaxed);
        JOB.serial.fetch_add(1, Ordering::Release);
        sev();
        let result = own();
        let wait = watch::Wait::begin();
        while JOB.left.load(Ordering::Acquire) > 0 {
            wait.check("the other cpus finish");
            Yield::relax();
        }
        result
    }

    /// Has all CPUs do one thing.
    pub fn all(&self, work: Work<'_>) {
        self.beside(work, || work(0));
    }
}

/// The life of every CPU but the first.
pub fn secondary(index: u64) -> ! {
    TPIDR_EL2.set(index);
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let mut done = 0;
    loop {
        while JOB.serial.load(Ordering::Acquire) == done {
            watch::look();
            wfe();
        }
        done += 1;
        // SAFETY: `serial` has said that it is there, and it stays until this CPU has finished, see `Job`.
        if let Some(work) = unsafe { *JOB.work.get() } {
            work(index as usize);
        }
        JOB.left.fetch_sub(1, Ordering::Release);
    }
}

/// Writes back what the caches hold of a range, for a CPU whose caches are still off.
fn clean(start: u64, size: u64) {
    for address in (start..start + size).step_by(16) {
        // SAFETY: cleaning a mapped line changes nothing that this CPU can see.
        unsafe { asm!("dc cvac, {}", in(reg) address, options(nostack, preserves_flags)) };
    }
    // SAFETY: a barrier.
    unsafe { asm!("dsb sy", options(nostack, preserves_flags)) };
}
