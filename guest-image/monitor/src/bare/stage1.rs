//! The monitor's own stage 1: everything at its own address; code executable and read-only, constants read-only,
//! memory write-back, registers as device memory.

#![expect(unsafe_code, reason = "frames of two kinds share their memory")]

use core::mem::MaybeUninit;
use core::slice;

use crate::bare::Image;
use aarch64_cpu::registers::{HCR_EL2, Readable};
use aarch64_paging::descriptor::{El1Attributes, El23Attributes, PagingAttributes, PhysicalAddress};
use aarch64_paging::paging::{
    Constraints, El1And0, El2, El2And0, MemoryRegion, RootTable, TranslationRegime, VaRange,
};
use board::console;
use board::frames::{Frame, Frames};
use board::ram::{Ram, Span};

/// A page for a table of either regime.
pub type RawFrame = Frame<El1Attributes>;

/// 48 bits of address.
const ROOT_LEVEL: usize = 0;
/// `HCR_EL2.E2H`.
const E2H: u64 = 1 << 34;

/// Whether EL2 is that of FEAT_VHE: `HCR_EL2.E2H` = 1.
pub fn vhe() -> bool {
    HCR_EL2.get() & E2H != 0
}

/// The attributes of each kind of memory. Indices are those of the MAIR that the entry code sets: 0 device,
/// 1 write-back.
struct Kinds<A> {
    code: A,
    constants: A,
    data: A,
    device: A,
}

/// Those of a regime that has EL0 too.
fn host_kinds() -> Kinds<El1Attributes> {
    type A = El1Attributes;
    let mapped = A::VALID | A::ACCESSED;
    let memory = mapped | A::ATTRIBUTE_INDEX_1 | A::INNER_SHAREABLE;
    let never = A::UXN | A::PXN;
    Kinds {
        code: memory | A::READ_ONLY | A::UXN,
        constants: memory | A::READ_ONLY | never,
        data: memory | never,
        device: mapped | A::ATTRIBUTE_INDEX_0 | never,
    }
}

/// Those of EL2 alone.
fn plain_kinds() -> Kinds<El23Attributes> {
    type A = El23Attributes;
    let mapped = A::VALID | A::ACCESSED | A::USER_RES1;
    let memory = mapped | A::ATTRIBUTE_INDEX_1 | A::INNER_SHAREABLE;
    Kinds {
        code: memory | A::READ_ONLY,
        constants: memory | A::READ_ONLY | A::XN,
        data: memory | A::XN,
        device: mapped | A::ATTRIBUTE_INDEX_0 | A::XN,
    }
}

/// Builds the tables of the regime that is in force at this exception level, for good; returns the address of
/// their root.
pub fn build(
    level: u64,
    frames: &'static mut [MaybeUninit<RawFrame>],
    image: &Image,
    tree: Span,
    memory: &Ram,
    device: Option<Span>,
) -> u64 {
    let parts = Parts { image, tree, memory, device };
    if level == 1 {
        let table = RootTable::with_va_range(Frames::new(frames), ROOT_LEVEL, El1And0, VaRange::Lower);
        return parts.fill(table, &host_kinds());
    }
    if vhe() {
        let table = RootTable::with_va_range(Frames::new(frames), ROOT_LEVEL, El2And0, VaRange::Lower);
        return parts.fill(table, &host_kinds());
    }
    let (first, count) = (frames.as_mut_ptr().cast(), frames.len());
    // SAFETY: both kinds of frames are 512 descriptors on a page of their own, and these are uninitialised.
    let frames = unsafe { slice::from_raw_parts_mut(first, count) };
    parts.fill(RootTable::new(Frames::new(frames), ROOT_LEVEL, El2), &plain_kinds())
}

struct Parts<'a> {
    image: &'a Image,
    tree: Span,
    memory: &'a Ram,
    device: Option<Span>,
}

impl Parts<'_> {
    fn fill<R, A>(&self, mut table: RootTable<R, Frames<A>>, kinds: &Kinds<A>) -> u64
    where
        R: TranslationRegime<Attributes = A>,
        A: PagingAttributes + Copy + 'static,
    {
        let image = self.image;
        let mut map = |span: Span, attributes: A| {
            let region = MemoryRegion::new(span.start as usize, span.end as usize);
            let address = PhysicalAddress(span.start as usize);
            if let Err(error) = table.map_range(&region, address, attributes, Constraints::empty()) {
                console::fail(format_args!("can't map {span}: {error}"));
            }
        };
        for &span in self.memory.spans() {
            map(span.inner_pages(), kinds.data);
        }
        map(self.tree, kinds.data);
        map(Span { start: image.start, end: image.text_end }, kinds.code);
        map(Span { start: image.text_end, end: image.rodata_end }, kinds.constants);
        map(Span { start: image.rodata_end, end: image.end }, kinds.data);
        if let Some(span) = self.device {
            map(span, kinds.device);
        }
        let root = table.to_physical().0 as u64;
        // For good: dropping it would give its frames back.
        core::mem::forget(table);
        root
    }
}
