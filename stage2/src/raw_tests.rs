//! Raw bytes: descriptors, registers and operands, worked out by hand from the architecture (DDI 0487).

use crate::testing::*;
use crate::*;

const GIB: u64 = 1 << 30;

fn plain(update: HardwareUpdate) -> Features {
    Features { pa_bits: 48, g4k: GranuleSupport::Plain, g16k: GranuleSupport::Plain, update, ..Features::ALL }
}

#[test]
fn a_page_of_ram() {
    let mut tables = live_with::<G4K>(&plain(HardwareUpdate::None), Options::new(40));
    let range = 0x4000_1000..0x4000_2000;
    tables.map(range, 0x8765_4000, &Attributes::RAM, Existing::Refuse).unwrap();
    // Valid and page 0b11, MemAttr 0b1111 << 2, S2AP read 1 << 6, SH 0b11 << 8, AF 1 << 10, DBM 1 << 51.
    assert_eq!(word(&tables, 0x4000_1000), 0x0008_0000_8765_477f);
    let (young, dirty) = (Attributes::RAM, Attributes::RAM.dirty());
    tables.map(0x5000_0000..0x5000_1000, 0x1000, &dirty, Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0x5000_0000), 0x0008_0000_0000_17ff, "dirty: S2AP write, 1 << 7");
    tables.map(0x6000_0000..0x6000_1000, 0x1000, &young.old(), Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0x6000_0000), 0x0008_0000_0000_137f, "old: no AF");
    tables.map(0x7000_0000..0x7000_1000, 0x1000, &young.read_only(), Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0x7000_0000), 0x0000_0000_0000_177f, "read-only: neither DBM nor S2AP write");
    let lost = Attributes { dirty: true, ..young.read_only() };
    tables.map(0x7100_0000..0x7100_1000, 0x1000, &lost, Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0x7100_0000), 0x0080_0000_0000_177f, "dirty without write: bit 55");
}

#[test]
fn blocks_and_groups() {
    let mut tables = live_with::<G4K>(&plain(HardwareUpdate::None), Options::new(40));
    let mut map = |ipa, oa, bytes| {
        tables.map(ipa..ipa + bytes, oa, &Attributes::RAM, Existing::Refuse).unwrap();
        word(&tables, ipa)
    };
    assert_eq!(map(0x4000_0000, 0x1_4000_0000, GIB), 0x0008_0001_4000_077d, "a 1G block");
    assert_eq!(map(0x8020_0000, 0x0020_0000, 2 << 20), 0x0008_0000_0020_077d, "a 2M block");
    assert_eq!(map(0x9000_0000, 0x0001_0000, 64 << 10), 0x0018_0000_0001_077f, "Contiguous: 1 << 52");
    assert_eq!(map(0xc000_0000, 0x0200_0000, 32 << 20), 0x0018_0000_0200_077d, "16 blocks of 2M");
    assert_eq!(word(&tables, 0xc1e0_0000), 0x0018_0000_03e0_077d, "and the last of them");
}

#[test]
fn memory_types_with_and_without_fwb() {
    let encode = |memory, fwb| {
        let attributes = Attributes { memory, ..Attributes::RAM };
        Encoding { fwb, xnx: true, ds: false }.encode(&attributes).map(|bits| bits >> 2 & 0xf)
    };
    for (memory, without, with) in [
        (Memory::WriteBack, Ok(0b1111), Ok(0b0110)),
        (Memory::NonCacheable, Ok(0b0101), Ok(0b0101)),
        (Memory::DevicenGnRnE, Ok(0b0000), Ok(0b0000)),
        (Memory::DevicenGnRE, Ok(0b0001), Ok(0b0001)),
        (Memory::DevicenGRE, Ok(0b0010), Ok(0b0010)),
        (Memory::DeviceGRE, Ok(0b0011), Ok(0b0011)),
        (Memory::Stage1, Err(AttributesError::NeedsFwb), Ok(0b0111)),
    ] {
        assert_eq!(encode(memory, false), without);
        assert_eq!(encode(memory, true), with);
    }
}

#[test]
fn execute_never_with_and_without_xnx() {
    let encode = |execute, xnx| {
        let attributes = Attributes { execute, ..Attributes::RAM };
        Encoding { fwb: false, xnx, ds: false }.encode(&attributes).map(|bits| bits >> 53 & 3)
    };
    assert_eq!(encode(Execute::Any, true), Ok(0b00));
    assert_eq!(encode(Execute::El0, true), Ok(0b01));
    assert_eq!(encode(Execute::None, true), Ok(0b10));
    assert_eq!(encode(Execute::El1, true), Ok(0b11));
    assert_eq!(encode(Execute::None, false), Ok(0b10), "bit 54 alone is XN");
    assert_eq!(encode(Execute::El0, false), Err(AttributesError::NeedsXnx(Execute::El0)));
}

#[test]
fn shareability_and_software_bits() {
    let encode = |shareability, software, ds| {
        let attributes = Attributes { shareability, software, ..Attributes::RAM };
        Encoding { fwb: false, xnx: true, ds }.encode(&attributes)
    };
    assert_eq!(encode(Shareability::Non, 0, false).unwrap() >> 8 & 3, 0b00);
    assert_eq!(encode(Shareability::Outer, 0, false).unwrap() >> 8 & 3, 0b10);
    assert_eq!(encode(Shareability::Inner, 0, false).unwrap() >> 8 & 3, 0b11);
    assert_eq!(encode(Shareability::Inner, 0, true).unwrap() >> 8 & 3, 0b00, "with DS they are OA[51:50]");
    assert_eq!(encode(Shareability::Inner, 0b101, false).unwrap() >> 55 & 0xf, 0b1010, "58:56");
    assert_eq!(encode(Shareability::Inner, 8, false), Err(AttributesError::Software(8)));
}

#[test]
fn attributes_come_back_as_they_went_in() {
    for fwb in [false, true] {
        for bits in 0..1 << 12u32 {
            let bit = |n: u32| bits >> n & 1 != 0;
            let attributes = Attributes {
                memory: [
                    Memory::WriteBack,
                    Memory::NonCacheable,
                    Memory::DevicenGnRE,
                    if fwb { Memory::Stage1 } else { Memory::DeviceGRE },
                ][(bits & 3) as usize],
                shareability: [Shareability::Non, Shareability::Outer, Shareability::Inner]
                    [(bits >> 2 & 3).min(2) as usize],
                execute: [Execute::Any, Execute::El0, Execute::None, Execute::El1][(bits >> 4 & 3) as usize],
                read: bit(6),
                write: bit(7),
                young: bit(8),
                dirty: bit(9),
                software: (bits >> 9 & 7) as u8,
            };
            let encoding = Encoding { fwb, xnx: true, ds: false };
            let word = encoding.encode(&attributes).unwrap();
            assert_eq!(encoding.decode(Descriptor::new(word)), attributes);
        }
    }
}

#[test]
fn fifty_two_bit_output_addresses() {
    let oa = 0x000d_8000_0000_0000u64 | 0x4_0000_0000;
    // 64K: OA[51:48] = 0xd in bits 15:12.
    let config = Config::<G64K>::new(&Features::ALL, Options::new(48)).unwrap();
    assert_eq!(config.oa_bits(), 52);
    assert_eq!(config.format().encode(oa), 0x0000_8004_0000_d000);
    assert_eq!(config.format().table(0x0000_8004_0000_d000), oa);
    // DS = 1: OA[51:50] = 0b11 in bits 9:8, OA[49:48] = 0b01 in place.
    for format in [
        Config::<G4K>::new(&Features::ALL, Options { ds: true, ..Options::new(48) }).unwrap().format(),
        Config::<G16K>::new(&Features::ALL, Options::new(52)).unwrap().format(),
    ] {
        assert_eq!(format.encode(oa), 0x0001_8004_0000_0300);
        assert_eq!(format.table(0x0001_8004_0000_0303), oa);
    }
    let mut tables =
        live_with::<G4K>(&Features::ALL, Options { ds: true, oa_bits: Some(52), ..Options::new(48) });
    tables.map(0..0x1000, oa, &Attributes::RAM, Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0), 0x0009_8004_0000_077f);
    assert_eq!(tables.translate(0), Some(oa));
}

#[test]
fn runs_of_pages_cross_the_bit_where_the_address_moves() {
    let start = (1 << 50) - 0x3000;
    let mut tables =
        live_with::<G4K>(&Features::ALL, Options { ds: true, oa_bits: Some(52), ..Options::new(48) });
    tables.map(0x5000..0xb000, start, &Attributes::RAM, Existing::Refuse).unwrap();
    for page in 0..6 {
        assert_eq!(tables.translate(0x5000 + page * 0x1000), Some(start + page * 0x1000));
    }
    assert_eq!(tables.runs(0x5000..0xb000).unwrap().count(), 1);
    let start = (3 << 48) - 0x2_0000;
    let mut tables = live::<G64K>(48, BbmLevel::Level0);
    tables.map(0..0x4_0000, start, &Attributes::RAM, Existing::Refuse).unwrap();
    assert_eq!(word(&tables, 0x1_0000) & 0xffff_ffff_f000, 0xffff_ffff_2000);
    assert_eq!(word(&tables, 0x2_0000) & 0xffff_ffff_f000, 0x0000_0000_3000);
    assert_eq!(tables.translate(0x2_0000), Some(3 << 48));
}

#[test]
fn runs_begin_and_end_inside_a_group() {
    let mut tables = ledger::<G4K>(40);
    tables.map(0x1_0000..0x3_0000, 0x8_0000, &Attributes::RAM, Existing::Refuse).unwrap();
    let runs: std::vec::Vec<Run> = tables.runs(0x1_5000..0x2_7000).unwrap().collect();
    let content = Content::Mapped { oa: 0x8_5000, attributes: Attributes::RAM };
    assert_eq!(runs, [Run { range: 0x1_5000..0x2_7000, content }]);
}

#[test]
fn table_descriptors() {
    let mut tables = live_with::<G4K>(&plain(HardwareUpdate::None), Options::new(32));
    tables.map(0..0x1000, 0, &Attributes::RAM, Existing::Refuse).unwrap();
    let root = tables.walker().root_table()[0].load(core::sync::atomic::Ordering::Relaxed);
    assert_eq!(root & 0xfff, 0b11);
    assert_eq!(root >> 48, 0);
}

#[test]
fn vtcr_of_a_forty_bit_guest() {
    let features = Features { update: HardwareUpdate::None, ..plain(HardwareUpdate::None) };
    let config = Config::<G4K>::new(&features, Options::new(40)).unwrap();
    // T0SZ 24; SL0 1 (level 1, two concatenated tables); IRGN0, ORGN0 0b01; SH0 0b11; TG0 0b00; PS 0b101;
    // VS 1; RES1 bit 31.
    assert_eq!(config.vtcr(), 0x800d_3558);
    assert_eq!((config.start(), config.root_entries(), config.root_size()), (Level::L1, 1024, 8192));
    let config = Config::<G4K>::new(&plain(HardwareUpdate::Dirty), Options::new(40)).unwrap();
    assert_eq!(config.vtcr(), 0x806d_3558, "HA bit 21, HD bit 22");
    let config = Config::<G4K>::new(&plain(HardwareUpdate::AccessFlag), Options::new(40)).unwrap();
    assert_eq!(config.vtcr(), 0x802d_3558, "HA alone");
    let config = Config::<G4K>::new(&Features { vmid_bits: 8, ..features }, Options::new(40)).unwrap();
    assert_eq!(config.vtcr(), 0x8005_3558, "8-bit VMIDs: VS 0");
}

#[test]
fn vtcr_start_levels() {
    fn sl<G: Granule>(ipa_bits: u32, start: Level) -> (u64, u64, u64, u64) {
        let options = Options { start: Some(start), ..Options::new(ipa_bits) };
        let vtcr = Config::<G>::new(&Features::ALL, options).unwrap().vtcr();
        (vtcr >> 14 & 3, vtcr >> 33 & 1, vtcr >> 6 & 3, vtcr & 0x3f)
    }
    // (TG0, SL2, SL0, T0SZ)
    assert_eq!(sl::<G4K>(34, Level::L2), (0b00, 0, 0, 30));
    assert_eq!(sl::<G4K>(40, Level::L1), (0b00, 0, 1, 24));
    assert_eq!(sl::<G4K>(48, Level::L0), (0b00, 0, 2, 16));
    assert_eq!(sl::<G4K>(52, Level::L0), (0b00, 0, 2, 12));
    assert_eq!(sl::<G4K>(52, Level::MINUS_1), (0b00, 1, 0, 12));
    assert_eq!(sl::<G16K>(40, Level::L2), (0b10, 0, 1, 24));
    assert_eq!(sl::<G16K>(47, Level::L1), (0b10, 0, 2, 17));
    assert_eq!(sl::<G16K>(52, Level::L0), (0b10, 0, 3, 12));
    assert_eq!(sl::<G64K>(33, Level::L3), (0b01, 0, 0, 31));
    assert_eq!(sl::<G64K>(40, Level::L2), (0b01, 0, 1, 24));
    assert_eq!(sl::<G64K>(52, Level::L1), (0b01, 0, 2, 12));
    let ds = Config::<G4K>::new(&Features::ALL, Options::new(52)).unwrap();
    assert_eq!(ds.vtcr() >> 32 & 1, 1, "DS");
    assert_eq!(ds.vtcr() >> 16 & 7, 6, "PS");
}

#[test]
fn vttbr() {
    let config = Config::<G4K>::new(&plain(HardwareUpdate::None), Options::new(40)).unwrap();
    assert_eq!(config.vttbr(0x1234_4000, 0xabcd), Some(0xabcd_0000_1234_4000));
    assert_eq!(config.vttbr(0x1234_5000, 1), None, "two concatenated tables need 8 KiB");
    let config = Config::<G64K>::new(&Features::ALL, Options::new(48)).unwrap();
    assert_eq!(config.vttbr(0x000d_0000_1235_0000, 1), Some(0x0001_0000_1235_0034), "BADDR[51:48] in 5:2");
    let config = Config::<G4K>::new(&Features { vmid_bits: 8, ..Features::ALL }, Options::new(32)).unwrap();
    assert_eq!(config.vttbr(0x4000, 0x100), None);
    assert_eq!(config.vttbr(0x4000, 0xff), Some(0x00ff_0000_0000_4000));
}

#[test]
fn id_registers() {
    // Cortex-A57: PARange 44 bits, 4K and 64K at stage 1 (and so at stage 2), no 16K, no HAFDBS, 8-bit VMIDs.
    let a57 = Features::from_id_registers(IdRegisters { mmfr0: 0x1124, ..IdRegisters::default() });
    assert_eq!(a57.pa_bits, 44);
    assert_eq!(
        (a57.g4k, a57.g16k, a57.g64k),
        (GranuleSupport::Plain, GranuleSupport::None, GranuleSupport::Plain)
    );
    assert_eq!((a57.vmid_bits, a57.update, a57.bbm), (8, HardwareUpdate::None, BbmLevel::Level0));
    assert!(!(a57.xnx || a57.fwb || a57.ttst || a57.ttl || a57.tlbi_range));
    // Everything: PARange 6; TGran4_2, TGran16_2 = 3; TGran64_2 = 2; HAFDBS 2, VMIDBits 2, XNX 1; ST 1, FWB 1,
    // TTL 1, BBM 2; TLB 2.
    let all = Features::from_id_registers(IdRegisters {
        isar0: 2 << 56,
        mmfr0: 6 | 3 << 40 | 2 << 36 | 3 << 32 | 0xf << 28 | 0xf << 24,
        mmfr1: 2 | 2 << 4 | 1 << 28,
        mmfr2: 1 << 28 | 1 << 40 | 1 << 48 | 2 << 52,
    });
    assert_eq!(all, Features { bbm: BbmLevel::Level2, ..Features::ALL });
    // TGran*_2 = 1: not at stage 2, whatever stage 1 has.
    let none = Features::from_id_registers(IdRegisters {
        mmfr0: 5 | 1 << 40 | 1 << 36 | 1 << 32 | 2 << 20,
        ..IdRegisters::default()
    });
    assert_eq!(
        (none.g4k, none.g16k, none.g64k),
        (GranuleSupport::None, GranuleSupport::None, GranuleSupport::None)
    );
}

#[test]
fn what_is_missing_is_named() {
    use ConfigError as E;
    fn new<G: Granule>(features: Features, options: Options) -> Result<(), ConfigError> {
        Config::<G>::new(&features, options).map(|_| ())
    }
    let all = Features::ALL;
    let small = plain(HardwareUpdate::None);
    let options = Options::new(40);
    assert_eq!(new::<G16K>(Features { g16k: GranuleSupport::None, ..all }, options), Err(E::Granule(16)));
    assert_eq!(new::<G4K>(all, Options::new(31)), Err(E::IpaBits(31)));
    assert_eq!(new::<G4K>(all, Options::new(53)), Err(E::IpaBits(53)));
    let error = E::IpaBeyondPa { ipa_bits: 50, pa_bits: 48 };
    assert_eq!(new::<G4K>(small, Options::new(50)), Err(error));
    assert_eq!(new::<G4K>(all, Options { oa_bits: Some(41), ..options }), Err(E::OaBits(41)));
    assert_eq!(new::<G4K>(Features { pa_bits: 50, ..all }, options), Err(E::OaBits(50)));
    let error = E::OaBeyondPa { oa_bits: 52, pa_bits: 48 };
    assert_eq!(new::<G4K>(small, Options { oa_bits: Some(52), ..options }), Err(error));
    assert_eq!(
        new::<G4K>(Features { g4k: GranuleSupport::Plain, ..all }, Options::new(50)),
        Err(E::NeedsLpa2)
    );
    assert_eq!(new::<G64K>(all, Options { ds: true, ..options }), Err(E::DsWith64K));
    let error = E::Start { start: Level::L2, ipa_bits: 40 };
    assert_eq!(new::<G4K>(all, Options { start: Some(Level::L2), ..options }), Err(error));
    let error = E::StartNeedsPa { start: Level::L0, needs: 44 };
    let small_pa = Features { pa_bits: 42, ..small };
    assert_eq!(new::<G4K>(small_pa, Options { start: Some(Level::L0), ..options }), Err(error));
    let error = E::StartNeedsPa { start: Level::L0, needs: 52 };
    let lpa2 = Features { pa_bits: 48, ..all };
    assert_eq!(new::<G16K>(lpa2, Options { start: Some(Level::L0), ..Options::new(48) }), Err(error));
    assert_eq!(new::<G16K>(lpa2, Options::new(48)), Ok(()), "from level 1");
    // With 4K level 3 resolves at most 25 bits: no input size of 32 bits or more starts there.
    let error = E::Start { start: Level::L3, ipa_bits: 32 };
    assert_eq!(new::<G4K>(all, Options { start: Some(Level::L3), ..Options::new(32) }), Err(error));
    assert_eq!(
        new::<G4K>(Features { fwb: false, ..all }, Options { fwb: true, ..options }),
        Err(E::NeedsFwb)
    );
    let error = E::NeedsHafdbs(HardwareUpdate::Dirty);
    assert_eq!(new::<G4K>(small, Options { update: Some(HardwareUpdate::Dirty), ..options }), Err(error));
    let low = Features { bbm: BbmLevel::Level1, ..all };
    let error = E::NeedsBbm(BbmLevel::Level2);
    assert_eq!(new::<G4K>(low, Options { bbm: Some(BbmLevel::Level2), ..options }), Err(error));
}

#[test]
fn sizes_of_blocks_and_groups() {
    const K: u64 = 1 << 10;
    const M: u64 = 1 << 20;
    const T: u64 = 1 << 40;
    fn sizes<G: Granule>() -> [(u64, u64); 3] {
        [Level::L3, Level::L2, Level::L1].map(|level| (G::size(level), G::group_size(level)))
    }
    assert_eq!(sizes::<G4K>(), [(4 * K, 64 * K), (2 * M, 32 * M), (GIB, 16 * GIB)]);
    assert_eq!(sizes::<G16K>(), [(16 * K, 2 * M), (32 * M, GIB), (64 * GIB, 64 * GIB)]);
    assert_eq!(sizes::<G64K>(), [(64 * K, 2 * M), (512 * M, 16 * GIB), (4 * T, 4 * T)]);
    assert_eq!(G4K::group_size(Level::L0), 512 * GIB);
    let config = Config::<G64K>::new(&Features::ALL, Options::new(52)).unwrap();
    assert_eq!(config.group(Level::MINUS_1), 1, "a level that the granule doesn't have");
}

#[test]
fn every_input_size_has_a_start_level_and_none_concatenates_more_than_sixteen() {
    fn check<G: Granule>() {
        for bits in 32..=52 {
            for start in start_levels::<G>().filter(|&level| input_bits::<G>(level).contains(&bits)) {
                let options = Options { start: Some(start), ..Options::new(bits) };
                let Ok(config) = Config::<G>::new(&Features::ALL, options) else {
                    panic!("{bits} bits from {start}")
                };
                assert!(config.root_size() <= 16 * G::SIZE);
                assert!(config.root_entries() >= 2);
            }
            Config::<G>::new(&Features::ALL, Options::new(bits)).unwrap();
        }
    }
    check::<G4K>();
    check::<G16K>();
    check::<G64K>();
}

#[test]
fn blocks_above_level_1_and_2_only_with_52_bits() {
    fn top<G: Granule>(options: Options) -> Level {
        Config::<G>::new(&Features::ALL, options).unwrap().largest_leaf()
    }
    let ds = Options { ds: true, ..Options::new(48) };
    assert_eq!(top::<G4K>(Options::new(48)), Level::L1);
    assert_eq!(top::<G4K>(ds), Level::L0);
    assert_eq!(top::<G4K>(Options { start: Some(Level::MINUS_1), ..Options::new(52) }), Level::L0);
    assert_eq!(top::<G16K>(Options::new(47)), Level::L2);
    assert_eq!(top::<G16K>(Options { ds: true, ..Options::new(47) }), Level::L1);
    assert_eq!(top::<G64K>(Options::new(48)), Level::L1);
    assert_eq!(top::<G64K>(Options { oa_bits: Some(48), ..Options::new(48) }), Level::L2);
}

#[test]
fn markers_are_invalid_and_look_neither_young_nor_dirty_nor_contiguous() {
    for (marker, bits) in Marker::ALL.into_iter().zip([0b0010, 0b0100, 0b0110]) {
        assert_eq!(marker.word(), bits);
        let descriptor = Descriptor::new(bits);
        assert_eq!(descriptor.marker(), Some(marker));
        assert!(!descriptor.young() && !descriptor.dirty() && !descriptor.contiguous());
        for level in [Level::L0, Level::L1, Level::L2, Level::L3] {
            assert!(!descriptor.is_leaf(level) && !descriptor.is_table(level));
        }
        assert_eq!(Marker::from_word(bits | 1), None, "a valid descriptor is no marker");
        assert_eq!(Marker::from_word(bits | 1 << 52), None);
    }
    assert_eq!(Marker::from_word(0), None);
}
