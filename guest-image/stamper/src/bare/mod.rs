//! What needs the machine: an arm64 CPU at EL1 that nobody else uses.
//!
//! One CPU boots, reads the device tree, prints, and starts the others; then all of them do one
//! job after another, each on its share of the memory. Nothing here waits for an interrupt: they
//! stay masked.
//!
//! | module | what it holds |
//! |---|---|
//! | [`paging`] | the stage-1 tables |
//! | [`team`] | the CPUs and their jobs |
//! | [`program`] | the actions of the command line |
//! | [`crash`] | the fatal ones |
//! | [`storm`] | the one that storms the balloon |
//! | [`balloon`] | the balloon's driver |
//! | [`dma`] | pages for its queues |
//! | [`trap`] | exceptions |

#![expect(unsafe_code, reason = "the device tree is found through a pointer")]

use core::convert::Infallible;
use core::mem::MaybeUninit;

use aarch64_cpu::registers::{FAR_EL1, MPIDR_EL1, Readable, TPIDR_EL1, Writeable};
use board::console::Voice;
use board::ram::{Ram, Span};
use board::say;
use board::tree::{self, Board, BoardError};
use board::{clock, console, power};
use dtoolkit::fdt::Fdt;

use crate::stamp::PAGE_SIZE;
use crate::words::{Action, Program};

pub mod balloon;
pub mod crash;
pub mod dma;
pub mod paging;
pub mod program;
pub mod storm;
pub mod team;
pub mod trap;

pub use paging::Frame;

/// Bytes of each CPU's stack, but for the one that boots.
const STACK: u64 = 16 << 10;

/// The affinity fields of an MPIDR, as the device tree has them.
const AFFINITY: u64 = 0xff_00ff_ffff;

/// Where the parts of the image lie.
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
    /// Pages for translation tables.
    pub frames: &'static mut [MaybeUninit<Frame>],
}

impl Image {
    /// All of it.
    pub const fn span(&self) -> Span {
        Span { start: self.start, end: self.end }
    }
}

/// Runs the stamper on the boot CPU. `level` is the exception level at which it was entered.
///
/// # Safety
///
/// Called once, by the boot CPU, at EL1, with the image and the blocks of 2 MiB that hold the
/// device tree's first and last byte mapped at their own addresses. `device_tree` is what the
/// boot loader passed on.
pub unsafe fn run(mut image: Image, device_tree: *const u8, level: u64) -> ! {
    // What a trap reports; both are unknown after a reset.
    TPIDR_EL1.set(0);
    FAR_EL1.set(0);
    let frames = core::mem::take(&mut image.frames);
    // SAFETY: the boot loader's pointer is the only way to find it, and the entry code has mapped
    // what its header says; it checks itself from there.
    let fdt = unsafe { Fdt::from_raw(device_tree) };
    let fdt = match fdt {
        Ok(fdt) => fdt,
        // There is no console to tell, and no PSCI to call.
        Err(_) => power::halt(),
    };
    let tree = Span::new(device_tree as u64, fdt.data().len() as u64).outer_pages();
    let port = tree::console(&fdt);
    power::set_conduit(tree::conduit(&fdt));

    let mut tables = paging::Stage1::new(frames);
    tables.map_image(&image);
    tables.map_data(tree);
    if let Some(port) = port {
        tables.map_device(port.span().outer_pages());
    }
    // SAFETY: the image with its stack, and the device tree, are mapped as they were.
    unsafe { tables.activate() };
    if let Some(port) = port {
        // SAFETY: it has just been mapped, for good, and nobody else drives it.
        unsafe { console::open(port, Voice { line: "stamper: ", failure: "stamper: FAIL " }) };
    }
    say!("boot image={} el={level} us={}", image.span(), clock::uptime());

    let Err(error) = start(&fdt, &image, tree, &mut tables);
    console::fail(format_args!("{error}"))
}

/// Reads the rest of the device tree, starts the CPUs and follows the command line.
fn start(
    fdt: &Fdt<'_>,
    image: &Image,
    tree: Span,
    tables: &mut paging::Stage1,
) -> Result<Infallible, BoardError> {
    let board = Board::new(fdt)?;
    let program = match Program::parse(board.bootargs) {
        Ok(program) => program,
        Err(error) => console::fail(format_args!("{error}")),
    };
    let mut ram = board.memory.clone();
    ram.trim_to_pages();
    ram.remove(image.span())?;
    ram.remove(tree)?;
    for &span in board.reserved.spans() {
        ram.remove(span)?;
    }
    for &span in ram.spans() {
        tables.map_data(span);
    }
    // The stacks first: a loader may write to the first page of memory again when it resets.
    let stacks = (board.cpus.len() as u64 - 1) * STACK;
    let (Some(stacks), Some(mark)) = (ram.carve(stacks), ram.carve(PAGE_SIZE)) else {
        console::fail(format_args!("memory {} has no room for {stacks} bytes of stacks", board.memory));
    };
    let storm = if program.actions.contains(&Action::Storm) {
        let windows = tree::virtio(fdt);
        let mut pages = Ram::default();
        for window in &windows {
            pages.add(window.outer_pages())?;
        }
        for &span in pages.spans() {
            tables.map_device(span);
        }
        let Some(needs) = storm::Needs::carve(windows, &mut ram) else {
            console::fail(format_args!("memory {} has no room for a storm", board.memory));
        };
        Some((needs, ram.clone()))
    } else {
        None
    };
    let own = MPIDR_EL1.get() & AFFINITY;
    if !board.cpus.contains(&own) {
        console::fail(format_args!("device tree: no cpu has affinity {own:#x}, which runs this"));
    }
    let pages = ram.pages();
    // SAFETY: all of it has just been mapped, and taken out of what anyone else uses; the entry is
    // the image's own.
    let team = unsafe {
        team::Team::start(
            &board.cpus,
            own,
            stacks,
            tables.ttbr(),
            image.secondary_entry,
            ram,
            program.pattern,
        )
    };
    say!("ready cpus={} ram={} pages={pages}", board.cpus.len(), board.memory);
    let memory = board.memory.spans().first().map_or(0, |span| span.start);
    let mark = mark.start;
    program::Run { team, tables, pages, memory, mark, storm, generation: None }.all(&program)
}
