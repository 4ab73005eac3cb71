//! Cases: the situations that any table code with contiguous groups must survive, each under the hardware model.
//!
//! | case | what must hold | here, with the TLB | beside the code (`src/must_pass_tests.rs`) |
//! |---|---|---|---|
//! | 1 | a stale target is written though a sibling is young or dirty | `case_01_…` | `case_01_…` |
//! | 2 | Contiguous never stands on an invalid entry | `case_02_…`, every survey | `case_02_…` |
//! | 3 | a batch ends with its table and its mapping | `case_03_…` | `case_03_…` |
//! | 4 | a length is clamped to the request | `case_04_…` | `case_04_…` |
//! | 5 | a failing batch grants nothing | `case_05_…`, `properties` (short of frames) | `case_05_…` |
//! | 6 | clearing a group whose first entry is absent | not reachable from outside | `case_06_…` |
//! | 7 | unmapping a dirty block says so | `case_07_…` | `case_07_…` |
//! | 8 | ageing and protection are atomic against hardware | `case_08_…`; `tests/loom.rs`, `tests/threads.rs` | |
//! | 9 | granting write dirties nothing | `case_09_…` | `case_09_…` |
//! | 10 | nobody goes on before a deferred invalidation is complete | `case_10_…` | `a_second_actor_waits_…` |
//! | 11 | an unlinked table needs more than its leaves | `case_11_…` | `case_11_…` |
//! | 12 | a hint that isn't sure is "unknown" | `case_12_…` | `case_12_…` |
//! | 13 | no walk descends into a freed table | `case_13_…` | `case_13_…` |
//! | 14 | no conversion loses dirty while it is tracked | `case_14_…` | |
//! | 15 | ranges that straddle groups | `case_15_…` | `case_15_…` |
//! | 16 | one member is dirty, or young, or both in different ones | `case_16_…` | `case_16_…` |
//! | 17 | what may not be folded | `case_17_…` | `case_17_…` |
//! | 18 | no group crosses the input size | `case_18_…` | `case_18_…` |
//! | 19 | a group is aligned in its output too | `case_19_…` | `case_19_…` |
//! | 20 | a hardware writer against every operation | `case_20_…`; `tests/loom.rs`, `tests/threads.rs` | |
//! | 21 | stage-2 invalidations, then VMALLE1; never an empty one | `case_21_…`, every sequence | `case_21_…` |

use std::ops::Range;

use stage2::{
    Access as Kind, Attributes, BbmLevel, Existing, G4K, G16K, G64K, Granule, HardwareUpdate, Instruction,
    Level, Marker, Marks, Merge, Protection, Unresolved,
};

use crate::geometry::Geometry;
use crate::hardware::{Access, Outcome, Temper};
use crate::rig::Rig;
use crate::violation::Violation;
use crate::word::{AF, CONTIGUOUS, WRITE};

const PAGE: u64 = 1 << 12;
const GROUP: Range<u64> = 0..16 * PAGE;
const BLOCK: Range<u64> = 0..512 * PAGE;
const OA: u64 = 1 << 32;
const READ_ONLY: Protection = Protection { read: None, write: Some(false), execute: None };
const WRITABLE: Protection = Protection { read: None, write: Some(true), execute: None };

const BBM: [BbmLevel; 4] = [BbmLevel::Level0, BbmLevel::Level1, BbmLevel::Level2, BbmLevel::Level3];

/// A rig on which `range` is mapped, clean, and cached as a whole.
fn mapped(geometry: Geometry, range: Range<u64>) -> Result<Rig<G4K>, Violation> {
    let mut rig = Rig::new(&geometry, 16, Temper::Sticky, 1)?;
    let step = (range.end - range.start) / 16;
    rig.heat((range.start..range.end).step_by(step.max(PAGE) as usize));
    assert!(rig.map(range.clone(), OA, &Attributes::RAM, Existing::Refuse)?);
    rig.guest(range.start, Access::Read)?;
    Ok(rig)
}

#[test]
fn case_01_the_fault_of_a_stale_member_is_resolved_though_its_siblings_are_marked() -> Result<(), Violation> {
    for access in [Access::Read, Access::Write] {
        let geometry = Geometry { update: HardwareUpdate::None, ..Geometry::plain(32) };
        let mut rig = mapped(geometry, GROUP)?;
        rig.guest(0, Access::Write)?;
        // As a processor that manages its flags might have left the group.
        rig.hardware.edit(7 * PAGE, |word| word & !AF);
        assert!(rig.guest(7 * PAGE, access)?);
        rig.finish()?;
    }
    Ok(())
}

#[test]
fn case_02_markers_never_have_contiguous() -> Result<(), Violation> {
    for marker in Marker::ALL {
        let mut rig = mapped(Geometry::plain(32), 0..64 * PAGE)?;
        rig.get_and_clear(16 * PAGE..35 * PAGE, Some(marker), false)?;
        for page in 16..35 {
            assert_eq!(rig.hardware.word(page * PAGE)? & (CONTIGUOUS | 1), 0);
        }
        rig.finish()?;
    }
    Ok(())
}

#[test]
fn case_03_a_batch_ends_with_its_table() -> Result<(), Violation> {
    // The last pages of one table and the first of the next, mapped unevenly, so that nothing is a block.
    let mut rig = Rig::<G4K>::new(&Geometry::plain(32), 16, Temper::Sticky, 1)?;
    let edge = BLOCK.end;
    rig.heat([edge - PAGE, edge, edge - 17 * PAGE, edge + 16 * PAGE]);
    rig.map(edge - 20 * PAGE..edge + 20 * PAGE, OA + edge, &Attributes::RAM, Existing::Refuse)?;
    let harvest = rig.get_and_clear(edge - 18 * PAGE..edge + 18 * PAGE, None, false)?;
    assert_eq!(harvest.map(|harvest| harvest.entries), Some(36));
    rig.finish()
}

#[test]
fn case_04_a_larger_leaf_is_clamped_to_the_request() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), 0..BLOCK.end * 16)?;
    let harvest = rig.get_and_clear(5 * PAGE..7 * PAGE, None, false)?;
    assert_eq!(harvest.map(|harvest| harvest.bytes), Some(2 * PAGE));
    rig.finish()
}

#[test]
fn case_05_a_batch_that_fails_grants_nothing() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), BLOCK)?;
    rig.protect(BLOCK, READ_ONLY)?;
    rig.hardware.arena.set_budget(0);
    assert!(!rig.protect(PAGE..2 * PAGE, WRITABLE)?);
    rig.hardware.arena.set_budget(u64::MAX);
    assert!(!rig.guest(PAGE, Access::Write)?);
    rig.finish()
}

#[test]
fn case_07_unmapping_a_dirty_block_returns_dirty() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), BLOCK)?;
    rig.guest(300 * PAGE, Access::Write)?;
    assert!(
        rig.get_and_clear(BLOCK, None, false)?.is_some_and(|harvest| harvest.dirty && harvest.entries == 1)
    );
    rig.finish()
}

/// What ageing and protection do to pages, groups and blocks, with hardware at work at every moment.
#[test]
fn case_08_ageing_and_protection_are_atomic_against_hardware() -> Result<(), Violation> {
    let ranges = [0..PAGE, GROUP, BLOCK, 0..BLOCK.end * 16];
    for seed in 0..24 {
        for (range, bbm) in ranges.iter().zip(BBM) {
            let geometry = Geometry { bbm, ..Geometry::plain(32) };
            let mut rig = Rig::<G4K>::new(&geometry, 16, Temper::Random, seed)?;
            rig.heat([range.start, range.end - PAGE]);
            rig.map(range.clone(), OA, &Attributes::RAM, Existing::Refuse)?;
            rig.hardware.busy.set(true);
            for _ in 0..3 {
                rig.age(range.clone())?;
                rig.protect(range.clone(), READ_ONLY)?;
                rig.collect_dirty(range.clone())?;
                rig.flush()?;
                rig.protect(range.clone(), WRITABLE)?;
                rig.mark(range.start..range.start + PAGE, Marks { young: true, dirty: false })?;
                rig.write_protect(range.clone())?;
                rig.age(range.clone())?;
                rig.protect(range.clone(), WRITABLE)?;
                rig.guest(range.end - PAGE, Access::Write)?;
            }
            rig.finish()?;
        }
    }
    Ok(())
}

#[test]
fn case_09_granting_write_dirties_nothing() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), GROUP)?;
    rig.protect(GROUP, READ_ONLY)?;
    rig.protect(GROUP, WRITABLE)?;
    assert_eq!(rig.hardware.word(0)? & WRITE, 0);
    assert!(rig.survey.dirty.first().is_none());
    assert!(rig.guest(0, Access::Write)?);
    rig.finish()
}

/// The first actor has cleared the entry and put its invalidation off; the second finds it cleared.
#[test]
fn case_10_a_second_actor_waits_for_a_deferred_invalidation() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), GROUP)?;
    rig.guest(3 * PAGE, Access::Write)?;
    rig.get_and_clear(GROUP, None, false)?;
    // Processors still go through what they cached, and the crate says that they may.
    assert_eq!(rig.hardware.access(3 * PAGE, Access::Read)?, Outcome::Done { oa: OA + 3 * PAGE });
    let mut gather = rig.tables.gather();
    let fault = rig.tables.set_access_flags(3 * PAGE, Kind::Write, &mut gather);
    assert_eq!(fault, Err(Unresolved::Unmapped { marker: None, pending: true }));
    // Mapping it anew completes the invalidation first: no processor ever sees both translations.
    let before = rig.hardware.issued.borrow().len();
    rig.map(3 * PAGE..4 * PAGE, 2 * OA, &Attributes::RAM, Existing::Refuse)?;
    assert!(rig.hardware.issued.borrow()[before..].contains(&Instruction::Vmalle1is));
    assert!(rig.guest(3 * PAGE, Access::Write)?);
    // What was flushed on the way isn't owed any more.
    let fault = rig.tables.set_access_flags(4 * PAGE, Kind::Write, &mut gather);
    assert_eq!(fault, Err(Unresolved::Unmapped { marker: None, pending: false }));
    rig.finish()
}

#[test]
fn case_11_pointers_to_an_unlinked_table_are_invalidated() -> Result<(), Violation> {
    for range in [false, true] {
        let geometry = Geometry { range, ..Geometry::plain(32) };
        let mut rig = mapped(geometry, GROUP)?;
        rig.get_and_clear(BLOCK, Some(Marker::Vacant), false)?;
        rig.flush()?;
        let issued = rig.hardware.issued.borrow().clone();
        let leaf_only =
            |i: &Instruction| matches!(i, Instruction::Ipas2le1is(_) | Instruction::Ripas2le1is(_));
        assert!(!issued.iter().any(leaf_only), "{issued:x?}");
        rig.finish()?;
    }
    Ok(())
}

/// Markers alone make a table, and unmake it: a processor may remember a pointer to it all the same.
#[test]
fn case_11_a_table_of_markers_is_invalidated_when_it_goes() -> Result<(), Violation> {
    let mut rig = mapped(Geometry::plain(32), 2 * BLOCK.end..2 * BLOCK.end + PAGE)?;
    rig.heat([0, PAGE, 5 * PAGE]);
    for _ in 0..3 {
        assert!(rig.remark(PAGE..2 * PAGE, |_| Some(Marker::Released))?);
        rig.meddle(|_| {})?;
        assert!(rig.remark(PAGE..2 * PAGE, |_| None)?);
        rig.flush()?;
    }
    rig.finish()
}

#[test]
fn case_12_a_hint_is_given_only_where_it_is_sure() -> Result<(), Violation> {
    for range in [false, true] {
        let geometry = Geometry { range, ..Geometry::plain(32) };
        // A block, and pages beside it: the invalidation of both has no one level.
        let mut rig = mapped(geometry, BLOCK)?;
        rig.map(BLOCK.end..BLOCK.end + 3 * PAGE, OA + BLOCK.end, &Attributes::RAM, Existing::Refuse)?;
        rig.guest(BLOCK.end + PAGE, Access::Write)?;
        rig.get_and_clear(0..BLOCK.end + 2 * PAGE, None, false)?;
        rig.finish()?;
    }
    Ok(())
}

/// A table is freed and its frame used again at once, while processors remember pointers.
#[test]
fn case_13_no_walk_descends_into_a_freed_table() -> Result<(), Violation> {
    for bbm in BBM {
        let geometry = Geometry { bbm, ..Geometry::plain(32) };
        let mut rig = mapped(geometry, BLOCK)?;
        for _ in 0..3 {
            rig.split(BLOCK, Level::L3)?;
            rig.guest(7 * PAGE, Access::Write)?;
            assert!(rig.collapse(0, Level::L2, Merge::Union)?);
            rig.flush()?;
            // The frame just freed becomes the table of other addresses.
            rig.map(BLOCK.end..BLOCK.end + PAGE, OA, &Attributes::RAM, Existing::Refuse)?;
            rig.guest(BLOCK.end, Access::Read)?;
            rig.get_and_clear(BLOCK.end..2 * BLOCK.end, None, false)?;
            rig.flush()?;
        }
        rig.finish()?;
    }
    Ok(())
}

/// Pre-copy in small: hardware writes at every moment, blocks come apart and are joined again, and each round
/// collects.
#[test]
fn case_14_no_conversion_loses_dirty_while_it_is_tracked() -> Result<(), Violation> {
    for bbm in BBM {
        for merge in [Merge::Union, Merge::Harvest, Merge::Uniform] {
            for seed in 0..8 {
                let geometry = Geometry { bbm, ..Geometry::plain(32) };
                let mut rig = Rig::<G4K>::new(&geometry, 24, Temper::Random, seed)?;
                let range = 0..BLOCK.end * 16;
                rig.heat([0, 5 * PAGE, 20 * PAGE, BLOCK.end, BLOCK.end + PAGE, range.end - PAGE]);
                rig.map(range.clone(), OA, &Attributes::RAM, Existing::Refuse)?;
                rig.hardware.busy.set(true);
                for _ in 0..2 {
                    rig.split(0..2 * BLOCK.end, Level::L3)?;
                    rig.unfold(GROUP)?;
                    rig.collect_dirty(range.clone())?;
                    rig.flush()?;
                    rig.fold(0, Level::L3, merge)?;
                    rig.collapse(0, Level::L2, merge)?;
                    rig.optimise(range.clone(), merge)?;
                    rig.collect_dirty(range.clone())?;
                }
                rig.finish()?;
            }
        }
    }
    Ok(())
}

/// Once lost: a table of groups collapses with its dirty state harvested. Hardware has marked one member of the
/// group for the page that was written, which is another.
#[test]
fn collapsing_groups_hands_each_out_whole() -> Result<(), Violation> {
    for page in 0..16 {
        let mut rig = mapped(Geometry::plain(32), BLOCK)?;
        rig.split(BLOCK, Level::L3)?;
        rig.guest(page * PAGE, Access::Read)?;
        rig.guest(page * PAGE, Access::Write)?;
        assert!(rig.collapse(0, Level::L2, Merge::Harvest)?);
        rig.finish()?;
    }
    Ok(())
}

/// Once wrong: without hardware dirty state S2AP\[1\] is a permission. Members that gain it while they are folded
/// in place gain it before the invalidation, or a processor keeps a read-only view of them for good.
#[test]
fn folding_in_place_leaves_no_read_only_view_behind() -> Result<(), Violation> {
    for bbm in BBM {
        for update in [HardwareUpdate::None, HardwareUpdate::AccessFlag] {
            let mut rig = mapped(Geometry { bbm, update, ..Geometry::plain(32) }, GROUP)?;
            rig.unfold(GROUP)?;
            rig.guest(PAGE, Access::Write)?;
            assert!(rig.fold(0, Level::L3, Merge::Union)?);
            assert!(rig.guest(0, Access::Write)?);
            rig.finish()?;
        }
    }
    Ok(())
}

/// Every operation on every range that starts or ends in, at or beside a group.
#[test]
fn case_15_ranges_that_straddle_groups() -> Result<(), Violation> {
    let borders = [1, 15, 16, 17, 24, 31, 32, 33];
    for (&from, &to) in borders.iter().flat_map(|from| borders.iter().map(move |to| (from, to))) {
        if from >= to {
            continue;
        }
        let range = from * PAGE..to * PAGE;
        for operation in 0..5 {
            let mut rig = mapped(Geometry::plain(32), 0..48 * PAGE)?;
            rig.guest(20 * PAGE, Access::Write)?;
            match operation {
                0 => drop(rig.get_and_clear(range.clone(), Some(Marker::Released), false)?),
                1 => drop(rig.write_protect(range.clone())?),
                2 => drop(rig.collect_dirty(range.clone())?),
                3 => drop(rig.age(range.clone())?),
                _ => drop(rig.unfold(range.clone())?),
            }
            rig.finish()?;
        }
    }
    Ok(())
}

#[test]
fn case_16_marks_on_any_member_are_the_groups() -> Result<(), Violation> {
    for (written, read) in (0..16).flat_map(|written| [(written, written), (written, 15 - written)]) {
        let mut rig = mapped(Geometry::plain(32), GROUP)?;
        rig.age(GROUP)?;
        rig.flush()?;
        rig.guest(read * PAGE, Access::Read)?;
        rig.guest(written * PAGE, Access::Write)?;
        let harvest = rig.get_and_clear(GROUP, None, false)?;
        assert!(harvest.is_some_and(|harvest| harvest.dirty && harvest.young && harvest.entries == 16));
        rig.finish()?;
    }
    let mut rig = mapped(Geometry::plain(32), GROUP)?;
    rig.age(GROUP)?;
    rig.flush()?;
    let harvest = rig.get_and_clear(GROUP, None, false)?;
    assert!(harvest.is_some_and(|harvest| !harvest.dirty && !harvest.young));
    rig.finish()
}

#[test]
fn case_17_what_differs_is_not_folded() -> Result<(), Violation> {
    type Differ = fn(&mut Rig<G4K>) -> Result<(), Violation>;
    let differences: [Differ; 4] = [
        |rig| rig.get_and_clear(3 * PAGE..4 * PAGE, None, false).map(drop),
        |rig| rig.protect(3 * PAGE..4 * PAGE, READ_ONLY).map(drop),
        |rig| {
            rig.get_and_clear(3 * PAGE..4 * PAGE, None, false)?;
            rig.map(3 * PAGE..4 * PAGE, OA, &Attributes::RAM, Existing::Refuse).map(drop)
        },
        |rig| {
            let software = Attributes { software: 1, ..Attributes::RAM };
            rig.get_and_clear(3 * PAGE..4 * PAGE, None, false)?;
            rig.map(3 * PAGE..4 * PAGE, OA + 3 * PAGE, &software, Existing::Refuse).map(drop)
        },
    ];
    for differ in differences {
        let mut rig = mapped(Geometry::plain(32), GROUP)?;
        rig.unfold(GROUP)?;
        differ(&mut rig)?;
        assert!(!rig.fold(0, Level::L3, Merge::Union)?);
        rig.finish()?;
    }
    Ok(())
}

/// 16 GiB groups need 34 bits, 1 GiB groups of 16K blocks 30: smaller spaces have blocks alone.
#[test]
fn case_18_no_group_is_larger_than_the_input_space() -> Result<(), Violation> {
    fn whole<G: Granule>(ipa_bits: u32, level: Level, groups: bool) -> Result<(), Violation> {
        let geometry = Geometry { start: Some(level.number()), ..Geometry::plain(ipa_bits) };
        let mut rig = Rig::<G>::new(&geometry, 4, Temper::Sticky, 1)?;
        rig.map(0..1 << ipa_bits, 0, &Attributes::RAM, Existing::Refuse)?;
        assert!(rig.survey.extents.iter().all(|extent| extent.level == level.number()));
        assert!(rig.survey.extents.iter().all(|extent| extent.group == groups));
        assert!(!rig.fold(0, level, Merge::Union)?, "it is joined or can't be");
        rig.finish()
    }
    whole::<G4K>(33, Level::L1, false)?;
    whole::<G4K>(34, Level::L1, true)?;
    whole::<G16K>(33, Level::L2, true)?;
    whole::<G64K>(33, Level::L2, false)?;
    whole::<G64K>(34, Level::L2, true)
}

#[test]
fn case_19_a_group_is_aligned_in_its_output_too() -> Result<(), Violation> {
    for shift in 1..16 {
        let mut rig = Rig::<G4K>::new(&Geometry::plain(32), 4, Temper::Sticky, 1)?;
        rig.map(0..64 * PAGE, OA + shift * PAGE, &Attributes::RAM, Existing::Refuse)?;
        assert!(rig.survey.extents.iter().all(|extent| !extent.group));
        assert!(!rig.fold(16 * PAGE, Level::L3, Merge::Union)?);
        rig.optimise(0..64 * PAGE, Merge::Union)?;
        rig.finish()?;
    }
    Ok(())
}

/// Every operation, with stores at every moment at which the crate looks away, at every FEAT_BBM level.
#[test]
fn case_20_no_store_is_lost_to_any_operation() -> Result<(), Violation> {
    type Operation = fn(&mut Rig<G4K>, Range<u64>) -> Result<(), Violation>;
    let operations: [Operation; 12] = [
        |rig, range| rig.get_and_clear(range, Some(Marker::Released), false).map(drop),
        |rig, range| rig.get_and_clear(range, None, true).map(drop),
        |rig, range| rig.protect(range, READ_ONLY).map(drop),
        |rig, range| rig.write_protect(range).map(drop),
        |rig, range| rig.collect_dirty(range).map(drop),
        |rig, range| rig.age(range).map(drop),
        |rig, range| rig.mark(range, Marks { young: true, dirty: true }).map(drop),
        |rig, range| rig.unfold(range).map(drop),
        |rig, range| rig.split(range, Level::L3).map(drop),
        |rig, range| {
            rig.split(range.clone(), Level::L3)?;
            rig.optimise(range, Merge::Harvest).map(drop)
        },
        |rig, range| {
            rig.unfold(range.clone())?;
            rig.fold(range.start, Level::L3, Merge::Union).map(drop)
        },
        |rig, range| rig.fault(range.start, Access::Write).map(drop),
    ];
    let whole = BLOCK.end * 16;
    let ranges = [0..PAGE, GROUP, 3 * PAGE..20 * PAGE, BLOCK, BLOCK.end..BLOCK.end + GROUP.end, 0..whole];
    for (operation, bbm) in operations.iter().flat_map(|operation| BBM.map(|bbm| (operation, bbm))) {
        for (seed, range) in (0..).zip(&ranges) {
            if range.end == whole && range.start == 0 && bbm != BbmLevel::Level0 {
                continue;
            }
            let geometry = Geometry { bbm, ..Geometry::plain(32) };
            let mut rig = Rig::<G4K>::new(&geometry, 24, Temper::Random, seed)?;
            rig.heat([range.start, range.start + PAGE, range.end - PAGE, range.end]);
            rig.map(0..whole, OA, &Attributes::RAM, Existing::Refuse)?;
            rig.hardware.busy.set(true);
            operation(&mut rig, range.clone())?;
            rig.flush()?;
            rig.collect_dirty(0..whole)?;
            rig.finish()?;
        }
    }
    Ok(())
}

#[test]
fn case_21_nothing_is_issued_where_nothing_is_owed() -> Result<(), Violation> {
    let mut rig = Rig::<G4K>::new(&Geometry::plain(32), 4, Temper::Sticky, 1)?;
    rig.flush()?;
    rig.get_and_clear(BLOCK, None, false)?;
    rig.flush()?;
    assert_eq!(*rig.hardware.issued.borrow(), []);
    rig.map(0..PAGE, OA, &Attributes::RAM, Existing::Refuse)?;
    rig.get_and_clear(0..PAGE, None, false)?;
    rig.flush()?;
    let stage1 = rig.hardware.issued.borrow().iter().filter(|&&i| i == Instruction::Vmalle1is).count();
    assert_eq!(stage1, 1);
    rig.finish()
}
