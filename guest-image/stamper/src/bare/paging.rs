//! The stage-1 tables: everything at its own address; code executable and read-only, constants
//! read-only, memory write-back, registers as device memory. What is not asked for is not mapped.

#![expect(unsafe_code, reason = "switches to the tables")]

use core::mem::MaybeUninit;

use aarch64_cpu::registers::{Readable, TTBR0_EL1};
use aarch64_paging::Mapping;
use aarch64_paging::descriptor::{El1Attributes, PhysicalAddress};
use aarch64_paging::paging::{Constraints, El1And0, MemoryRegion, VaRange};
use board::console;
use board::frames::Frames;
use board::ram::Span;

use crate::bare::Image;

/// One translation table.
pub type Frame = board::frames::Frame<El1Attributes>;

/// 48 bits of address.
const ROOT_LEVEL: usize = 0;
/// The boot tables run under 0: no entry of theirs can meet one of these in a TLB, though they
/// map the same memory in blocks of another size.
const ASID: usize = 1;

/// The attribute indices are those of the MAIR that the entry code sets: 0 device, 1 write-back.
const MAPPED: El1Attributes =
    El1Attributes::VALID.union(El1Attributes::ACCESSED).union(El1Attributes::NON_GLOBAL);
const MEMORY: El1Attributes =
    MAPPED.union(El1Attributes::ATTRIBUTE_INDEX_1).union(El1Attributes::INNER_SHAREABLE);
const NEVER: El1Attributes = El1Attributes::UXN.union(El1Attributes::PXN);
const CODE: El1Attributes = MEMORY.union(El1Attributes::READ_ONLY).union(El1Attributes::UXN);
const CONSTANTS: El1Attributes = MEMORY.union(El1Attributes::READ_ONLY).union(NEVER);
const DATA: El1Attributes = MEMORY.union(NEVER);
const DEVICE: El1Attributes = MAPPED.union(El1Attributes::ATTRIBUTE_INDEX_0).union(NEVER);

/// The tables of all CPUs.
#[derive(Debug)]
pub struct Stage1(Mapping<Frames<El1Attributes>, El1And0>);

impl Stage1 {
    /// Empty tables that grow into `frames`.
    pub fn new(frames: &'static mut [MaybeUninit<Frame>]) -> Self {
        Self(Mapping::with_asid_and_va_range(Frames::new(frames), ASID, ROOT_LEVEL, El1And0, VaRange::Lower))
    }

    /// Maps the image, each part as it is used.
    pub fn map_image(&mut self, image: &Image) {
        self.map(Span { start: image.start, end: image.text_end }, CODE);
        self.map(Span { start: image.text_end, end: image.rodata_end }, CONSTANTS);
        self.map(Span { start: image.rodata_end, end: image.end }, DATA);
    }

    /// Maps memory to read and write. Whole pages.
    pub fn map_data(&mut self, span: Span) {
        self.map(span, DATA);
    }

    /// Maps memory to execute. Whole pages.
    pub fn map_code(&mut self, span: Span) {
        self.map(span, CODE);
    }

    /// Maps registers. Whole pages.
    pub fn map_device(&mut self, span: Span) {
        self.map(span, DEVICE);
    }

    fn map(&mut self, span: Span, attributes: El1Attributes) {
        let region = MemoryRegion::new(span.start as usize, span.end as usize);
        let address = PhysicalAddress(span.start as usize);
        if let Err(error) = self.0.map_range(&region, address, attributes, Constraints::empty()) {
            console::fail(format_args!("can't map {span}: {error}"));
        }
    }

    /// Uses the tables on this CPU, for good.
    ///
    /// # Safety
    ///
    /// What runs, and all that it uses, is mapped.
    pub unsafe fn activate(&mut self) {
        // SAFETY: the caller vouches for what is mapped; the tables are never dropped while a CPU
        // runs, as nothing returns from `run`.
        unsafe { self.0.activate() };
    }

    /// TTBR0_EL1 of a CPU that uses the tables, to be read once they are active.
    pub fn ttbr(&self) -> u64 {
        TTBR0_EL1.get()
    }
}
