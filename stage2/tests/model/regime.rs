//! The regime: what VTCR_EL2 and VTTBR_EL2 tell the hardware, decoded from their bits.
//!
//! Nothing here comes from the crate under test. Source: DDI 0487, D24.2 (VTCR_EL2, VTTBR_EL2), D8.2
//! (translation process), D8.7 (Contiguous bit).

use crate::violation::Violation;

/// What the processor offers beside its registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processor {
    /// FEAT_BBM level.
    pub(crate) bbm: u32,
    /// `HCR_EL2.FWB`.
    pub(crate) fwb: bool,
    /// FEAT_XNX.
    pub(crate) xnx: bool,
}

/// One stage-2 translation regime, as hardware sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Regime {
    /// log2 of the granule.
    pub(crate) shift: u32,
    pub(crate) ipa_bits: u32,
    pub(crate) oa_bits: u32,
    /// Level of the first lookup.
    pub(crate) start: i32,
    /// `VTCR_EL2.DS`.
    pub(crate) ds: bool,
    /// `VTCR_EL2.HA`.
    pub(crate) ha: bool,
    /// `VTCR_EL2.HD`.
    pub(crate) hd: bool,
    /// Address of the start level.
    pub(crate) root: u64,
    pub(crate) processor: Processor,
}

const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1 << (high - low + 1)) - 1)
}

impl Regime {
    pub(crate) fn new(vtcr: u64, vttbr: u64, processor: Processor) -> Result<Self, Violation> {
        let reserved = |why| Violation::Reserved { level: i32::MIN, word: vtcr, why };
        let ipa_bits = 64 - bits(vtcr, 5, 0) as u32;
        let sl0 = bits(vtcr, 7, 6) as i32;
        let sl2 = bits(vtcr, 33, 33);
        let ds = bits(vtcr, 32, 32) == 1;
        let shift = match bits(vtcr, 15, 14) {
            0b00 => 12,
            0b01 => 16,
            0b10 => 14,
            _ => return Err(reserved("TG0")),
        };
        let start = match (shift, sl2, sl0) {
            (12, 0, 3) => 3,
            (12, 0, sl0) => 2 - sl0,
            (12, 1, 0) if ds => -1,
            (12, ..) => return Err(reserved("SL2 with SL0")),
            (14, 0, 3) if !ds => return Err(reserved("16K start level 0 without DS")),
            (16, 0, 3) => return Err(reserved("64K start level 0")),
            (_, 0, sl0) => 3 - sl0,
            _ => return Err(reserved("SL2 with 16K or 64K")),
        };
        let oa_bits = match bits(vtcr, 18, 16) {
            0 => 32,
            1 => 36,
            2 => 40,
            3 => 42,
            4 => 44,
            5 => 48,
            6 => 52,
            _ => return Err(reserved("PS")),
        };
        if shift < 16 && !ds && (ipa_bits > 48 || oa_bits > 48) {
            return Err(reserved("addresses beyond 48 bits without DS"));
        }
        if bits(vtcr, 31, 31) != 1 {
            return Err(reserved("bit 31 is RES1"));
        }
        let mut root = bits(vttbr, 47, 1) << 1;
        if ds || shift == 16 && oa_bits == 52 {
            root = bits(vttbr, 47, 6) << 6 | bits(vttbr, 5, 2) << 48;
        }
        let (ha, hd) = (bits(vtcr, 21, 21) == 1, bits(vtcr, 22, 22) == 1);
        let regime = Self { shift, ipa_bits, oa_bits, start, ds, ha, hd, root, processor };

        // AArch64.S2InconsistentSL: between one bit at the start level and sixteen tables.
        let low = regime.entry_shift(start);
        if ipa_bits <= low || ipa_bits > low + regime.stride() + 4 {
            return Err(reserved("T0SZ doesn't suit the start level"));
        }
        let size = (regime.root_entries() * 8).max(64) as u64;
        if !root.is_multiple_of(size) {
            return Err(reserved("the start level isn't aligned to its size"));
        }
        Ok(regime)
    }

    pub(crate) fn page(&self) -> u64 {
        1 << self.shift
    }

    pub(crate) fn ipa_size(&self) -> u64 {
        1 << self.ipa_bits
    }

    /// Address bits that one table resolves.
    fn stride(&self) -> u32 {
        self.shift - 3
    }

    /// log2 of what one entry maps.
    fn entry_shift(&self, level: i32) -> u32 {
        self.shift + (3 - level) as u32 * self.stride()
    }

    /// Bytes that one entry maps.
    pub(crate) fn size(&self, level: i32) -> u64 {
        1 << self.entry_shift(level)
    }

    /// Entries of a table below the start level.
    pub(crate) fn entries(&self) -> usize {
        1 << self.stride()
    }

    /// Entries of the start level, concatenated tables included.
    pub(crate) fn root_entries(&self) -> usize {
        1 << (self.ipa_bits - self.entry_shift(self.start))
    }

    pub(crate) fn entries_at(&self, level: i32) -> usize {
        if level == self.start { self.root_entries() } else { self.entries() }
    }

    pub(crate) fn index(&self, level: i32, ipa: u64) -> usize {
        (ipa >> self.entry_shift(level)) as usize & (self.entries_at(level) - 1)
    }

    /// Members of a contiguous group; 1 where the level has none.
    pub(crate) fn members(&self, level: i32) -> usize {
        match (self.shift, level) {
            (12, 1..=3) => 16,
            (14, 3) => 128,
            (14, 2) | (16, 2 | 3) => 32,
            _ => 1,
        }
    }

    /// Whether a block may stand at this level (level 3: a page).
    pub(crate) fn has_leaf(&self, level: i32) -> bool {
        match (self.shift, level) {
            (_, 2 | 3) => true,
            (12, 1) => true,
            (12, 0) | (14, 1) => self.ds,
            (16, 1) => self.oa_bits == 52,
            _ => false,
        }
    }
}
