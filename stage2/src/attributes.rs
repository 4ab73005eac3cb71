//! Attributes: what a leaf says beside its output address.
//!
//! Three rules of this crate stand on top of the architecture's bits:
//!
//! 1. **Writable is DBM, dirty is S2AP\[1\].** A leaf that may be written always has DBM; it has S2AP\[1\]
//!    only once it is dirty. Where hardware manages dirty state (HD) a store turns one into the other;
//!    where it doesn't, hardware ignores DBM, the store faults and software turns one into the other. So
//!    tables look the same with and without FEAT_HAFDBS.
//! 2. **Dirty outlives write permission.** Taking write permission away clears DBM and S2AP\[1\] and
//!    moves dirty to a software bit (55), where it stays until it is collected.
//! 3. **Granting write doesn't dirty.** It sets DBM alone.
//!
//! Source: DDI 0487, D8.4 (stage 2 permissions, hardware dirty state), D8.6 (memory attributes, FWB).

use core::fmt;

use crate::descriptor::{
    AF, DBM, DIRTY, Descriptor, S2AP_R, S2AP_W, SH_SHIFT, SW_DIRTY, SW_SHIFT, VALID, XN_SHIFT,
};

/// Memory type of a leaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Memory {
    /// Normal, Write-Back cacheable; with FWB, whatever stage 1 says.
    WriteBack,
    /// Normal, Non-cacheable.
    NonCacheable,
    /// Device-nGnRnE.
    DevicenGnRnE,
    /// Device-nGnRE.
    DevicenGnRE,
    /// Device-nGRE.
    DevicenGRE,
    /// Device-GRE.
    DeviceGRE,
    /// As stage 1 says; only with FWB.
    Stage1,
}

/// Shareability of a leaf. With `VTCR_EL2.DS` = 1 the leaf has no such field and `VTCR_EL2.SH0` counts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Shareability {
    /// Non-shareable.
    Non,
    /// Outer Shareable.
    Outer,
    /// Inner Shareable.
    Inner,
}

/// Who may execute from a leaf. All but `Any` and `None` need FEAT_XNX.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Execute {
    /// EL1 and EL0.
    Any,
    /// EL0 only.
    El0,
    /// Nobody.
    None,
    /// EL1 only.
    El1,
}

/// What a leaf says beside its output address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Attributes {
    /// Memory type.
    pub memory: Memory,
    /// Shareability.
    pub shareability: Shareability,
    /// May be read.
    pub read: bool,
    /// May be written; the first store to a clean leaf makes it dirty, by hardware or by a fault.
    pub write: bool,
    /// Who may execute.
    pub execute: Execute,
    /// The access flag. A leaf that isn't young faults on its first access, unless hardware manages it.
    pub young: bool,
    /// Written since dirty was last collected. A writable leaf that is dirty takes stores without a fault.
    pub dirty: bool,
    /// Three bits for the user of the crate (descriptor bits 58:56), 0 to 7.
    pub software: u8,
}

impl Attributes {
    /// Guest RAM: Write-Back, Inner Shareable, everything allowed, young, clean.
    pub const RAM: Self = Self {
        memory: Memory::WriteBack,
        shareability: Shareability::Inner,
        read: true,
        write: true,
        execute: Execute::Any,
        young: true,
        dirty: false,
        software: 0,
    };

    /// A device passed through: Device-nGnRE, read and write, no execution. Dirty from the start, because
    /// nobody collects it and a store should not fault.
    pub const DEVICE: Self = Self {
        memory: Memory::DevicenGnRE,
        shareability: Shareability::Outer,
        read: true,
        write: true,
        execute: Execute::None,
        young: true,
        dirty: true,
        software: 0,
    };

    /// The same, dirty.
    pub const fn dirty(self) -> Self {
        Self { dirty: true, ..self }
    }

    /// The same, not young.
    pub const fn old(self) -> Self {
        Self { young: false, ..self }
    }

    /// The same, read-only.
    pub const fn read_only(self) -> Self {
        Self { write: false, ..self }
    }
}

/// Why attributes can't be encoded under a configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AttributesError {
    /// `Memory::Stage1` without FWB.
    NeedsFwb,
    /// `Execute::El0` or `Execute::El1` without FEAT_XNX.
    NeedsXnx(Execute),
    /// More than three software bits.
    Software(u8),
}

impl fmt::Display for AttributesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeedsFwb => {
                f.write_str("memory type Stage1 needs FEAT_S2FWB: enable `fwb` or name the type itself")
            }
            Self::NeedsXnx(execute) => {
                write!(f, "execute permission {execute:?} needs FEAT_XNX: use Any or None")
            }
            Self::Software(bits) => write!(f, "software bits {bits:#x} don't fit in three bits: use 0 to 7"),
        }
    }
}

impl core::error::Error for AttributesError {}

/// How attributes are encoded: what of the configuration changes their bits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encoding {
    /// `HCR_EL2.FWB`: the memory type overrides stage 1.
    pub fwb: bool,
    /// FEAT_XNX: two execute-never bits.
    pub xnx: bool,
    /// `VTCR_EL2.DS`: no shareability in the leaf.
    pub ds: bool,
}

impl Encoding {
    /// The attribute bits of a leaf; output address, type and Contiguous are not among them. Bit 0 is set.
    pub const fn encode(self, a: &Attributes) -> Result<u64, AttributesError> {
        let memory: u64 = match (a.memory, self.fwb) {
            (Memory::WriteBack, false) => 0b1111,
            (Memory::WriteBack, true) => 0b0110,
            (Memory::NonCacheable, _) => 0b0101,
            (Memory::DevicenGnRnE, _) => 0b0000,
            (Memory::DevicenGnRE, _) => 0b0001,
            (Memory::DevicenGRE, _) => 0b0010,
            (Memory::DeviceGRE, _) => 0b0011,
            (Memory::Stage1, true) => 0b0111,
            (Memory::Stage1, false) => return Err(AttributesError::NeedsFwb),
        };
        let share: u64 = match a.shareability {
            _ if self.ds => 0b00,
            Shareability::Non => 0b00,
            Shareability::Outer => 0b10,
            Shareability::Inner => 0b11,
        };
        let xn: u64 = match a.execute {
            Execute::Any => 0b00,
            Execute::None => 0b10,
            other if !self.xnx => return Err(AttributesError::NeedsXnx(other)),
            Execute::El0 => 0b01,
            Execute::El1 => 0b11,
        };
        if a.software > 7 {
            return Err(AttributesError::Software(a.software));
        }
        let mut bits = VALID | memory << 2 | share << SH_SHIFT | xn << XN_SHIFT;
        bits |= (a.software as u64) << SW_SHIFT;
        if a.read {
            bits |= S2AP_R;
        }
        if a.write {
            bits |= DBM;
        }
        if a.young {
            bits |= AF;
        }
        if a.dirty {
            bits |= if a.write { S2AP_W } else { SW_DIRTY };
        }
        Ok(bits)
    }

    /// The attributes of a leaf. Encodings that this crate never writes decode to the nearest that it does
    /// (Write-Through to Non-cacheable, reserved device types to nGnRnE).
    pub const fn decode(self, leaf: Descriptor) -> Attributes {
        let bits = leaf.bits();
        let memory = match (bits >> 2 & 0b1111, self.fwb) {
            (0b0000, _) => Memory::DevicenGnRnE,
            (0b0001, _) => Memory::DevicenGnRE,
            (0b0010, _) => Memory::DevicenGRE,
            (0b0011, _) => Memory::DeviceGRE,
            (0b0110, true) => Memory::WriteBack,
            (0b0111, true) => Memory::Stage1,
            (0b1111, false) => Memory::WriteBack,
            (0b0101, _) => Memory::NonCacheable,
            (kind, false) if kind > 0b0100 => Memory::NonCacheable,
            _ => Memory::DevicenGnRnE,
        };
        let shareability = match bits >> SH_SHIFT & 0b11 {
            _ if self.ds => Shareability::Inner,
            0b11 => Shareability::Inner,
            0b10 => Shareability::Outer,
            _ => Shareability::Non,
        };
        let execute = match bits >> XN_SHIFT & 0b11 {
            xn if !self.xnx => {
                if xn & 0b10 == 0 {
                    Execute::Any
                } else {
                    Execute::None
                }
            }
            0b00 => Execute::Any,
            0b01 => Execute::El0,
            0b10 => Execute::None,
            _ => Execute::El1,
        };
        Attributes {
            memory,
            shareability,
            read: leaf.readable(),
            write: leaf.writable(),
            execute,
            young: leaf.young(),
            dirty: bits & DIRTY != 0,
            software: (bits >> SW_SHIFT & 0b111) as u8,
        }
    }
}
