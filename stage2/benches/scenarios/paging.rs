//! aarch64-paging: its stage-2 regime, 4K granule, tables that are not active (it then does no invalidation).

use aarch64_paging::descriptor::{PhysicalAddress, Stage2Attributes};
use aarch64_paging::linearmap::LinearTranslation;
use aarch64_paging::paging::{Constraints, MemoryRegion, RootTable, Stage2};

use super::{GIB, KIB, MIB, Scenario, TIB, Work};

type Root = RootTable<Stage2, LinearTranslation<Stage2Attributes>>;

/// Level 1, 39 bits. Tables are found at their own address.
fn empty(level: usize) -> Root {
    RootTable::new(LinearTranslation::new(0), level, Stage2)
}

/// RAM: Write-Back, Inner Shareable, readable and writable.
fn ram() -> Stage2Attributes {
    Stage2Attributes::VALID
        | Stage2Attributes::MEMATTR_NORMAL_OUTER_WB
        | Stage2Attributes::MEMATTR_NORMAL_INNER_WB
        | Stage2Attributes::S2AP_ACCESS_RW
        | Stage2Attributes::SH_INNER
        | Stage2Attributes::ACCESS_FLAG
}

fn map(root: &mut Root, bytes: u64, constraints: Constraints) {
    map_at(root, 0, bytes, 0, constraints);
}

fn map_at(root: &mut Root, ipa: u64, bytes: u64, oa: usize, constraints: Constraints) {
    let region = MemoryRegion::new(ipa as usize, (ipa + bytes) as usize);
    root.map_range(&region, PhysicalAddress(oa), ram(), constraints).expect("the region is good");
}

fn unmap(root: &mut Root, constraints: Constraints) {
    let region = MemoryRegion::new(0, GIB as usize);
    root.map_range(&region, PhysicalAddress(0), Stage2Attributes::empty(), constraints)
        .expect("the region is good");
}

fn pages() -> Constraints {
    Constraints::NO_BLOCK_MAPPINGS | Constraints::NO_CONTIGUOUS_HINT
}

fn map_and_unmap_pages() -> Work {
    let mut root = empty(1);
    Box::new(move || {
        map(&mut root, GIB, pages());
        unmap(&mut root, pages());
        Box::new(root.to_physical())
    })
}

/// It has no way to forbid 1G blocks and allow 2M ones: one page beside a gigabyte of 2M-aligned memory
/// does it.
fn map_and_unmap_blocks() -> Work {
    let mut root = empty(1);
    Box::new(move || {
        map_at(&mut root, 0, GIB, 2 * MIB as usize, Constraints::NO_CONTIGUOUS_HINT);
        unmap(&mut root, Constraints::empty());
        Box::new(root.to_physical())
    })
}

fn map_pages() -> Work {
    let mut root = empty(1);
    Box::new(move || {
        map(&mut root, GIB, pages());
        Box::new(root)
    })
}

pub(super) fn scenarios() -> Vec<Scenario> {
    let scenario = |name, entries, prepare| Scenario { name, entries, prepare };
    vec![
        scenario("map+unmap/pages/aarch64-paging", GIB / (4 * KIB), map_and_unmap_pages),
        scenario("map+unmap/blocks/aarch64-paging", GIB / (2 * MIB), map_and_unmap_blocks),
        scenario("map/pages/aarch64-paging", GIB / (4 * KIB), map_pages),
    ]
}

/// Tables below an entry, counted from what its walk reports.
fn bytes(root: &Root, size: u64) -> u64 {
    let mut tables = std::collections::BTreeSet::from([(0, 0)]);
    let region = MemoryRegion::new(0, size as usize);
    root.walk_range(&region, &mut |range, _, level| {
        for above in 1..=level {
            // A table of `above` stands for one entry of the level before it.
            let shift = 12 + 9 * (4 - above);
            tables.insert((above, range.start().0 >> shift));
        }
        Ok(())
    })
    .expect("the region is good");
    tables.len() as u64 * 4 * KIB
}

pub(super) fn frames() -> Vec<(&'static str, u64)> {
    let mut guest = empty(0);
    map_at(&mut guest, GIB, 4 * GIB, 0, Constraints::empty());
    let mut large = empty(0);
    map(&mut large, TIB, Constraints::empty());
    vec![
        ("pristine 4 GiB/aarch64-paging", bytes(&guest, TIB)),
        ("1 TiB of 1G blocks/aarch64-paging", bytes(&large, TIB)),
    ]
}
