//! Frames from the heap that are packed while nobody looks at them, for tables that no MMU walks.
//!
//! The worst case of a ledger is a table of pages for every block: 8 bytes a page, and little in them. A page's entry
//! says one of few things, and where it leads follows from its neighbours. So a table at rest is a
//! [palette](crate::palette), a tenth of its size or less; one with too many forms stays as it is. What is packed comes
//! back bit by bit, whatever it was, so nobody can tell but by the memory that it takes.
//!
//! # When
//!
//! A table is unpacked when it is looked at, and then stays so: slices of it are borrowed from the frames. It is packed
//! by [`Tables::pack`], for which nothing may be borrowed. A few tables, those that were unpacked last, stay as they
//! are even then, so that operations on one neighbourhood find it ready. Both cost time for what was touched, never for
//! all that there is.
//!
//! A table that points to tables is on the way to many: it is never packed, once it was looked at for that.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell, RefCell};
use core::marker::PhantomData;

use crate::atomic::{Entry, Relaxed};
use crate::descriptor::{TYPE, VALID};
use crate::frames::Frames;
use crate::geometry::Granule;
use crate::palette::Palette;
use crate::tables::Tables;
use crate::tlbi::NoMmu;

/// Tables that stay unpacked. Of 4K as many as a batch of free page reports has blocks: Linux reports 32.
const fn ready<G: Granule>() -> usize {
    if G::SHIFT == 12 { 32 } else { 16 }
}

/// Table frames from the heap, packed while they are at rest. Addresses are slot numbers, as those of
/// [`HeapFrames`](crate::HeapFrames).
#[derive(Debug)]
pub struct PackedFrames<G: Granule> {
    /// By slot number.
    slots: Vec<Slot>,
    /// Free slots. The lowest is taken first, so that the last ones can go.
    free: BTreeSet<u32>,
    in_use: u64,
    /// Slots that may be packed, in the order in which they were unpacked.
    ready: RefCell<VecDeque<u32>>,
    /// Bytes of unpacked tables, and of palettes.
    unpacked: Cell<usize>,
    packed: usize,
    most: Cell<u64>,
    granule: PhantomData<G>,
}

/// One frame. Empty where the slot is free, or part of a larger frame that starts further down.
#[derive(Debug, Default)]
struct Slot {
    /// What it said when it was last packed. Where `table` is there too, that counts.
    packed: Option<Palette>,
    table: OnceCell<Box<[Entry]>>,
}

/// What a piece of the heap takes: allocators put a word before it, and round up.
const fn heap(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { (bytes + 8).next_multiple_of(16) }
}

/// Bytes of a `BTreeSet<u32>` for each element, at most: a leaf of 56 bytes for five, a node of 152 for six leaves.
const SET: usize = 17;

impl<G: Granule> Default for PackedFrames<G> {
    fn default() -> Self {
        Self::new()
    }
}

impl<G: Granule> PackedFrames<G> {
    /// No frames yet.
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            free: BTreeSet::new(),
            in_use: 0,
            ready: RefCell::new(VecDeque::new()),
            unpacked: Cell::new(0),
            packed: 0,
            most: Cell::new(0),
            granule: PhantomData,
        }
    }

    /// Bytes of frames handed out: what they would take unpacked.
    pub const fn in_use(&self) -> u64 {
        self.in_use
    }

    /// Bytes of heap that are held now, everything included.
    pub fn held(&self) -> u64 {
        let slots = heap(self.slots.capacity() * size_of::<Slot>());
        let ready = heap(self.ready.borrow().capacity() * size_of::<u32>());
        (slots + self.free.len() * SET + ready + self.unpacked.get() + self.packed) as u64
    }

    /// The most that [`held`](Self::held) has ever been.
    pub fn most_held(&self) -> u64 {
        self.most.get()
    }

    /// Adds to what is unpacked.
    fn add(&self, bytes: usize) {
        self.unpacked.set(self.unpacked.get() + heap(bytes));
        self.most.set(self.most.get().max(self.held()));
    }

    /// The first of so many free slots that follow on each other, aligned to their number.
    fn slot(&mut self, slots: usize) -> usize {
        if slots == 1
            && let Some(slot) = self.free.pop_first()
        {
            return slot as usize;
        }
        let first = self.slots.len().next_multiple_of(slots);
        let len = first + slots;
        if len > self.slots.capacity() {
            // By an eighth: doubling would make half of the slots count for nothing.
            self.slots.reserve_exact(len + len / 8 + 16 - self.slots.len());
        }
        self.free.extend((self.slots.len()..first).map(|slot| slot as u32));
        self.slots.resize_with(len, Slot::default);
        first
    }

    /// Lets go of the last slots where they are free.
    fn trim(&mut self) {
        while let Some(last) = self.slots.len().checked_sub(1)
            && self.free.remove(&(last as u32))
        {
            self.slots.pop();
        }
        if self.slots.capacity() > 2 * self.slots.len() + 64 {
            self.slots.shrink_to(self.slots.len() + self.slots.len() / 8 + 16);
        }
    }

    /// Packs what was unpacked, but for the last `few`.
    #[inline]
    pub(crate) fn pack(&mut self, few: usize) {
        if self.ready.get_mut().len() > few {
            self.pack_all_but(few);
        }
    }

    #[inline(never)]
    fn pack_all_but(&mut self, few: usize) {
        let ready = self.ready.get_mut();
        while ready.len() > few
            && let Some(slot) = ready.pop_front()
        {
            let slot = &mut self.slots[slot as usize];
            let Some(table) = slot.table.get() else { continue };
            if is_branch(table) {
                continue;
            }
            if let Some(palette) = Palette::of::<G>(table) {
                self.packed += heap(palette.bytes());
                self.packed -= slot.packed.replace(palette).map_or(0, |old| heap(old.bytes()));
                self.unpacked.set(self.unpacked.get() - heap(size_of_val(&**table)));
                slot.table.take();
            }
        }
        // All of RAM may have been looked at.
        ready.shrink_to(128);
    }
}

/// Whether a table points to tables. A page says so, too, if it has no attributes at all: it stays unpacked, no more.
fn is_branch(table: &[Entry]) -> bool {
    table.iter().any(|entry| entry.load(Relaxed) & 0xfff == VALID | TYPE)
}

impl<G: Granule> Frames for PackedFrames<G> {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        if size < G::SIZE || !size.is_power_of_two() {
            return None;
        }
        let entries = usize::try_from(size / 8).ok()?;
        let slots = usize::try_from(size / G::SIZE).ok()?;
        // Slots are counted in 32 bits.
        u32::try_from(self.slots.len().checked_add(2 * slots)?).ok()?;
        let slot = self.slot(slots);
        self.slots[slot].table = OnceCell::from((0..entries).map(|_| Entry::new(0)).collect::<Box<_>>());
        if slots == 1 {
            self.ready.get_mut().push_back(slot as u32);
        }
        self.in_use += size;
        self.add(entries * 8);
        Some((slot as u64) << G::SHIFT)
    }

    fn free(&mut self, frame: u64, size: u64) {
        let first = (frame >> G::SHIFT) as usize;
        let slot = core::mem::take(&mut self.slots[first]);
        if let Some(palette) = slot.packed {
            self.packed -= heap(palette.bytes());
        }
        if let Some(table) = slot.table.get() {
            self.unpacked.set(self.unpacked.get() - heap(size_of_val(&**table)));
            // What goes was mostly looked at last.
            let ready = self.ready.get_mut();
            if let Some(at) = ready.iter().rposition(|&slot| slot as usize == first) {
                ready.remove(at);
            }
        }
        self.free.extend((first..first + (size >> G::SHIFT) as usize).map(|slot| slot as u32));
        self.trim();
        self.in_use -= size;
    }

    #[inline]
    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        let slot = (frame >> G::SHIFT) as usize;
        let table = match self.slots[slot].table.get() {
            Some(table) => table,
            None => self.unpack(slot),
        };
        &table[..entries]
    }
}

impl<G: Granule> PackedFrames<G> {
    /// Unpacks the table of a slot that has one, packed.
    #[cold]
    #[inline(never)]
    fn unpack(&self, index: usize) -> &[Entry] {
        let slot = &self.slots[index];
        slot.table.get_or_init(|| {
            let palette = slot.packed.as_ref().expect("a frame that is in use is there, packed or not");
            self.ready.borrow_mut().push_back(index as u32);
            self.add(size_of::<Entry>() * G::ENTRIES);
            palette.table::<G>()
        })
    }
}

impl<G: Granule> Tables<G, PackedFrames<G>, NoMmu> {
    /// Packs the tables that were looked at since the last time, but for a few: see [`PackedFrames`]. To be called
    /// after each operation, or a few of them; it costs next to nothing where few tables were touched.
    #[inline]
    pub fn pack(&mut self) {
        self.frames.pack(ready::<G>());
    }
}
