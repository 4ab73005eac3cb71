//! What needs the machine: an arm64 CPU at EL2 that nobody else uses.
//!
//! One CPU boots, reads the device tree, brings EL2's own stage 1 up and starts the others; then they wait at
//! EL2 for work. A test makes tables, installs them on all CPUs as a [`guest`], runs routines of the
//! [`payload`] under them, and looks at what came of it. Interrupts stay masked; nothing waits for one.
//!
//! | module | what it holds |
//! |---|---|
//! | [`bed`] | what CPU and board are, for everybody to read |
//! | [`stage1`] | EL2's own tables |
//! | [`team`] | the CPUs, and work for them |
//! | [`pool`] | frames for stage-2 tables |
//! | [`mmu`] | the executor that counts what it issues |
//! | [`payload`], [`vcpu`] | what runs at EL1, and the way there and back |
//! | [`guest`] | tables that are installed |
//! | [`probe`] | what the hardware says: address translation instructions, and descriptors read raw |
//! | [`mirror`] | writes, and whether each was accounted for |
//! | [`watch`] | a payload that does not come back ends the run |
//! | [`tests`] | the nine groups |
//! | [`bench`] | the table of costs |

#![expect(unsafe_code, reason = "the device tree is found through a pointer")]

use core::convert::Infallible;
use core::mem::MaybeUninit;

use aarch64_cpu::registers::{MPIDR_EL1, Readable, TPIDR_EL2, Writeable};
use board::console::{self, Voice};
use board::power;
use board::ram::Span;
use board::tree::{self, Board, BoardError};
use dtoolkit::fdt::Fdt;

use crate::words::Program;

pub mod bed;
pub mod bench;
pub mod guest;
pub mod mirror;
pub mod mmu;
pub mod payload;
pub mod pool;
pub mod probe;
pub mod stage1;
pub mod team;
pub mod tests;
pub mod vcpu;
pub mod watch;

pub use stage1::RawFrame;

/// Bytes of each CPU's stack, but for the one that boots.
const STACK: u64 = 64 << 10;

/// The affinity fields of an MPIDR, as the device tree has them.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Where the parts of the image lie, and the parts of it that are no Rust.
#[derive(Debug)]
pub struct Image {
    /// First byte, and the first of the code.
    pub start: u64,
    /// End of the code.
    pub text_end: u64,
    /// End of what is only read.
    pub rodata_end: u64,
    /// End of all, also of what the file does not hold.
    pub end: u64,
    /// Where another CPU starts, its MMU off.
    pub secondary_entry: u64,
    /// What runs at EL1, to be copied.
    pub payload: &'static [u8],
    /// Runs EL1 with a context until it comes back.
    pub enter: unsafe extern "C" fn(*mut vcpu::Context),
    /// Switches EL2 to other tables.
    pub switch_tables: unsafe extern "C" fn(u64),
    /// Pages for EL2's own translation tables.
    pub frames: &'static mut [MaybeUninit<RawFrame>],
}

impl Image {
    /// All of it.
    pub const fn span(&self) -> Span {
        Span { start: self.start, end: self.end }
    }
}

/// Runs the monitor on the boot CPU. `level` is the exception level at which it was entered.
///
/// # Safety
///
/// Called once, by the boot CPU, with the image and the blocks of 2 MiB that hold the device tree's first
/// and last byte mapped at their own addresses. `device_tree` is what the boot loader passed on.
pub unsafe fn run(image: Image, device_tree: *const u8, level: u64) -> ! {
    // SAFETY: the boot loader's pointer is the only way to find it, and the entry code has mapped
    // what its header says; it checks itself from there.
    let fdt = unsafe { Fdt::from_raw(device_tree) };
    let fdt = match fdt {
        Ok(fdt) => fdt,
        // There is no console to tell, and no PSCI to call.
        Err(_) => power::halt(),
    };
    let tree = Span::new(device_tree as u64, fdt.data().len() as u64).outer_pages();
    power::set_conduit(tree::conduit(&fdt));
    let Err(error) = start(&fdt, image, tree, level);
    console::fail(format_args!("{error}"))
}

/// Reads the device tree, starts the CPUs and follows the command line.
fn start(fdt: &Fdt<'_>, mut image: Image, tree: Span, level: u64) -> Result<Infallible, BoardError> {
    let frames = core::mem::take(&mut image.frames);
    let port = tree::console(fdt);
    let read = Board::new(fdt);
    // What can't be mapped can't be told without a console, so memory that is not known is left out.
    let memory = read.as_ref().map(|board| board.memory.clone()).unwrap_or_default();
    let devices = port.map(|port| port.span().outer_pages());
    let root = stage1::build(level, frames, &image, tree, &memory, devices);
    // SAFETY: the tables map all that runs and is used, as it was, and are never dropped.
    unsafe { (image.switch_tables)(root) };
    if let Some(port) = port {
        // SAFETY: it has just been mapped, for good, and nobody else drives it.
        unsafe { console::open(port, Voice { line: "", failure: "Bail out! " }) };
    }
    if level != 2 {
        console::fail(format_args!("entered at EL{level}: start it at EL2, as `quire run --el2` does"));
    }
    TPIDR_EL2.set(0);
    let board = read?;
    let program = match Program::parse(board.bootargs) {
        Ok(program) => program,
        Err(error) => console::fail(format_args!("{error}")),
    };
    let own = MPIDR_EL1.get() & AFFINITY;
    if !board.cpus.contains(&own) {
        console::fail(format_args!("device tree: no cpu has affinity {own:#x}, which runs this"));
    }
    let mut free = board.memory.clone();
    free.trim_to_pages();
    free.remove(image.span())?;
    free.remove(tree)?;
    for &span in board.reserved.spans() {
        free.remove(span)?;
    }
    let stacks = bed::carve(&mut free, (board.cpus.len() as u64 - 1) * STACK, 16, "stacks");
    bed::set_up(&image, &board, free, if program.bench { bench::BYTES } else { bed::ARENA });
    // SAFETY: the stacks are mapped and nobody else's; the entry is the image's own.
    let team = unsafe { team::Team::start(&board.cpus, own, stacks, root, image.secondary_entry) };
    if program.bench {
        bench::run(&team);
    } else {
        tests::run(&team, program);
    }
    power::off()
}

/// Reports an exception of the monitor's own and ends the run. `kind` counts the vectors of one level:
/// synchronous, IRQ, FIQ, SError (DDI 0487, D1.3.1).
pub fn report(kind: u64, esr: u64, elr: u64, far: u64) -> ! {
    let kind = ["sync", "irq", "fiq", "serror"][(kind & 3) as usize];
    console::fail(format_args!("exception in the monitor: {kind} esr={esr:#x} elr={elr:#x} far={far:#x}"))
}
