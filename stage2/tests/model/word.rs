//! Words: one descriptor, decoded from the architecture's own bit positions.
//!
//! Stricter than hardware: what the architecture ignores must be zero, so that nothing is there by accident.
//! Source: DDI 0487, D8.3 (stage 2 descriptor formats), D8.4 (permissions), D8.6 (memory attributes).

use stage2::{Attributes, Execute, Memory, Shareability};

use crate::regime::Regime;
use crate::violation::Violation;

/// The access flag.
pub(crate) const AF: u64 = 1 << 10;
/// S2AP\[0\]: may be read.
pub(crate) const READ: u64 = 1 << 6;
/// S2AP\[1\]: may be written at once.
pub(crate) const WRITE: u64 = 1 << 7;
/// Dirty bit modifier: hardware may turn a store into S2AP\[1\].
pub(crate) const DBM: u64 = 1 << 51;
/// Contiguous.
pub(crate) const CONTIGUOUS: u64 = 1 << 52;
/// Not for translation: the block isn't cached so that it could clash.
pub(crate) const NT: u64 = 1 << 16;
/// The crate's software dirty bit.
pub(crate) const SOFT_DIRTY: u64 = 1 << 55;
/// What may differ between the members of a group.
pub(crate) const MARKS: u64 = AF | WRITE | SOFT_DIRTY;

/// What a leaf says beside its address, its size and what hardware marks in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Fields {
    pub(crate) memory: u8,
    pub(crate) shareability: u8,
    pub(crate) execute_never: u8,
    pub(crate) read: bool,
    pub(crate) write: bool,
    pub(crate) software: u8,
}

impl Fields {
    /// What the descriptor must say for these attributes.
    pub(crate) fn new(attributes: &Attributes, fwb: bool, ds: bool) -> Self {
        let memory = match (attributes.memory, fwb) {
            (Memory::WriteBack, false) => 0b1111,
            (Memory::WriteBack, true) => 0b0110,
            (Memory::Stage1, _) => 0b0111,
            (Memory::NonCacheable, _) => 0b0101,
            (Memory::DevicenGnRnE, _) => 0b0000,
            (Memory::DevicenGnRE, _) => 0b0001,
            (Memory::DevicenGRE, _) => 0b0010,
            (Memory::DeviceGRE, _) => 0b0011,
        };
        let shareability = match attributes.shareability {
            _ if ds => 0,
            Shareability::Non => 0b00,
            Shareability::Outer => 0b10,
            Shareability::Inner => 0b11,
        };
        let (read, write, software) = (attributes.read, attributes.write, attributes.software);
        Self { memory, shareability, execute_never: never(attributes.execute), read, write, software }
    }
}

/// XN\[1:0\].
pub(crate) fn never(execute: Execute) -> u8 {
    match execute {
        Execute::Any => 0b00,
        Execute::El0 => 0b01,
        Execute::None => 0b10,
        Execute::El1 => 0b11,
    }
}

/// A block or page descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct LeafWord {
    pub(crate) word: u64,
    pub(crate) level: i32,
    pub(crate) oa: u64,
    pub(crate) fields: Fields,
}

impl LeafWord {
    pub(crate) fn has(&self, bits: u64) -> bool {
        self.word & bits != 0
    }

    /// nT stands in blocks; in a page of the 64K granule the same bit is part of the address.
    pub(crate) fn nt(&self) -> bool {
        self.level < 3 && self.has(NT)
    }

    pub(crate) fn dirty(&self) -> bool {
        self.has(WRITE | SOFT_DIRTY)
    }

    pub(crate) fn young(&self) -> bool {
        self.has(AF)
    }
}

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// Nothing translates here, and hardware ignores the rest.
    Invalid(u64),
    /// The walk goes on at this address.
    Table(u64),
    Leaf(LeafWord),
}

/// The bits `high` down to `low`.
const fn span(high: u32, low: u32) -> u64 {
    (1 << (high + 1)) - (1 << low)
}

impl Word {
    pub(crate) fn decode(regime: &Regime, word: u64, level: i32) -> Result<Self, Violation> {
        let reserved = |why| Err(Violation::Reserved { level, word, why });
        if word & 1 == 0 {
            return Ok(Self::Invalid(word));
        }
        let wide = regime.shift == 16 && regime.oa_bits == 52;
        if word & 0b10 != 0 && level < 3 {
            let (next, mask) = address(regime, word, regime.shift, wide);
            if word & !(mask | 0b11) != 0 {
                return reserved("a table descriptor has bits beside its address");
            }
            return Ok(Self::Table(next));
        }
        if word & 0b10 == 0 && level == 3 {
            return reserved("a block descriptor at level 3");
        }
        if !regime.has_leaf(level) {
            return reserved("no blocks at this level");
        }
        let (oa, mask) = address(regime, word, regime.size(level).trailing_zeros(), wide);
        if oa >> regime.oa_bits != 0 {
            return Err(Violation::OutputSize { ipa: 0, oa });
        }
        let shareability = if regime.ds { 0 } else { span(9, 8) };
        let nt = if level < 3 { NT } else { 0 };
        let known = mask
            | span(7, 2)
            | shareability
            | AF
            | nt
            | DBM
            | CONTIGUOUS
            | span(54, 53)
            | span(58, 55)
            | 0b11;
        if word & !known != 0 {
            return reserved("bits that a leaf of this level doesn't have");
        }
        if word & CONTIGUOUS != 0 && regime.members(level) == 1 {
            return reserved("Contiguous where the level has no groups");
        }
        let fields = Fields {
            memory: (word >> 2 & 0b1111) as u8,
            shareability: ((word & shareability) >> 8) as u8,
            execute_never: (word >> 53 & 0b11) as u8,
            read: word & READ != 0,
            write: word & (DBM | WRITE) != 0,
            software: (word >> 56 & 0b111) as u8,
        };
        match (fields.memory, regime.processor.fwb) {
            (0b0100 | 0b1000 | 0b1100, false) | (0b0100 | 0b1000.., true) => return reserved("MemAttr"),
            _ => {}
        }
        if fields.shareability == 0b01 {
            return reserved("SH");
        }
        if fields.execute_never & 1 != 0 && !regime.processor.xnx {
            return reserved("XN[0] without FEAT_XNX");
        }
        if word & WRITE != 0 && word & DBM == 0 {
            return reserved("S2AP[1] without DBM: write permission that nobody granted");
        }
        Ok(Self::Leaf(LeafWord { word, level, oa, fields }))
    }
}

/// The marker's code in an invalid entry that is part of the tables, 0 for none: bits 3:1 and nothing else, no
/// Contiguous in particular.
pub(crate) fn marker(word: u64, level: i32) -> Result<u8, Violation> {
    let code = (word >> 1 & 0b111) as u8;
    if word & !0b1110 != 0 || code > 3 {
        return Err(Violation::InvalidEntry { level, word });
    }
    Ok(code)
}

/// The output address of a descriptor from bit `low` on, and the bits that hold it.
fn address(regime: &Regime, word: u64, low: u32, wide: bool) -> (u64, u64) {
    match () {
        () if regime.ds => {
            let mask = span(49, low);
            ((word & mask) | (word >> 8 & 0b11) << 50, mask | span(9, 8))
        }
        () if wide => {
            let mask = span(47, low);
            ((word & mask) | (word >> 12 & 0b1111) << 48, mask | span(15, 12))
        }
        () => (word & span(47, low), span(47, low)),
    }
}
