//! Invalidation: operands by hand from the architecture (DDI 0487, C5.5), coverage and choice of forms.

use alloc::vec::Vec;

use crate::testing::*;
use crate::*;

fn config<G: Granule>(ipa_bits: u32, features: Features) -> Config<G> {
    Config::new(&features, Options::new(ipa_bits)).unwrap()
}

fn plan<G: Granule>(config: &Config<G>, add: impl FnOnce(&mut Gather)) -> Vec<Instruction> {
    let mut gather = Gather::new(config);
    add(&mut gather);
    gather.sequence().collect()
}

const SINGLES: Features = Features { tlbi_range: false, ..Features::ALL };

#[test]
fn one_page() {
    let all = plan(&config::<G4K>(40, Features::ALL), |gather| {
        gather.add_leaves::<G4K>(0x12_3456_7000..0x12_3456_8000, Level::L3);
    });
    assert_eq!(
        all,
        [
            Instruction::DsbIshst,
            // TTL: 4K (0b01), level 3 (0b11) in 47:44; IPA[51:12] in 39:0.
            Instruction::Ipas2le1is(0x0000_7000_0123_4567),
            Instruction::DsbIsh,
            Instruction::Vmalle1is,
            Instruction::DsbIsh,
            Instruction::Isb,
        ]
    );
}

#[test]
fn level_hints_name_the_granule() {
    fn ttl<G: Granule>(level: Level) -> u64 {
        TlbiRules::new(&config::<G>(40, Features::ALL)).ipa_operand(0, Some(level)) >> 44
    }
    assert_eq!(
        (ttl::<G4K>(Level::L1), ttl::<G4K>(Level::L2), ttl::<G4K>(Level::L3)),
        (0b0101, 0b0110, 0b0111)
    );
    assert_eq!((ttl::<G16K>(Level::L2), ttl::<G16K>(Level::L3)), (0b1010, 0b1011));
    assert_eq!((ttl::<G64K>(Level::L2), ttl::<G64K>(Level::L3)), (0b1110, 0b1111));
    let without = TlbiRules::new(&config::<G4K>(40, Features { ttl: false, ..Features::ALL }));
    assert_eq!(without.ipa_operand(0x1000, Some(Level::L3)), 1, "no FEAT_TTL, no hint");
}

#[test]
fn ranges() {
    // 2 MiB of pages: 512 granules = 8 x 2^6: SCALE 1, NUM 7. TG 0b01 in 47:46, SCALE 45:44, NUM 43:39,
    // TTL 38:37, BaseADDR 36:0 in granules.
    let all = plan(&config::<G4K>(40, Features::ALL), |gather| {
        gather.add_leaves::<G4K>(0x4000_0000..0x4020_0000, Level::L3);
    });
    let operand = 0b01 << 46 | 1 << 44 | 7 << 39 | 3 << 37 | 0x4_0000;
    assert_eq!(all[1..all.len() - 4], [Instruction::Ripas2le1is(operand)]);
    // 64K granule: 3 granules are one pair and one single.
    let all = plan(&config::<G64K>(40, Features::ALL), |gather| {
        gather.add_leaves::<G64K>(0x4000_0000..0x4003_0000, Level::L3);
    });
    let operand = 0b11 << 46 | 3 << 37 | 0x4000;
    let single = 0b1111 << 44 | 0x4002_0000 >> 12;
    assert_eq!(all[1..all.len() - 4], [Instruction::Ripas2le1is(operand), Instruction::Ipas2le1is(single)]);
}

#[test]
fn with_ds_the_base_counts_in_64_kib() {
    let config = Config::<G4K>::new(&Features::ALL, Options { ds: true, ..Options::new(48) }).unwrap();
    let all = plan(&config, |gather| gather.add_leaves::<G4K>(0x4001_3000..0x4001_9000, Level::L3));
    // From 0x4001_0000: nine granules, as four pairs and a single.
    let operand = 0b01 << 46 | 3 << 39 | 3 << 37 | 0x4001;
    let single = 0b0111 << 44 | 0x4_0018;
    assert_eq!(all[1..all.len() - 4], [Instruction::Ripas2le1is(operand), Instruction::Ipas2le1is(single)]);
}

/// What an instruction covers.
fn covers<G: Granule>(instruction: Instruction, ds: bool) -> Option<(u64, u64)> {
    match instruction {
        Instruction::Ipas2e1is(x) | Instruction::Ipas2le1is(x) => {
            let ipa = (x & ((1 << 40) - 1)) << 12;
            let level = Level::new((x >> 44 & 3) as i32).unwrap();
            let size = if x >> 46 & 3 == 0 { G::SIZE } else { G::size(level) };
            Some((ipa & !(size - 1), (ipa & !(size - 1)) + size))
        }
        Instruction::Ripas2e1is(x) | Instruction::Ripas2le1is(x) => {
            assert_eq!(x >> 46 & 3, G::TLBI_TG, "TG 0 would invalidate nothing");
            let shift = if ds { 16 } else { G::SHIFT };
            let base = (x & ((1 << 37) - 1)) << shift;
            // DDI 0487, C5.5: with TTL 01 or 10 and a base inside an entry of that level, UNPREDICTABLE.
            let hint = Level::new((x >> 37 & 3) as i32).filter(|level| (1..3).contains(&level.number()));
            assert_eq!(hint.map_or(0, |level| base % G::size(level)), 0, "{base:#x} at {hint:?}");
            let granules = ((x >> 39 & 31) + 1) << (5 * (x >> 44 & 3) + 1);
            Some((base, base + granules * G::SIZE))
        }
        _ => None,
    }
}

#[test]
fn every_span_is_covered_and_little_more() {
    fn check<G: Granule>(config: &Config<G>, seed: u64) {
        let mut rng = Rng(seed);
        for _ in 0..2000 {
            let level = rng.pick(&[Level::L3, Level::L3, Level::L2, Level::L1]);
            let size = G::size(level);
            let start = rng.below(((1 << 38) / size).max(1)) * size;
            let most = rng.pick(&[2, 9, 70, 600, 3000]);
            let number = 1 + rng.below(most);
            let bytes = if level.is_last() { number * size } else { (1 + number % 40) * size };
            let end = start + bytes;
            let mut gather = Gather::new(config);
            if rng.below(3) == 0 {
                gather.add_tables::<G>(start..end);
            } else {
                gather.add_leaves::<G>(start..end, level);
            }
            if gather.wants_whole() {
                continue;
            }
            let unit = if config.encoding().ds { 1 << 16 } else { G::SIZE };
            let mut at = start;
            for instruction in gather.sequence() {
                if let Some((first, last)) = covers::<G>(instruction, config.encoding().ds) {
                    assert!(first <= at, "{start:#x}..{end:#x}: {first:#x} leaves a gap after {at:#x}");
                    assert!(first + unit > start || first >= start);
                    at = at.max(last);
                }
            }
            assert!(at >= end, "{start:#x}..{end:#x} covered up to {at:#x}");
            assert!(at < end + 2 * unit.max(G::SIZE), "{start:#x}..{end:#x} covered up to {at:#x}");
        }
    }
    check(&config::<G4K>(40, Features::ALL), 1);
    check(&config::<G16K>(40, Features::ALL), 2);
    check(&config::<G64K>(40, Features::ALL), 3);
    check(&Config::<G4K>::new(&Features::ALL, Options { ds: true, ..Options::new(48) }).unwrap(), 4);
    check(&config::<G16K>(52, Features::ALL), 5);
    check(&config::<G4K>(40, SINGLES), 6);
}

#[test]
fn neighbours_merge_and_distant_spans_do_not() {
    let config = config::<G4K>(40, Features::ALL);
    let mut gather = Gather::new(&config);
    gather.add_leaves::<G4K>(0x2000..0x3000, Level::L3);
    gather.add_leaves::<G4K>(0x0..0x1000, Level::L3);
    assert_eq!(gather.spans().len(), 2);
    gather.add_leaves::<G4K>(0x1000..0x2000, Level::L3);
    assert_eq!(gather.spans().len(), 1);
    assert_eq!((gather.spans()[0].start, gather.spans()[0].end), (0, 0x3000));
    assert!(gather.overlaps(&(0x2000..0x9000)) && !gather.overlaps(&(0x3000..0x9000)));
}

#[test]
fn a_hint_after_mixed_levels_is_unknown() {
    let mut gather = Gather::new(&config::<G4K>(40, Features::ALL));
    gather.add_leaves::<G4K>(0x20_0000..0x40_0000, Level::L2);
    gather.add_leaves::<G4K>(0x40_0000..0x40_2000, Level::L3);
    assert_eq!(gather.spans()[0].level, None);
    for instruction in gather.sequence() {
        if let Instruction::Ripas2le1is(x) = instruction {
            assert_eq!(x >> 37 & 3, 0);
        }
    }
    // Without ranges, a mixture would have to step by pages: the parts stay apart, each with its hint.
    let mut gather = Gather::new(&config::<G4K>(40, SINGLES));
    gather.add_leaves::<G4K>(0x20_0000..0x40_0000, Level::L2);
    gather.add_leaves::<G4K>(0x40_0000..0x40_2000, Level::L3);
    assert_eq!(gather.sequence().count(), 3 + 5);
}

#[test]
fn too_many_go_as_a_whole() {
    let singles = config::<G4K>(40, SINGLES);
    let whole = [Instruction::DsbIshst, Instruction::Vmalls12e1is, Instruction::DsbIsh, Instruction::Isb];
    let at_most = plan(&singles, |gather| gather.add_leaves::<G4K>(0..512 << 12, Level::L3));
    assert_eq!(at_most.len(), 512 + 5);
    assert_eq!(plan(&singles, |gather| gather.add_leaves::<G4K>(0..513 << 12, Level::L3)), whole);
    assert_eq!(
        plan(&config::<G4K>(40, Features::ALL), |gather| {
            gather.add_leaves::<G4K>(0..4 << 30, Level::L2);
        }),
        whole
    );
    let scattered = plan(&config::<G4K>(40, Features::ALL), |gather| {
        for n in 0..17 {
            gather.add_leaves::<G4K>(n << 20..(n << 20) + 0x1000, Level::L3);
        }
    });
    assert_eq!(scattered, whole);
}

#[test]
fn nothing_owed_issues_nothing() {
    let config = config::<G4K>(40, Features::ALL);
    assert_eq!(plan(&config, |_| {}), []);
    let mut tables = live::<G4K>(40, BbmLevel::Level0);
    tables.flush();
    let mut gather = tables.gather();
    tables.invalidate(&mut gather);
    tables.get_and_clear(0..1 << 30, Clear::default(), |_| {}).unwrap();
    tables.flush();
    assert_eq!(tables.executor().take(), []);
}

#[test]
fn a_table_replaces_a_broken_entry_only_after_its_invalidation() {
    // A pointer to a table, then a block, may still be cached when a marker is cut at the same place.
    for broken in [0x1000, 2 << 20] {
        let mut tables = live::<G4K>(40, BbmLevel::Level3);
        tables.map(0..broken, 0, &Attributes::RAM, Existing::Refuse).unwrap();
        tables.unmap(0..broken).unwrap();
        tables.executor().take();
        tables.remark(0..0x1000, |_| Some(Marker::Vacant)).unwrap();
        let all = tables.executor().take();
        let publish = all.iter().rposition(|&i| i == Instruction::DsbIshst).unwrap();
        assert!(all[..publish].contains(&Instruction::Vmalle1is), "{broken:#x}: {all:x?}");
        assert!(tables.pending().is_empty());
        assert_eq!(
            tables.frame_bytes(),
            8192 + 2 * 0x1000,
            "what was unlinked is free as soon as nothing is owed"
        );
        // Elsewhere what is owed may wait.
        tables.unmap(0..broken).unwrap();
        tables.map(4 << 20..6 << 20, 0, &Attributes::RAM, Existing::Refuse).unwrap();
        tables.unmap(4 << 20..6 << 20).unwrap();
        tables.executor().take();
        tables.remark(1 << 30..(1 << 30) + 0x1000, |_| Some(Marker::Vacant)).unwrap();
        assert!(tables.executor().take().iter().all(|&i| i == Instruction::DsbIshst));
    }
}

#[test]
fn a_block_replaces_a_table_of_markers_only_after_its_invalidation() {
    let mut tables = live::<G4K>(40, BbmLevel::Level3);
    tables.remark(0..0x1000, |_| Some(Marker::Vacant)).unwrap();
    tables.executor().take();
    tables.map(0..2 << 20, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    let all = tables.executor().take();
    assert!(matches!(
        all[..],
        [Instruction::DsbIshst, Instruction::Ripas2e1is(_), .., Instruction::DsbIshst]
    ));
    assert_eq!(tables.frame_bytes(), 8192 + 0x1000);
}

#[test]
fn a_group_without_ranges_goes_member_by_member() {
    let mut tables = live_with::<G4K>(&SINGLES, Options::new(40));
    tables.map(0..0x1_0000, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    tables.executor().take();
    tables.age(0..0x1000, &mut tables.gather(), |_| {}).unwrap();
    let mut gather = tables.gather();
    tables.set_access_flags(0x3000, Access::Write, &mut gather).unwrap();
    tables.invalidate(&mut gather);
    assert_eq!(tables.executor().take_tlbi().len(), 16 + 1);
}
