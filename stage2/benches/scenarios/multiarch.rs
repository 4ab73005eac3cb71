//! page_table_multiarch, told about stage 2: it is generic over the descriptor and the number of levels.
#![expect(unsafe_code, reason = "its frames are raw memory")]

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;

use memory_addr::{PhysAddr, VirtAddr};
use page_table_entry::{GenericPTE, MappingFlags};
use page_table_multiarch::{PageTable64, PagingHandler, PagingMetaData};

use super::{GIB, KIB, MIB, Scenario, TIB, Work};

/// Three levels of 4K tables: 39 bits.
struct Stage2;

impl PagingMetaData for Stage2 {
    const LEVELS: usize = 3;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 39;
    type VirtAddr = VirtAddr;

    fn flush_tlb(_: Option<VirtAddr>) {}
}

/// The same with a fourth, for a whole TiB.
struct Stage2Large;

impl PagingMetaData for Stage2Large {
    const LEVELS: usize = 4;
    const PA_MAX_BITS: usize = 48;
    const VA_MAX_BITS: usize = 48;
    type VirtAddr = VirtAddr;

    fn flush_tlb(_: Option<VirtAddr>) {}
}

/// A stage-2 descriptor with as little as will do.
#[derive(Clone, Copy, Debug)]
struct Entry(u64);

const ADDRESS: u64 = ((1 << 48) - 1) & !0xfff;
/// Write-Back, Inner Shareable, AF, readable.
const RAM: u64 = 0b1111 << 2 | 1 << 6 | 0b11 << 8 | 1 << 10;
const WRITE: u64 = 1 << 7;

impl GenericPTE for Entry {
    fn new_page(paddr: PhysAddr, flags: MappingFlags, is_huge: bool) -> Self {
        let mut entry = Self(paddr.as_usize() as u64 & ADDRESS);
        entry.set_flags(flags, is_huge);
        entry
    }

    fn new_table(paddr: PhysAddr) -> Self {
        Self(paddr.as_usize() as u64 & ADDRESS | 0b11)
    }

    fn paddr(&self) -> PhysAddr {
        PhysAddr::from_usize((self.0 & ADDRESS) as usize)
    }

    fn flags(&self) -> MappingFlags {
        let write = if self.0 & WRITE != 0 { MappingFlags::WRITE } else { MappingFlags::empty() };
        MappingFlags::READ | write
    }

    fn set_paddr(&mut self, paddr: PhysAddr) {
        self.0 = self.0 & !ADDRESS | paddr.as_usize() as u64 & ADDRESS;
    }

    fn set_flags(&mut self, flags: MappingFlags, is_huge: bool) {
        let write = if flags.contains(MappingFlags::WRITE) { WRITE } else { 0 };
        self.0 = self.0 & ADDRESS | RAM | write | if is_huge { 0b01 } else { 0b11 };
    }

    fn bits(self) -> usize {
        self.0 as usize
    }

    fn is_unused(&self) -> bool {
        self.0 == 0
    }

    fn is_present(&self) -> bool {
        self.0 & 1 != 0
    }

    fn is_huge(&self) -> bool {
        self.0 & 0b11 == 0b01
    }

    fn clear(&mut self) {
        self.0 = 0;
    }
}

thread_local! {
    static IN_USE: Cell<u64> = const { Cell::new(0) };
}

struct Heap;

impl PagingHandler for Heap {
    fn alloc_frames(num: usize, align: usize) -> Option<PhysAddr> {
        IN_USE.set(IN_USE.get() + 4 * KIB * num as u64);
        let layout = Layout::from_size_align(4096 * num, align).ok()?;
        // SAFETY: the size is not zero: `num` is at least 1.
        let memory = unsafe { alloc(layout) };
        (!memory.is_null()).then(|| PhysAddr::from_usize(memory as usize))
    }

    fn dealloc_frames(paddr: PhysAddr, num: usize) {
        IN_USE.set(IN_USE.get() - 4 * KIB * num as u64);
        let layout = Layout::from_size_align(4096 * num, 4096).expect("4096 is a power of two");
        // SAFETY: the crate frees what it allocated above, as many and aligned alike (it only asks for single
        // frames), and once.
        unsafe { dealloc(paddr.as_usize() as *mut u8, layout) };
    }

    fn phys_to_virt(paddr: PhysAddr) -> VirtAddr {
        VirtAddr::from_usize(paddr.as_usize())
    }
}

type Of<M> = PageTable64<M, Entry, Heap>;

fn empty<M: PagingMetaData>() -> Of<M> {
    Of::try_new().expect("the heap has frames")
}

fn map<M: PagingMetaData<VirtAddr = VirtAddr>>(
    table: &mut Of<M>,
    ipa: u64,
    bytes: u64,
    offset: usize,
    huge: bool,
) {
    let flags = MappingFlags::READ | MappingFlags::WRITE;
    table
        .cursor()
        .map_region(
            VirtAddr::from_usize(ipa as usize),
            |address| PhysAddr::from_usize(address.as_usize() + offset),
            bytes as usize,
            flags,
            huge,
        )
        .expect("nothing is in the way");
}

fn map_and_unmap(offset: usize, huge: bool) -> Work {
    let mut table = empty::<Stage2>();
    Box::new(move || {
        map(&mut table, 0, GIB, offset, huge);
        table.cursor().unmap_region(VirtAddr::from_usize(0), GIB as usize).expect("all of it is mapped");
        Box::new(table)
    })
}

fn map_pages() -> Work {
    let mut table = empty::<Stage2>();
    Box::new(move || {
        map(&mut table, 0, GIB, 0, false);
        Box::new(table)
    })
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |name, entries, prepare| Scenario { name, entries, prepare };
    vec![
        scenario("map+unmap/pages/page_table_multiarch", GIB / (4 * KIB), || map_and_unmap(0, false)),
        // An output that is aligned to 2M but not to 1G.
        scenario("map+unmap/blocks/page_table_multiarch", GIB / (2 * MIB), || {
            map_and_unmap(2 * MIB as usize, true)
        }),
        scenario("map/pages/page_table_multiarch", GIB / (4 * KIB), map_pages),
    ]
}

/// Frames that are in use while `make`'s table lives.
fn bytes<T>(make: impl FnOnce() -> T) -> u64 {
    let before = IN_USE.get();
    let table = make();
    let bytes = IN_USE.get() - before;
    drop(table);
    bytes
}

pub(super) fn frames() -> Vec<(&'static str, u64)> {
    let guest = || {
        let mut table = empty::<Stage2Large>();
        map(&mut table, GIB, 4 * GIB, 0, true);
        table
    };
    let large = || {
        let mut table = empty::<Stage2Large>();
        map(&mut table, 0, TIB, 0, true);
        table
    };
    vec![
        ("pristine 4 GiB/page_table_multiarch", bytes(guest)),
        ("1 TiB of 1G blocks/page_table_multiarch", bytes(large)),
    ]
}
