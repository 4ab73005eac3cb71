//! TLBI: which instruction invalidates what, decoded from operands, and the order that makes it so.
//!
//! Source: DDI 0487, C5.5 (TLBI IPAS2E1IS, RIPAS2E1IS and their kin), D8.17 (TLB maintenance).

use std::ops::Range;

use stage2::Instruction;

use crate::regime::Regime;
use crate::violation::Violation;

/// What one instruction invalidates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// Stage-2 entries that translate any of these addresses.
    Stage2 {
        range: Range<u64>,
        /// Pointers to tables stay.
        leaf_only: bool,
        /// Only leaves of this level.
        level: Option<i32>,
    },
    /// Everything that stage 1 had a part in: combined entries.
    Stage1,
    /// Everything.
    All,
}

const fn bits(value: u64, high: u32, low: u32) -> u64 {
    value >> low & ((1 << (high - low + 1)) - 1)
}

/// The granule that a TG field names.
fn granule(tg: u64) -> Option<u32> {
    match tg {
        0b01 => Some(12),
        0b10 => Some(14),
        0b11 => Some(16),
        _ => None,
    }
}

impl Scope {
    /// What `instruction` invalidates; `None` for one that is no TLBI.
    pub(crate) fn decode(regime: &Regime, instruction: Instruction) -> Result<Option<Self>, Violation> {
        Ok(Some(match instruction {
            Instruction::Ipas2e1is(operand) => Self::address(regime, operand, false)?,
            Instruction::Ipas2le1is(operand) => Self::address(regime, operand, true)?,
            Instruction::Ripas2e1is(operand) => Self::range(regime, operand, false)?,
            Instruction::Ripas2le1is(operand) => Self::range(regime, operand, true)?,
            Instruction::Vmalle1is => Self::Stage1,
            Instruction::Vmalls12e1is => Self::All,
            Instruction::DsbIshst | Instruction::DsbIsh | Instruction::Isb => return Ok(None),
        }))
    }

    /// IPA\[51:12\] in 39:0, TTL in 47:44.
    fn address(regime: &Regime, operand: u64, leaf_only: bool) -> Result<Self, Violation> {
        let wrong = |why| Err(Violation::Operand { operand, why });
        if bits(operand, 63, 48) != 0 || bits(operand, 43, 40) != 0 {
            return wrong("NS or RES0 bits");
        }
        let ipa = bits(operand, 39, 0) << 12;
        let (tg, level) = (bits(operand, 47, 46), bits(operand, 45, 44) as i32);
        let level = match granule(tg) {
            // Without a granule the hint is no hint.
            None if level == 0 => None,
            None => return wrong("a level without a granule"),
            Some(shift) if shift != regime.shift => return wrong("the hint names another granule"),
            Some(_) if level == 0 || !regime.has_leaf(level) => {
                return wrong("the hint names a level without leaves");
            }
            Some(_) => Some(level),
        };
        let start = ipa & !(regime.page() - 1);
        Ok(Self::Stage2 { range: start..start + regime.page(), leaf_only, level })
    }

    /// TG 47:46, SCALE 45:44, NUM 43:39, TTL 38:37, BaseADDR 36:0.
    fn range(regime: &Regime, operand: u64, leaf_only: bool) -> Result<Self, Violation> {
        let wrong = |why| Err(Violation::Operand { operand, why });
        if bits(operand, 63, 48) != 0 {
            return wrong("NS or RES0 bits");
        }
        // With another granule than the regime's the instruction is required to invalidate nothing.
        if granule(bits(operand, 47, 46)) != Some(regime.shift) {
            return wrong("TG is not the granule");
        }
        let (scale, num) = (bits(operand, 45, 44), bits(operand, 43, 39));
        let unit = if regime.ds { 16 } else { regime.shift };
        let start = bits(operand, 36, 0) << unit;
        let length = (num + 1) << (5 * scale + 1) << regime.shift;
        let level = match bits(operand, 38, 37) as i32 {
            0 => None,
            level if !regime.has_leaf(level) => return wrong("TTL names a level without leaves"),
            level => Some(level),
        };
        if let Some(level) = level
            && !start.is_multiple_of(regime.size(level))
            && level < 3
        {
            return wrong("unpredictable: the base isn't aligned to an entry of the hinted level");
        }
        Ok(Self::Stage2 { range: start..start + length, leaf_only, level })
    }
}

/// Checks a sequence against the one order that works:
/// `DSB ISHST; (IPAS2)+; DSB ISH; VMALLE1IS; DSB ISH; ISB`, or `DSB ISHST; VMALLS12E1IS; DSB ISH; ISB`, or a
/// publishing `DSB ISHST` alone.
pub(crate) fn check_order(sequence: &[Instruction]) -> Result<(), Violation> {
    use Instruction::{
        DsbIsh, DsbIshst, Ipas2e1is, Ipas2le1is, Isb, Ripas2e1is, Ripas2le1is, Vmalle1is, Vmalls12e1is,
    };
    let wrong = |why| Err(Violation::Sequence { why });
    let stage2 = |i: &Instruction| matches!(i, Ipas2e1is(_) | Ipas2le1is(_) | Ripas2e1is(_) | Ripas2le1is(_));
    let Some((DsbIshst, rest)) = sequence.split_first() else {
        return wrong(if sequence.is_empty() { "empty" } else { "the stores aren't published first" });
    };
    let by_address = rest.iter().take_while(|i| stage2(i)).count();
    match (by_address, &rest[by_address..]) {
        (0, [] | [Vmalls12e1is, DsbIsh, Isb]) => Ok(()),
        (1.., [DsbIsh, Vmalle1is, DsbIsh, Isb]) => Ok(()),
        (1.., [Vmalle1is, ..]) => wrong("stage 1 goes before stage 2 is complete"),
        (1.., [DsbIsh, DsbIsh | Isb, ..]) => wrong("the combined entries stay"),
        (0, [Vmalle1is | DsbIsh, ..]) => wrong("nothing of stage 2 goes"),
        _ => wrong("not an invalidation"),
    }
}
