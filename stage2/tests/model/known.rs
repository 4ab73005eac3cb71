//! Known: the model against words from the architecture, written out by hand.

use stage2::Instruction;

use crate::flat::Set;
use crate::regime::{Processor, Regime};
use crate::tlbi::{Scope, check_order};
use crate::word::Word;

const PLAIN: Processor = Processor { bbm: 0, fwb: false, xnx: false };

/// 4K granule, 40 bits in, 48 out, start level 1, HA and HD.
const VTCR_4K: u64 = 1 << 31 | 1 << 22 | 1 << 21 | 5 << 16 | 1 << 6 | 24;
/// 64K granule, 48 bits in, 52 out, start level 1 (SL0 = 2).
const VTCR_64K: u64 = 1 << 31 | 6 << 16 | 0b01 << 14 | 2 << 6 | 16;
/// 4K granule with DS, 52 bits in and out, start level -1 (SL2 = 1).
const VTCR_DS: u64 = 1 << 33 | 1 << 32 | 1 << 31 | 6 << 16 | 12;

fn regime(vtcr: u64, vttbr: u64) -> Regime {
    Regime::new(vtcr, vttbr, PLAIN).expect("a valid configuration")
}

#[test]
fn registers_decode() {
    let plain = regime(VTCR_4K, 0x8000_0000);
    assert_eq!((plain.shift, plain.start, plain.ipa_bits, plain.oa_bits), (12, 1, 40, 48));
    assert_eq!((plain.root, plain.root_entries(), plain.ha, plain.hd), (0x8000_0000, 1024, true, true));
    // Two concatenated tables: aligned to both.
    assert!(Regime::new(VTCR_4K, 0x8000_1000, PLAIN).is_err());

    let wide = regime(VTCR_64K, 0x8000_0000 | 0xd << 2);
    assert_eq!((wide.shift, wide.start, wide.oa_bits), (16, 1, 52));
    assert_eq!((wide.root, wide.root_entries()), (0xd_0000_8000_0000, 64));

    let ds = regime(VTCR_DS, 0x8000_0000);
    assert_eq!((ds.shift, ds.start, ds.ds, ds.root_entries()), (12, -1, true, 16));
}

#[test]
fn registers_that_contradict_themselves_are_refused() {
    // TG0 = 0b11; start level -1 without DS; 16K start level 0 without DS; 52 bits out of 4K without DS; RES1.
    for vtcr in [
        VTCR_4K | 0b11 << 14,
        VTCR_DS & !(1 << 32),
        VTCR_4K | 0b10 << 14 | 3 << 6,
        VTCR_4K | 6 << 16,
        VTCR_4K & !(1 << 31),
        // 40 bits from start level 3: more than sixteen tables.
        VTCR_4K | 3 << 6,
    ] {
        assert!(Regime::new(vtcr, 0, PLAIN).is_err(), "{vtcr:#x}");
    }
}

#[test]
fn output_addresses_decode() {
    let oa = |regime: &Regime, word, level| match Word::decode(regime, word, level) {
        Ok(Word::Leaf(leaf)) => leaf.oa,
        other => panic!("{other:x?}"),
    };
    let leaf = 0b1111 << 2 | 1 << 10 | 1 << 6;
    let plain = regime(VTCR_4K, 0);
    assert_eq!(oa(&plain, 0x0000_8123_4567_8000 | leaf | 0b11, 3), 0x8123_4567_8000);
    assert_eq!(oa(&plain, 0x0000_8123_4560_0000 | leaf | 0b01, 2), 0x8123_4560_0000);
    // OA[51:48] in 15:12.
    let wide = regime(VTCR_64K, 0);
    assert_eq!(oa(&wide, 0x0000_0123_4567_a000 | leaf | 0b11, 3), 0xa_0123_4567_0000);
    // OA[51:50] in 9:8.
    let ds = regime(VTCR_DS, 0);
    assert_eq!(oa(&ds, 0x0003_0123_4567_8000 | 0b10 << 8 | leaf | 0b11, 3), 0xb_0123_4567_8000);
}

#[test]
fn reserved_words_are_refused() {
    let plain = regime(VTCR_4K, 0);
    let leaf = 0b1111 << 2 | 1 << 10 | 1 << 6;
    for (word, level) in [
        // A block at level 3, bits below a block's address, MemAttr 0b0100, SH 0b01, XN[0] without XNX, FnXS,
        // PBHA, S2AP[1] without DBM.
        (leaf | 0b01, 3),
        (leaf | 0x2_1000 | 0b01, 2),
        (0b0100 << 2 | 1 << 10 | 0b11, 3),
        (leaf | 0b01 << 8 | 0b11, 3),
        (leaf | 1 << 53 | 0b11, 3),
        (leaf | 1 << 11 | 0b11, 3),
        (leaf | 1 << 59 | 0b11, 3),
        (leaf | 1 << 7 | 0b11, 3),
        // A table with attributes; an output address of 49 bits.
        (0x1000 | 1 << 10 | 0b11, 1),
        (1 << 48 | leaf | 0b11, 3),
    ] {
        assert!(Word::decode(&plain, word, level).is_err(), "{word:#x} at level {level}");
    }
    // Level 0 has blocks with DS only, level 1 of 64K with 52 bits only.
    assert!(Word::decode(&regime(VTCR_DS, 0), leaf | 0b01, 0).is_ok());
    assert!(Word::decode(&regime(VTCR_64K, 0), leaf | 0b01, 1).is_ok());
}

#[test]
fn operands_decode() {
    let plain = regime(VTCR_4K, 0);
    let scope = |regime: &Regime, instruction| Scope::decode(regime, instruction).expect("decodes");
    let stage2 = |range, leaf_only, level| Some(Scope::Stage2 { range, leaf_only, level });
    // IPA 0x8765_4000, TTL: 4K, level 3.
    let address = Instruction::Ipas2le1is(0b0111 << 44 | 0x8_7654);
    assert_eq!(scope(&plain, address), stage2(0x8765_4000..0x8765_5000, true, Some(3)));
    assert_eq!(
        scope(&plain, Instruction::Ipas2e1is(0x8_7654)),
        stage2(0x8765_4000..0x8765_5000, false, None)
    );
    // TG 4K, SCALE 1, NUM 2: 3 x 64 pages from page 0x100.
    let range = Instruction::Ripas2le1is(0b01 << 46 | 1 << 44 | 2 << 39 | 0x100);
    assert_eq!(scope(&plain, range), stage2(0x10_0000..0x1c_0000, true, None));
    // With DS the base counts in 64 KiB.
    let ds = regime(VTCR_DS, 0);
    assert_eq!(scope(&ds, range), stage2(0x100_0000..0x10c_0000, true, None));
    // TG 0 invalidates nothing; a hint of level 2 needs a base aligned to 2 MiB.
    assert!(Scope::decode(&plain, Instruction::Ripas2e1is(0x100)).is_err());
    assert!(Scope::decode(&plain, Instruction::Ripas2e1is(0b01 << 46 | 0b10 << 37 | 0x100)).is_err());
    assert!(Scope::decode(&plain, Instruction::Ripas2e1is(0b01 << 46 | 0b10 << 37 | 0x200)).is_ok());
}

#[test]
fn only_the_right_order_invalidates() {
    use Instruction::{DsbIsh, DsbIshst, Ipas2e1is, Isb, Vmalle1is, Vmalls12e1is};
    for good in [
        vec![DsbIshst],
        vec![DsbIshst, Vmalls12e1is, DsbIsh, Isb],
        vec![DsbIshst, Ipas2e1is(0), Ipas2e1is(1), DsbIsh, Vmalle1is, DsbIsh, Isb],
    ] {
        assert_eq!(check_order(&good), Ok(()));
    }
    let right = [DsbIshst, Ipas2e1is(0), DsbIsh, Vmalle1is, DsbIsh, Isb];
    for left_out in 0..right.len() {
        let mut wrong = right.to_vec();
        wrong.remove(left_out);
        assert!(check_order(&wrong).is_err(), "{wrong:?}");
    }
    assert!(check_order(&[]).is_err());
}

#[test]
fn sets_of_addresses_are_sets() {
    let mut set = Set::empty(100);
    set.insert(10..20);
    set.insert(20..30);
    set.insert(40..50);
    assert_eq!(set.members().collect::<Vec<_>>(), [10..30, 40..50]);
    set.set(15..45, false);
    assert_eq!(set.members().collect::<Vec<_>>(), [10..15, 45..50]);
    let mut other = Set::empty(100);
    other.insert(0..12);
    assert_eq!(set.without(&other).members().collect::<Vec<_>>(), [12..15, 45..50]);
    assert_eq!(set.or(&other).members().collect::<Vec<_>>(), [0..15, 45..50]);
    assert!(set.touches(14..46) && !set.touches(15..45));
    assert_eq!(set.within(11..47).collect::<Vec<_>>(), [(11..15, true), (15..45, false), (45..47, true)]);
}
