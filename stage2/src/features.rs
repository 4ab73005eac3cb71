//! Features: what a processor offers for stage 2, read from its ID registers.
//!
//! Source: DDI 0487, D24.2 (ID_AA64MMFR0_EL1, ID_AA64MMFR1_EL1, ID_AA64MMFR2_EL1, ID_AA64ISAR0_EL1).

/// Raw values of the ID registers that describe stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct IdRegisters {
    /// ID_AA64ISAR0_EL1.
    pub isar0: u64,
    /// ID_AA64MMFR0_EL1.
    pub mmfr0: u64,
    /// ID_AA64MMFR1_EL1.
    pub mmfr1: u64,
    /// ID_AA64MMFR2_EL1.
    pub mmfr2: u64,
}

/// What hardware does about access and dirty state (FEAT_HAFDBS).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum HardwareUpdate {
    /// Nothing: software does both by faults.
    None,
    /// It sets the access flag.
    AccessFlag,
    /// It sets the access flag and, where DBM allows, S2AP\[1\].
    Dirty,
}

/// How far block sizes and the Contiguous bit may change without break-before-make (FEAT_BBM).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum BbmLevel {
    /// Break, invalidate, make.
    Level0,
    /// A block may change size through the nT bit; the Contiguous bit needs break-before-make.
    Level1,
    /// Both may change in place; until the invalidation an access may take a TLB conflict abort, which the
    /// monitor must answer by invalidating the VMID.
    Level2,
    /// Both may change in place, without conflict aborts.
    Level3,
}

/// Support of one granule at stage 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum GranuleSupport {
    /// Not at stage 2.
    None,
    /// With addresses up to 48 bits (4K, 16K), or as far as the physical size goes (64K).
    Plain,
    /// With 52-bit addresses through `VTCR_EL2.DS` (FEAT_LPA2).
    Lpa2,
}

/// What a processor offers for stage 2.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features {
    /// Physical address size in bits: 32, 36, 40, 42, 44, 48 or 52.
    pub pa_bits: u32,
    /// The 4K granule.
    pub g4k: GranuleSupport,
    /// The 16K granule.
    pub g16k: GranuleSupport,
    /// The 64K granule.
    pub g64k: GranuleSupport,
    /// VMID size in bits: 8 or 16.
    pub vmid_bits: u32,
    /// Hardware management of access and dirty state.
    pub update: HardwareUpdate,
    /// FEAT_XNX: execute-never per exception level.
    pub xnx: bool,
    /// FEAT_S2FWB: stage 2 can force the memory type.
    pub fwb: bool,
    /// FEAT_TTST: small translation tables (4K start level 3).
    pub ttst: bool,
    /// FEAT_TTL: level hints in TLB invalidation.
    pub ttl: bool,
    /// FEAT_TLBIRANGE: invalidation by range.
    pub tlbi_range: bool,
    /// FEAT_BBM.
    pub bbm: BbmLevel,
}

const fn field(register: u64, low: u32) -> u64 {
    register >> low & 0xf
}

impl Features {
    /// Everything that this crate knows how to use: for tables that only software reads, and for models.
    pub const ALL: Self = Self {
        pa_bits: 52,
        g4k: GranuleSupport::Lpa2,
        g16k: GranuleSupport::Lpa2,
        g64k: GranuleSupport::Plain,
        vmid_bits: 16,
        update: HardwareUpdate::Dirty,
        xnx: true,
        fwb: true,
        ttst: true,
        ttl: true,
        tlbi_range: true,
        bbm: BbmLevel::Level3,
    };

    /// Reads them from the ID registers. Reserved values count as the largest known below them.
    pub const fn from_id_registers(id: IdRegisters) -> Self {
        let pa_bits = match field(id.mmfr0, 0) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            // 56 bits (7) need 128-bit descriptors; 64-bit ones stop at 52.
            _ => 52,
        };
        // TGran4 and TGran64 count down from "supported" (0) to "not" (0xf); TGran16 counts up from "not" (0).
        let stage1_4k = match field(id.mmfr0, 28) {
            0 => GranuleSupport::Plain,
            1..=7 => GranuleSupport::Lpa2,
            _ => GranuleSupport::None,
        };
        let stage1_16k = match field(id.mmfr0, 20) {
            0 => GranuleSupport::None,
            1 => GranuleSupport::Plain,
            _ => GranuleSupport::Lpa2,
        };
        let stage1_64k = match field(id.mmfr0, 24) {
            0..=7 => GranuleSupport::Plain,
            _ => GranuleSupport::None,
        };
        let mmfr2 = id.mmfr2;
        Self {
            pa_bits,
            g4k: stage2_granule(field(id.mmfr0, 40), stage1_4k),
            g16k: stage2_granule(field(id.mmfr0, 32), stage1_16k),
            // FEAT_LPA2 is about the smaller granules: 64K has its 52 bits from the physical size.
            g64k: match stage2_granule(field(id.mmfr0, 36), stage1_64k) {
                GranuleSupport::None => GranuleSupport::None,
                _ => GranuleSupport::Plain,
            },
            vmid_bits: if field(id.mmfr1, 4) >= 2 { 16 } else { 8 },
            update: match field(id.mmfr1, 0) {
                0 => HardwareUpdate::None,
                1 => HardwareUpdate::AccessFlag,
                _ => HardwareUpdate::Dirty,
            },
            xnx: field(id.mmfr1, 28) != 0,
            fwb: field(mmfr2, 40) != 0,
            ttst: field(mmfr2, 28) != 0,
            ttl: field(mmfr2, 48) != 0,
            tlbi_range: field(id.isar0, 56) >= 2,
            bbm: match field(mmfr2, 52) {
                0 => BbmLevel::Level0,
                1 => BbmLevel::Level1,
                2 => BbmLevel::Level2,
                _ => BbmLevel::Level3,
            },
        }
    }
}

/// TGran*_2: 0 is "as at stage 1", 1 "not", 2 "yes", 3 "with 52 bits".
const fn stage2_granule(field: u64, stage1: GranuleSupport) -> GranuleSupport {
    match field {
        0 => stage1,
        1 => GranuleSupport::None,
        2 => GranuleSupport::Plain,
        _ => GranuleSupport::Lpa2,
    }
}
