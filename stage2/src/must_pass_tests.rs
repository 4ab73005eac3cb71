//! Cases that went wrong elsewhere and must pass here, by their number in the project's list. The ones that need
//! a TLB or a second processor are shown by the model and by loom under `tests/`.

use alloc::vec::Vec;
use core::sync::atomic::Ordering::Relaxed;

use crate::descriptor::{AF, CONTIGUOUS, DBM, S2AP_W, SW_DIRTY, VALID};
use crate::testing::*;
use crate::*;

const PAGE: u64 = 0x1000;
const GROUP: u64 = 0x1_0000;
const BLOCK: u64 = 0x20_0000;
const CLEAN: Clear = Clear { leave: None, full: false };

/// One folded group of clean, old pages at `GROUP`.
fn one_group(bbm: BbmLevel) -> Live<G4K> {
    let mut tables = live::<G4K>(40, bbm);
    tables.map(GROUP..2 * GROUP, GROUP, &Attributes::RAM.old(), Existing::Refuse).unwrap();
    assert!(Descriptor::new(word(&tables, GROUP)).contiguous());
    tables
}

fn set(tables: &Live<G4K>, ipa: u64, bits: u64) {
    entry(tables, ipa).fetch_or(bits, Relaxed);
}

#[test]
fn case_01_a_stale_target_is_written_though_a_sibling_is_young_and_dirty() {
    let tables = one_group(BbmLevel::Level0);
    set(&tables, GROUP + 3 * PAGE, AF | S2AP_W);
    let mut gather = tables.gather();
    assert_eq!(tables.set_access_flags(GROUP + 5 * PAGE, Access::Write, &mut gather), Ok(true));
    assert_eq!(word(&tables, GROUP + 5 * PAGE) & (AF | S2AP_W), AF | S2AP_W);
    assert_eq!(tables.set_access_flags(GROUP + 5 * PAGE, Access::Write, &mut gather), Ok(false));
    // And where software marks: the sibling's dirty bit doesn't excuse the target.
    let mut tables = one_group(BbmLevel::Level0);
    set(&tables, GROUP + 3 * PAGE, S2AP_W);
    assert_eq!(tables.mark(GROUP..2 * GROUP, Marks { dirty: true, young: false }), Ok(GROUP));
    assert!((0..16).all(|n| word(&tables, GROUP + n * PAGE) & S2AP_W != 0));
}

#[test]
fn case_02_contiguous_never_stands_on_an_invalid_entry_or_a_marker() {
    let mut tables = one_group(BbmLevel::Level0);
    tables.get_and_clear(GROUP..2 * GROUP, Clear::leaving(Marker::Released), |_| {}).unwrap();
    tables.map(0..GROUP, 0, &Attributes::RAM, Existing::Keep).unwrap();
    tables.get_and_clear(0..PAGE, Clear::leaving(Marker::Vacant), |_| {}).unwrap();
    tables.remark(0..BLOCK, |_| Some(Marker::Absent)).unwrap();
    for (ipa, _, word) in dump(&tables) {
        assert!(word & VALID != 0 || word & CONTIGUOUS == 0, "{ipa:#x}: {word:#x}");
    }
    // A splitting marker makes markers, not groups.
    tables.get_and_clear(BLOCK..BLOCK + PAGE, Clear::leaving(Marker::Released), |_| {}).unwrap();
    assert_sound(&tables, true);
}

#[test]
fn case_03_a_batch_ends_with_its_table_and_with_the_mapping() {
    // The last group of one table and the first of the next, with nothing after it.
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    let (start, end) = (BLOCK - GROUP, BLOCK + GROUP);
    tables.map(start..end, start, &Attributes::RAM, Existing::Refuse).unwrap();
    let mut seen = Vec::new();
    let harvest = tables.get_and_clear(0..4 * BLOCK, CLEAN, |leaf| seen.push(leaf.range())).unwrap();
    assert_eq!(seen, [start..BLOCK, BLOCK..end]);
    assert_eq!((harvest.bytes, harvest.entries), (2 * GROUP, 32));
    // And at the end of the address space.
    let mut tables = live::<G4K>(32, BbmLevel::Level0);
    let end = 1 << 32;
    tables.map(end - GROUP..end, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    assert_eq!(tables.get_and_clear(end - BLOCK..end, CLEAN, |_| {}).unwrap().bytes, GROUP);
    assert!(tables.get_and_clear(end - BLOCK..end + PAGE, CLEAN, |_| {}).is_err());
}

#[test]
fn case_04_leaves_larger_than_the_request_are_clamped_to_it() {
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    tables.map(0..1 << 30, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    let range = BLOCK + PAGE..BLOCK + 3 * PAGE;
    let harvest = tables.get_and_clear(range.clone(), CLEAN, |leaf| {
        assert!(range.start <= leaf.ipa && leaf.range().end <= range.end);
    });
    assert_eq!(harvest.unwrap().bytes, 2 * PAGE);
    assert_eq!(tables.translate(BLOCK), Some(BLOCK));
    assert_eq!(tables.translate(BLOCK + 3 * PAGE), Some(BLOCK + 3 * PAGE));
    assert_eq!(tables.runs(0..1 << 30).unwrap().count(), 3);
}

#[test]
fn case_05_a_batch_that_fails_grants_nothing_to_read_only_entries() {
    // A read-only block, a writable one, a read-only one; the batch needs two cuts and gets one frame.
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    for (n, write) in [(0, false), (1, true), (2, false)] {
        let attributes = Attributes { write, ..Attributes::RAM };
        tables.map(n * BLOCK..(n + 1) * BLOCK, n * BLOCK, &attributes, Existing::Refuse).unwrap();
    }
    let before = dump(&tables);
    tables.frames.left = 1;
    let grant = Protection { write: Some(true), ..Protection::default() };
    let range = BLOCK - PAGE..2 * BLOCK + PAGE;
    assert_eq!(tables.protect(range.clone(), grant), Err(Error::Frames { needed: 2 }));
    assert_eq!(dump(&tables), before);
    tables.frames.left = 2;
    tables.protect(range, grant).unwrap();
    assert!(!Descriptor::new(word(&tables, 0)).writable(), "outside the range nothing changed");
    assert!(Descriptor::new(word(&tables, BLOCK - PAGE)).writable());
}

#[test]
fn case_06_a_whole_group_is_cleared_when_its_first_entry_is_absent() {
    let mut tables = one_group(BbmLevel::Level0);
    // Not what this crate leaves behind, but what it may find: nothing valid first, with stray bits.
    entry(&tables, GROUP).store(AF | S2AP_W, Relaxed);
    let harvest = tables.get_and_clear(GROUP..2 * GROUP, CLEAN, |_| {}).unwrap();
    assert_eq!((harvest.entries, harvest.bytes), (15, 15 * PAGE));
    assert!(!harvest.dirty && !harvest.young, "nothing is ORed from what isn't there");
    assert_eq!(word(&tables, GROUP), 0);
    // What the others say is the leaf's, whichever says it.
    let mut tables = one_group(BbmLevel::Level0);
    entry(&tables, GROUP).store(0, Relaxed);
    set(&tables, GROUP + 9 * PAGE, AF | S2AP_W);
    let mut seen = Vec::new();
    tables.get_and_clear(GROUP..2 * GROUP, CLEAN, |leaf| seen.push((leaf.dirty(), leaf.young()))).unwrap();
    assert_eq!(seen, [(true, true)]);
    // In the middle of a valid group just so.
    let mut tables = one_group(BbmLevel::Level0);
    entry(&tables, GROUP + PAGE).store(AF | S2AP_W, Relaxed);
    let harvest = tables.get_and_clear(GROUP..2 * GROUP, CLEAN, |_| {}).unwrap();
    assert_eq!((harvest.entries, harvest.dirty, harvest.young), (15, false, false));
}

#[test]
fn case_07_unmapping_a_dirty_block_returns_dirty() {
    for bytes in [BLOCK, 1 << 30] {
        let mut tables = live::<G4K>(40, BbmLevel::Level0);
        tables.map(0..bytes, 0, &Attributes::RAM, Existing::Refuse).unwrap();
        set(&tables, 0, S2AP_W);
        assert!(tables.unmap(0..bytes).unwrap().dirty);
        // And a part of one.
        tables.map(0..bytes, 0, &Attributes::RAM.dirty(), Existing::Refuse).unwrap();
        assert!(tables.unmap(PAGE..2 * PAGE).unwrap().dirty);
        assert!(tables.unmap(0..PAGE).unwrap().dirty, "the rest is as dirty as the block was");
    }
}

#[test]
fn case_09_granting_write_does_not_make_dirty() {
    let mut tables = one_group(BbmLevel::Level0);
    tables.write_protect(GROUP..2 * GROUP, |_| {}).unwrap();
    assert_eq!(word(&tables, GROUP) & (DBM | S2AP_W | SW_DIRTY), 0);
    let grant = Protection { write: Some(true), ..Protection::default() };
    tables.protect(GROUP..2 * GROUP, grant).unwrap();
    assert_eq!(word(&tables, GROUP) & (DBM | S2AP_W | SW_DIRTY), DBM);
    assert!(!tables.unmap(GROUP..2 * GROUP).unwrap().dirty);
}

#[test]
fn case_11_an_unlinked_table_is_invalidated_at_all_levels() {
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    tables.map(0..PAGE, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    tables.map(8 * PAGE..9 * PAGE, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    tables.executor().take();
    tables.unmap(0..PAGE).unwrap();
    tables.flush();
    assert!(matches!(tables.executor().take_tlbi()[0], Instruction::Ipas2le1is(_)), "a page alone");
    tables.unmap(8 * PAGE..9 * PAGE).unwrap();
    assert_eq!(tables.frame_bytes(), 8192 + 2 * PAGE, "unlinked, but not free before the invalidation");
    tables.flush();
    let tlbi = tables.executor().take_tlbi();
    assert!(tlbi.iter().all(|i| matches!(
        i,
        Instruction::Ripas2e1is(_) | Instruction::Ipas2e1is(_) | Instruction::Vmalle1is
    )));
    assert_eq!(tables.frame_bytes(), 8192);
}

#[test]
fn case_12_a_hint_is_unknown_once_tables_were_unlinked() {
    let mut gather = one_group(BbmLevel::Level0).gather();
    gather.add_leaves::<G4K>(0..PAGE, Level::L3);
    gather.add_tables::<G4K>(0..BLOCK);
    for instruction in gather.sequence() {
        if let Instruction::Ripas2e1is(x) = instruction {
            assert_eq!(x >> 37 & 3, 0);
        }
    }
    assert_eq!((gather.spans().len(), gather.spans()[0].level), (1, None));
}

#[test]
fn case_13_no_walk_descends_into_a_table_that_was_just_freed() {
    // Freed frames are poisoned with words that a walker would take for tables.
    let config = Config::<G4K>::passive(40).unwrap();
    let mut tables = Tables::new(config, Limited::<G4K>::new(1 << 20), NoMmu).unwrap();
    let attributes = Attributes { software: 1, ..Attributes::RAM };
    for n in 0..64 {
        tables.map(n * BLOCK + PAGE..n * BLOCK + 2 * PAGE, 0, &attributes, Existing::Refuse).unwrap();
    }
    let mut leaves = 0;
    tables.get_and_clear(PAGE..63 * BLOCK, CLEAN, |_| leaves += 1).unwrap();
    assert_eq!(leaves, 63);
    tables.remark(0..1 << 30, |_| Some(Marker::Vacant)).unwrap();
    tables.optimise(0..1 << 32, Merge::Uniform, |_| {}).unwrap();
    assert_eq!(super::testing::leaves(&tables, 0..1 << 30).len(), 1);
    assert_sound(&tables, true);
}

#[test]
fn case_15_ranges_that_straddle_groups() {
    let (a, b) = (GROUP, 4 * GROUP);
    for (range, whole) in [
        (a + 3 * PAGE..a + 2 * GROUP, 1),
        (a..a + GROUP + 3 * PAGE, 1),
        (a + 3 * PAGE..a + 5 * PAGE, 0),
        (a + GROUP..a + 2 * GROUP, 1),
        (a..a + GROUP - PAGE, 0),
        (a..a + GROUP + PAGE, 1),
        (a + PAGE..a + GROUP, 0),
        (a - PAGE..a + GROUP, 1),
    ] {
        for bbm in [BbmLevel::Level0, BbmLevel::Level2] {
            let mut tables = live::<G4K>(40, bbm);
            tables.map(a..b, a, &Attributes::RAM, Existing::Refuse).unwrap();
            let mut groups = 0;
            let harvest = tables.get_and_clear(range.clone(), CLEAN, |leaf| {
                groups += u64::from(leaf.is_group());
                assert!(range.start <= leaf.ipa && leaf.range().end <= range.end);
            });
            assert_eq!(harvest.unwrap().bytes, range.end - range.start.max(a));
            assert_eq!(groups, whole, "{range:x?}");
            for page in (a..b).step_by(PAGE as usize) {
                let expected = if range.contains(&page) { None } else { Some(page) };
                assert_eq!(tables.translate(page), expected);
            }
            assert_sound(&tables, true);
        }
    }
}

#[test]
fn case_16_dirty_and_young_on_any_member_are_the_groups() {
    let harvest = |bits: &[(u64, u64)]| {
        let mut tables = one_group(BbmLevel::Level0);
        for (page, bits) in bits {
            set(&tables, GROUP + page * PAGE, *bits);
        }
        let mut leaf = None;
        let harvest = tables
            .get_and_clear(GROUP..2 * GROUP, CLEAN, |found| assert!(leaf.replace(found).is_none()))
            .unwrap();
        let leaf = leaf.unwrap();
        assert_eq!((leaf.dirty(), leaf.young()), (harvest.dirty, harvest.young));
        (harvest.dirty, harvest.young)
    };
    assert_eq!(harvest(&[]), (false, false));
    for page in 0..16 {
        assert_eq!(harvest(&[(page, S2AP_W)]), (true, false));
        assert_eq!(harvest(&[(page, AF)]), (false, true));
        assert_eq!(harvest(&[(page, AF), (15 - page, S2AP_W)]), (true, true));
    }
}

#[test]
fn case_16_each_dirty_member_is_collected_exactly_once() {
    for page in 0..16 {
        let mut tables = one_group(BbmLevel::Level0);
        set(&tables, GROUP + page * PAGE, S2AP_W);
        let mut gather = tables.gather();
        let mut seen = None;
        let see = |leaf: Leaf| assert_eq!(seen.replace(leaf.range()), None);
        tables.collect_dirty(GROUP..GROUP + PAGE, &mut gather, see).unwrap();
        assert_eq!(seen, Some(GROUP..2 * GROUP), "one dirty bit stands for the whole group");
        assert!(gather.overlaps(&(2 * GROUP - PAGE..2 * GROUP)));
        assert!(!tables.collect_dirty(GROUP..2 * GROUP, &mut gather, |_| {}).unwrap().dirty);
        // The other way to get it: write-protect reports it, keeps it, and it is collected once.
        set(&tables, GROUP + page * PAGE, S2AP_W);
        assert!(tables.write_protect(GROUP..2 * GROUP, |_| {}).unwrap().dirty);
        assert_sound(&tables, true);
        assert!(tables.collect_dirty(GROUP..2 * GROUP, &mut gather, |_| {}).unwrap().dirty);
        assert!(!tables.unmap(GROUP..2 * GROUP).unwrap().dirty);
    }
}

#[test]
fn case_17_fold_is_refused() {
    let fold = |change: &dyn Fn(&mut Live<G4K>)| {
        let mut tables = one_group(BbmLevel::Level0);
        tables.unfold(GROUP..2 * GROUP).unwrap();
        change(&mut tables);
        let before = dump(&tables);
        let result = tables.fold(GROUP + 5 * PAGE, Level::L3, Merge::Uniform, |_| {});
        if result.is_err() {
            assert_eq!(dump(&tables), before);
        }
        result
    };
    let at = GROUP + 7 * PAGE;
    let remap = |tables: &mut Live<G4K>, oa, attributes: &Attributes| {
        tables.unmap(at..at + PAGE).unwrap();
        tables.map(at..at + PAGE, oa, attributes, Existing::Refuse).unwrap();
    };
    let old = Attributes::RAM.old();
    assert!(fold(&|_| {}).is_ok());
    assert!(fold(&|tables| remap(tables, at, &old)).is_ok());
    assert_eq!(fold(&|tables| remap(tables, at + PAGE, &old)), Err(Refusal::Gap(at)));
    assert_eq!(fold(&|tables| remap(tables, at, &old.read_only())), Err(Refusal::Differs(at)));
    let software = Attributes { software: 1, ..old };
    assert_eq!(fold(&|tables| remap(tables, at, &software)), Err(Refusal::Differs(at)));
    assert_eq!(fold(&|tables| remap(tables, at, &old.dirty())), Err(Refusal::Uneven(at)));
    let absent = |tables: &mut Live<G4K>| {
        tables.unmap(at..at + PAGE).unwrap();
    };
    assert_eq!(fold(&absent), Err(Refusal::Absent(at)));
    let shifted = |tables: &mut Live<G4K>| {
        tables.unmap(GROUP..2 * GROUP).unwrap();
        tables.map(GROUP..2 * GROUP, GROUP + PAGE, &old, Existing::Refuse).unwrap();
    };
    assert_eq!(fold(&shifted), Err(Refusal::Misaligned(GROUP + PAGE)));
    assert_eq!(
        one_group(BbmLevel::Level0).fold(GROUP, Level::L3, Merge::Union, |_| {}),
        Err(Refusal::Joined)
    );
    // Sixteen blocks of 1G are more than 33 bits of address space.
    let options = Options { start: Some(Level::L1), ..Options::new(33) };
    let mut small = live_with::<G4K>(&Features::ALL, options);
    assert_eq!(small.fold(0, Level::L1, Merge::Union, |_| {}), Err(Refusal::TooLarge));
}

#[test]
fn case_18_a_group_that_would_cross_the_input_size_is_never_built() {
    let mut tables = ledger::<G4K>(33);
    tables.map(tables.whole(), 0, &Attributes::RAM, Existing::Refuse).unwrap();
    assert!(leaves(&tables, tables.whole()).iter().all(|leaf| !leaf.is_group()));
    assert_eq!(leaves(&tables, tables.whole()).len(), 8);
    let mut tables = ledger::<G4K>(34);
    tables.map(tables.whole(), 0, &Attributes::RAM, Existing::Refuse).unwrap();
    assert_eq!(leaves(&tables, tables.whole()).len(), 1, "exactly sixteen fit");
}

#[test]
fn case_19_a_group_needs_an_aligned_output_too() {
    let mut tables = ledger::<G4K>(40);
    tables.map(GROUP..4 * GROUP, PAGE, &Attributes::RAM, Existing::Refuse).unwrap();
    assert!(leaves(&tables, tables.whole()).iter().all(|leaf| leaf.bytes == PAGE));
    // 2M blocks whose outputs agree modulo 2M but not modulo 32M.
    let start = 32 << 20;
    tables.map(start..3 * start, BLOCK, &Attributes::RAM, Existing::Refuse).unwrap();
    assert!(leaves(&tables, start..3 * start).iter().all(|leaf| leaf.bytes == BLOCK));
}

#[test]
fn case_21_invalidation_is_stage_2_then_stage_1_and_never_empty() {
    let mut tables = one_group(BbmLevel::Level0);
    tables.executor().take();
    tables.unmap(GROUP..2 * GROUP).unwrap();
    tables.flush();
    let all = tables.executor().take();
    assert_eq!(all[0], Instruction::DsbIshst);
    assert!(matches!(all[1], Instruction::Ripas2e1is(_)));
    assert_eq!(
        all[2..],
        [Instruction::DsbIsh, Instruction::Vmalle1is, Instruction::DsbIsh, Instruction::Isb]
    );
}

#[test]
fn a_full_teardown_asks_for_one_invalidation_and_returns_everything() {
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    tables.map(PAGE..(1 << 30) + PAGE, 5 << 30, &Attributes::RAM, Existing::Refuse).unwrap();
    tables.map(1 << 35..1 << 36, 1 << 35, &Attributes::RAM.dirty(), Existing::Refuse).unwrap();
    let held = tables.frame_bytes();
    tables.executor().take();
    let harvest = tables.tear_down(|_| {});
    assert_eq!(harvest.bytes, (1 << 30) + (1 << 35));
    assert!(harvest.dirty && harvest.young);
    assert_eq!(tables.executor().take(), []);
    assert_eq!(tables.frame_bytes(), held, "nothing is freed before the invalidation");
    tables.flush();
    assert_eq!(tables.executor().take_tlbi(), [Instruction::Vmalls12e1is]);
    assert_eq!(tables.frame_bytes(), tables.config().root_size());
    tables.flush();
    assert_eq!(tables.executor().take(), []);
}

#[test]
fn a_second_actor_waits_for_the_invalidation_of_what_it_found_cleared() {
    let mut tables = one_group(BbmLevel::Level0);
    tables.unmap(GROUP..2 * GROUP).unwrap();
    tables.executor().take();
    let mut gather = tables.gather();
    let fault = tables.set_access_flags(GROUP, Access::Read, &mut gather);
    assert_eq!(fault, Err(Unresolved::Unmapped { marker: None, pending: true }));
    // A new translation is only made once the old one is gone from every TLB.
    tables.map(GROUP..2 * GROUP, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    let all = tables.executor().take();
    assert!(matches!(all[1], Instruction::Ripas2e1is(_)));
    assert_eq!(all.last(), Some(&Instruction::DsbIshst));
    assert!(tables.pending().is_empty());
}

#[test]
fn break_before_make_by_level() {
    // Invalidations that split, unfold, fold and collapse cost.
    for (bbm, expected) in [
        (BbmLevel::Level0, [1, 1, 1, 1]),
        (BbmLevel::Level1, [2, 1, 1, 1]),
        (BbmLevel::Level2, [1, 1, 1, 1]),
        (BbmLevel::Level3, [1, 1, 1, 1]),
    ] {
        let mut tables = live::<G4K>(40, bbm);
        tables.map(0..BLOCK, 0, &Attributes::RAM, Existing::Refuse).unwrap();
        let count = |tables: &Live<G4K>| {
            tables.executor().take().iter().filter(|i| matches!(i, Instruction::Isb)).count()
        };
        let mut found = [0; 4];
        tables.split(0..BLOCK, Level::L3).unwrap();
        found[0] = count(&tables);
        tables.unfold(0..GROUP).unwrap();
        found[1] = count(&tables);
        tables.fold(0, Level::L3, Merge::Uniform, |_| {}).unwrap();
        found[2] = count(&tables);
        tables.collapse(0, Level::L2, Merge::Uniform, |_| {}).unwrap();
        found[3] = count(&tables);
        assert_eq!(found, expected, "{bbm:?}");
        assert_eq!(word(&tables, 0) & 1 << 16, 0, "nT is gone");
        assert_eq!(leaves(&tables, 0..BLOCK).len(), 1);
    }
}

#[test]
fn joining_refuses_ors_or_harvests() {
    for bbm in [BbmLevel::Level0, BbmLevel::Level2] {
        let prepare = || {
            let mut tables = one_group(bbm);
            tables.unfold(GROUP..2 * GROUP).unwrap();
            set(&tables, GROUP + 3 * PAGE, S2AP_W | AF);
            tables
        };
        let mut tables = prepare();
        let refused = tables.fold(GROUP, Level::L3, Merge::Uniform, |_| {});
        assert_eq!(refused, Err(Refusal::Uneven(GROUP + 3 * PAGE)));
        let harvest = tables.fold(GROUP, Level::L3, Merge::Union, |_| {}).unwrap();
        assert!(harvest.dirty && harvest.young && harvest.entries == 16);
        assert!((0..16).all(|n| word(&tables, GROUP + n * PAGE) & (S2AP_W | AF) == S2AP_W | AF));
        let mut tables = prepare();
        let mut dirty = Vec::new();
        tables
            .fold(GROUP, Level::L3, Merge::Harvest, |leaf| {
                if leaf.dirty() {
                    dirty.push(leaf.ipa);
                }
            })
            .unwrap();
        assert_eq!(dirty, [GROUP + 3 * PAGE], "the grain of single pages is kept");
        assert!((0..16).all(|n| word(&tables, GROUP + n * PAGE) & (S2AP_W | AF) == AF));
    }
}

#[test]
fn exhaustion_leaves_the_tables_as_they_were() {
    type Operation = fn(&mut Live<G4K>) -> Result<(), Error>;
    let operations: [Operation; 8] = [
        |t| t.map(1 << 33..(1 << 33) + PAGE, 0, &Attributes::RAM, Existing::Refuse),
        |t| t.map((1 << 30) - PAGE..(3 << 30) + PAGE, 0, &Attributes::RAM, Existing::Keep),
        |t| t.unmap(PAGE..(1 << 30) - PAGE).map(drop),
        |t| t.get_and_clear(PAGE..3 * PAGE, Clear::leaving(Marker::Released), |_| {}).map(drop),
        |t| t.write_protect(BLOCK + PAGE..2 * BLOCK + PAGE, |_| {}).map(drop),
        |t| t.mark(PAGE..2 * PAGE, Marks { dirty: true, young: true }).map(drop),
        |t| t.remark((5 << 30) + PAGE..(6 << 30) + PAGE, |_| Some(Marker::Absent)).map(drop),
        |t| t.split(BLOCK..3 * BLOCK, Level::L3),
    ];
    for operation in operations {
        let mut enough = 0;
        loop {
            let mut tables = live::<G4K>(40, BbmLevel::Level1);
            tables.map(0..1 << 30, 0, &Attributes::RAM, Existing::Refuse).unwrap();
            tables.remark(5 << 30..7 << 30, |_| Some(Marker::Vacant)).unwrap();
            tables.executor().take();
            let (before, held) = (dump(&tables), tables.frames.inner.in_use());
            tables.frames.left = enough;
            match operation(&mut tables) {
                Ok(()) => {
                    assert_eq!(tables.frames.left, 0, "no more frames are asked for than are used");
                    break;
                }
                Err(error) => {
                    assert!(matches!(error, Error::Frames { needed } if needed > enough));
                    assert_eq!(dump(&tables), before);
                    assert_eq!((tables.frames.inner.in_use(), tables.frames.left), (held, enough));
                    assert_eq!(tables.executor().take(), []);
                    enough += 1;
                }
            }
        }
        assert!(enough > 0);
    }
}

#[test]
fn a_table_emptied_of_leaves_becomes_one_marker() {
    let mut tables = ledger::<G4K>(40);
    tables.map(0..4 << 30, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    let pristine = tables.frame_bytes();
    assert!(pristine <= 16 << 10, "four blocks of 1G in the start level");
    let released = Clear::leaving(Marker::Released);
    for page in (0..BLOCK).step_by(PAGE as usize) {
        tables.get_and_clear(page..page + PAGE, released, |_| {}).unwrap();
    }
    let expected = Lookup::Invalid { ipa: 0, bytes: BLOCK, marker: Some(Marker::Released) };
    assert_eq!(tables.lookup(PAGE), Ok(expected));
    tables.get_and_clear(BLOCK..1 << 30, released, |_| {}).unwrap();
    let expected = Lookup::Invalid { ipa: 0, bytes: 1 << 30, marker: Some(Marker::Released) };
    assert_eq!(tables.lookup(PAGE), Ok(expected));
    assert_eq!(tables.frame_bytes(), pristine);
    tables.map(0..1 << 30, 0, &Attributes::RAM, Existing::Keep).unwrap();
    assert_eq!(leaves(&tables, 0..1 << 30).len(), 1);
}

#[test]
fn pristine_maps_are_small() {
    // A terabyte of guest RAM from 1 GiB on.
    let mut tables = ledger::<G4K>(41);
    tables.map(1 << 30..1025 << 30, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    assert!(tables.frame_bytes() <= 16 << 10);
    assert_eq!(tables.runs(tables.whole()).unwrap().count(), 3);
}

#[test]
fn map_refuses_what_it_must() {
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    let ram = &Attributes::RAM;
    let mut map = |range, oa| tables.map(range, oa, ram, Existing::Refuse);
    assert!(matches!(map(PAGE..PAGE, 0), Err(Error::Range { .. })));
    #[expect(clippy::reversed_empty_ranges, reason = "that is the case")]
    let backwards = 2 * PAGE..PAGE;
    assert!(matches!(map(backwards, 0), Err(Error::Range { .. })));
    assert!(matches!(map(0..(1 << 40) + PAGE, 0), Err(Error::Range { .. })));
    assert!(matches!(map(0..u64::MAX, 0), Err(Error::Range { .. })));
    assert!(matches!(map(0x800..PAGE, 0), Err(Error::Misaligned { address: 0x800, .. })));
    assert!(matches!(map(0..PAGE, 0x800), Err(Error::Misaligned { address: 0x800, .. })));
    assert!(matches!(map(0..2 * PAGE, (1 << 48) - PAGE), Err(Error::Output { .. })));
    assert!(matches!(map(0..PAGE, u64::MAX - PAGE + 1), Err(Error::Output { .. })));
    map(8 * PAGE..9 * PAGE, 0).unwrap();
    assert_eq!(map(0..BLOCK, 0), Err(Error::Mapped { ipa: 8 * PAGE }));
    let stage1 = Attributes { memory: Memory::Stage1, ..Attributes::RAM };
    let error = tables.map(0..PAGE, 0, &stage1, Existing::Refuse);
    assert_eq!(error, Err(Error::Attributes(AttributesError::NeedsFwb)));
    assert_eq!(
        tables.lookup(1 << 40),
        Err(Error::Range { start: 1 << 40, end: (1 << 40) + 1, ipa_size: 1 << 40 })
    );
}

#[test]
fn dropping_tables_gives_every_frame_back() {
    let mut frames = HeapFrames::<G16K>::new();
    let mut tables = Tables::new(Config::<G16K>::passive(40).unwrap(), &mut frames, NoMmu).unwrap();
    tables.map(0x4000..1 << 32, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    drop(tables);
    assert_eq!(frames.in_use(), 0);
}
