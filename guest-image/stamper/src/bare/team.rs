//! The CPUs: started once, then doing one job after another together, each on its share.

#![expect(unsafe_code, reason = "starts CPUs, and writes into memory that is owned by address")]

use core::arch::asm;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aarch64_cpu::asm::{sev, wfe};
use aarch64_cpu::registers::{TPIDR_EL1, Writeable};
use board::clock::Instant;
use board::ram::{Ram, Span};
use board::say;
use board::{console, power};
use spin::Once;

use crate::bare::STACK;
use crate::stamp::{PAGE_SIZE, Page, Pattern, Stamp};

/// How long a CPU may take to come up.
const START_MICROS: u64 = 30_000_000;
/// Bad pages that one CPU names in one pass.
const NAMED: u64 = 8;

/// What every CPU knows. Set before the first job.
static SHARED: Once<Shared> = Once::new();
/// CPUs that run, the one that boots among them.
static RUNNING: AtomicU32 = AtomicU32::new(1);
static JOB: Job = Job {
    serial: AtomicU32::new(0),
    kind: AtomicU32::new(0),
    generation: AtomicU64::new(0),
    left: AtomicU32::new(0),
    bad: AtomicU64::new(0),
};

struct Shared {
    ram: Ram,
    pattern: Pattern,
    cpus: u32,
}

/// The job in hand. `serial` is written last and makes the rest visible.
struct Job {
    serial: AtomicU32,
    kind: AtomicU32,
    generation: AtomicU64,
    /// CPUs that have not finished.
    left: AtomicU32,
    bad: AtomicU64,
}

/// What all CPUs do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Task {
    /// Stamp the share.
    Stamp,
    /// Verify the share of the next CPU, so that each page is read by another than wrote it.
    Verify,
    /// Run for ever.
    Spin,
    /// Wait for ever.
    Idle,
}

/// What a starting CPU reads before its caches are on.
#[repr(C)]
struct Start {
    ttbr: u64,
    stack: u64,
    index: u64,
}

/// The CPUs of the machine, up and waiting.
#[derive(Debug)]
pub struct Team(());

impl Team {
    /// Starts the CPUs with these affinities, except `own`, which is running this. Each gets its
    /// part of `stacks`, which has room for all of them. Then all of them own `ram`.
    ///
    /// # Safety
    ///
    /// `stacks` and `ram` are mapped in the tables at `ttbr`, nobody else uses them, and `entry`
    /// is the entry code's.
    pub unsafe fn start(
        affinities: &[u64],
        own: u64,
        stacks: Span,
        ttbr: u64,
        entry: u64,
        ram: Ram,
        pattern: Pattern,
    ) -> Self {
        let cpus = affinities.len() as u32;
        let shared = SHARED.call_once(|| Shared { ram, pattern, cpus });
        let others = affinities.iter().filter(|&&affinity| affinity != own);
        for (&affinity, index) in others.zip(1..) {
            let stack = stacks.start + index * STACK;
            let context = stack - 64;
            // SAFETY: the top of a stack that no CPU uses yet, by the contract of this function.
            unsafe { (context as *mut Start).write(Start { ttbr, stack: context, index }) };
            clean(context, size_of::<Start>() as u64);
            if let Err(error) = power::cpu_on(affinity, entry, context) {
                console::fail(format_args!("cpu {index} (affinity {affinity:#x}) does not start: {error}"));
            }
        }
        let start = Instant::now();
        while RUNNING.load(Ordering::Acquire) < shared.cpus {
            if start.micros() > START_MICROS {
                let running = RUNNING.load(Ordering::Acquire);
                console::fail(format_args!("{running} of {cpus} cpus run after {START_MICROS} us"));
            }
            core::hint::spin_loop();
        }
        Self(())
    }

    /// Has all CPUs do one task on their shares, and returns the number of bad pages.
    pub fn run(&mut self, task: Task, generation: u64) -> u64 {
        let Some(shared) = SHARED.get() else { return 0 };
        JOB.kind.store(task as u32, Ordering::Relaxed);
        JOB.generation.store(generation, Ordering::Relaxed);
        JOB.bad.store(0, Ordering::Relaxed);
        JOB.left.store(shared.cpus, Ordering::Relaxed);
        JOB.serial.fetch_add(1, Ordering::Release);
        sev();
        work(shared, 0);
        while JOB.left.load(Ordering::Acquire) > 0 {
            wfe();
        }
        JOB.bad.load(Ordering::Relaxed)
    }
}

/// The life of every CPU but the first.
pub fn secondary(index: u64) -> ! {
    TPIDR_EL1.set(index);
    RUNNING.fetch_add(1, Ordering::AcqRel);
    let mut done = 0;
    loop {
        while JOB.serial.load(Ordering::Acquire) == done {
            wfe();
        }
        done += 1;
        // Set before any CPU was started.
        if let Some(shared) = SHARED.get() {
            work(shared, index);
        }
    }
}

/// Does this CPU's part of the job in hand.
fn work(shared: &Shared, index: u64) {
    let generation = JOB.generation.load(Ordering::Relaxed);
    let cpus = u64::from(shared.cpus);
    let kind = JOB.kind.load(Ordering::Relaxed);
    if kind == Task::Stamp as u32 {
        each_page(shared, index, |stamp, page| stamp.write(page), generation);
    } else if kind == Task::Verify as u32 {
        let mut bad = 0;
        let check = |stamp: Stamp, page: &mut Page| {
            if let Err(damage) = stamp.check(page) {
                bad += 1;
                if bad <= NAMED {
                    say!("bad {stamp} {damage}");
                }
            }
        };
        each_page(shared, (index + 1) % cpus, check, generation);
        JOB.bad.fetch_add(bad, Ordering::Relaxed);
    } else if kind == Task::Idle as u32 {
        power::halt();
    } else {
        loop {
            core::hint::spin_loop();
        }
    }
    JOB.left.fetch_sub(1, Ordering::Release);
    sev();
}

/// Visits every page of a share.
fn each_page(shared: &Shared, share: u64, mut visit: impl FnMut(Stamp, &mut Page), generation: u64) {
    for span in shared.ram.share(share, u64::from(shared.cpus)) {
        for address in (span.start..span.end).step_by(PAGE_SIZE as usize) {
            // SAFETY: a whole mapped page of the memory that was given to the team, in the share of
            // this CPU alone until the job is done.
            let page = unsafe { &mut *(address as *mut Page) };
            visit(Stamp { address, generation, pattern: shared.pattern }, page);
        }
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
