//! TLBI: the instructions of an invalidation, their operands, and the one order in which they work.
//!
//! Stage-2 entries go by IPA (`TLBI IPAS2…`). That leaves the combined stage-1-and-2 entries, which
//! are tagged with virtual addresses: they go with `VMALLE1IS`, and only after the stage-2 ones, or they
//! could be made anew from what is still cached. So every invalidation is
//!
//! ```text
//! DSB ISHST        the tables' stores are visible to every walker
//! TLBI (R)IPAS2…   one or more
//! DSB ISH          complete
//! TLBI VMALLE1IS
//! DSB ISH          complete
//! ISB
//! ```
//!
//! or, for the whole VMID, `VMALLS12E1IS` alone between the barriers.
//!
//! Source: DDI 0487, D8.17 (TLB maintenance), C5.5 (operands of the TLBI instructions).

use crate::geometry::{Granule, Level};

/// One instruction of a [`Sequence`](crate::Sequence). A TLBI acts on the VMID in `VTTBR_EL2`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Instruction {
    /// `DSB ISHST`.
    DsbIshst,
    /// `DSB ISH`.
    DsbIsh,
    /// `ISB`.
    Isb,
    /// `TLBI IPAS2E1IS, Xt`: one address, all levels of the walk.
    Ipas2e1is(u64),
    /// `TLBI IPAS2LE1IS, Xt`: one address, leaves only.
    Ipas2le1is(u64),
    /// `TLBI RIPAS2E1IS, Xt`: a range, all levels of the walk.
    Ripas2e1is(u64),
    /// `TLBI RIPAS2LE1IS, Xt`: a range, leaves only.
    Ripas2le1is(u64),
    /// `TLBI VMALLE1IS`: what is cached of stage 1, combined entries included.
    Vmalle1is,
    /// `TLBI VMALLS12E1IS`: everything of the VMID, both stages.
    Vmalls12e1is,
}

/// Issues instructions. One call is one whole sequence, in order; when it returns the invalidation is
/// complete. Around the sequence the executor makes `VTTBR_EL2` hold the VMID of the tables.
pub trait Executor {
    /// False for tables that no MMU walks: then nothing is ever invalidated, nothing is broken before it is
    /// made, frames are freed at once, and the compiler removes what would have done so.
    const LIVE: bool = true;

    /// Issues one sequence.
    fn execute(&self, sequence: crate::Sequence<'_>);
}

impl<E: Executor> Executor for &E {
    const LIVE: bool = E::LIVE;

    fn execute(&self, sequence: crate::Sequence<'_>) {
        (**self).execute(sequence);
    }
}

/// For tables that only software reads: nobody walks them, so there is nothing to invalidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NoMmu;

impl Executor for NoMmu {
    const LIVE: bool = false;

    fn execute(&self, _: crate::Sequence<'_>) {}
}

/// What of a configuration shapes TLBI operands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TlbiRules {
    /// log2 of the granule.
    pub shift: u32,
    /// The granule's TG encoding.
    pub tg: u64,
    /// `VTCR_EL2.DS`: range bases count in 64 KiB.
    pub ds: bool,
    /// FEAT_TTL.
    pub ttl: bool,
    /// FEAT_TLBIRANGE.
    pub range: bool,
    /// Instructions by address before the whole VMID goes instead.
    pub limit: u32,
}

impl TlbiRules {
    pub(crate) fn new<G: Granule>(config: &crate::Config<G>) -> Self {
        Self {
            shift: G::SHIFT,
            tg: G::TLBI_TG,
            ds: config.encoding.ds,
            ttl: config.ttl,
            range: config.tlbi_range,
            limit: config.tlbi_limit,
        }
    }

    /// The operand of a TLBI by IPA: IPA\[51:12\] in bits 39:0, the TTL hint in bits 47:44 (the granule, then
    /// the level of the leaf). Zero there means "unknown", which is always allowed; level 0 or below has no
    /// encoding of its own with most granules and counts as unknown.
    pub const fn ipa_operand(&self, ipa: u64, level: Option<Level>) -> u64 {
        let ttl = match level {
            Some(level) if self.ttl && level.number() > 0 => self.tg << 2 | level.number() as u64,
            _ => 0,
        };
        (ipa >> 12) & ((1 << 40) - 1) | ttl << 44
    }

    /// The operand of a TLBI by range, covering (`num` + 1) x 2^(5 `scale` + 1) granules from `base`:
    /// TG 47:46, SCALE 45:44, NUM 43:39, TTL 38:37, BaseADDR 36:0, which counts granules, or 64 KiB where
    /// DS = 1.
    pub const fn range_operand(&self, base: u64, scale: u32, num: u64, level: Option<Level>) -> u64 {
        let ttl = match level {
            Some(level) if self.ttl && level.number() > 0 => level.number() as u64,
            _ => 0,
        };
        let address = base >> self.base_shift();
        self.tg << 46 | (scale as u64 & 3) << 44 | (num & 31) << 39 | ttl << 37 | address & ((1 << 37) - 1)
    }

    /// log2 of the unit of a range's base.
    pub(crate) const fn base_shift(&self) -> u32 {
        if self.ds { 16 } else { self.shift }
    }
}

/// Granules that one range instruction covers.
pub(crate) const fn range_granules(scale: u32, num: u64) -> u64 {
    (num + 1) << (5 * scale + 1)
}
