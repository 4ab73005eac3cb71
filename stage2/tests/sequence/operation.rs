//! Operations, and how bytes become them.
//!
//! Addresses are drawn near each other and near the boundaries that matter: of pages, groups, blocks, tables
//! and of the input address space. A few are nonsense on purpose.

use std::ops::Range;

use arbitrary::{Result, Unstructured};
use stage2::{
    Access, Attributes, Clear, Config, Execute, Existing, Granule, Level, Marker, Marks, Memory, Merge,
    Protection, Shareability,
};

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Map {
        range: Range<u64>,
        oa: u64,
        attributes: Attributes,
        existing: Existing,
    },
    GetAndClear {
        range: Range<u64>,
        clear: Clear,
    },
    TearDown,
    Remark {
        range: Range<u64>,
        to: [Option<Marker>; 4],
    },
    Protect {
        range: Range<u64>,
        protection: Protection,
    },
    WriteProtect {
        range: Range<u64>,
    },
    Mark {
        range: Range<u64>,
        marks: Marks,
    },
    Fault {
        ipa: u64,
        access: Access,
    },
    CollectDirty {
        range: Range<u64>,
    },
    Age {
        range: Range<u64>,
    },
    Fold {
        ipa: u64,
        level: Level,
        merge: Merge,
    },
    Unfold {
        range: Range<u64>,
    },
    Collapse {
        ipa: u64,
        level: Level,
        merge: Merge,
    },
    Split {
        range: Range<u64>,
        to: Level,
    },
    Optimise {
        range: Range<u64>,
        merge: Merge,
    },
    Flush,
    /// Lets this many more frames be allocated.
    Allow {
        frames: u64,
    },
}

/// Draws operations for one configuration.
pub(crate) struct Decoder<'a, G: Granule> {
    config: &'a Config<G>,
    /// Sizes of pages, groups and blocks that fit into the input address space, smallest first.
    units: Vec<u64>,
}

impl<'a, G: Granule> Decoder<'a, G> {
    pub(crate) fn new(config: &'a Config<G>) -> Self {
        let mut units = Vec::new();
        for number in 0..=3 {
            let level = Level::new(number).expect("0 to 3 are levels");
            units.extend([G::size(level), G::group_size(level)]);
        }
        units.retain(|&unit| unit <= config.ipa_size() / 2);
        units.sort_unstable();
        units.dedup();
        Self { config, units }
    }

    pub(crate) fn operation(&self, u: &mut Unstructured<'_>) -> Result<Operation> {
        Ok(match u.int_in_range(0..=31u8)? {
            0..=5 => {
                let attributes = self.attributes(u)?;
                let range = self.range(u)?;
                let (range, oa) = match u.int_in_range(0..=15u8)? {
                    0 => (self.clamped(range, G::SIZE), u.arbitrary()?),
                    // Congruent to the input address modulo `delta`: the larger, the larger the leaves.
                    steps => {
                        let delta = self.unit(u)?;
                        let oa = range.start.wrapping_add(delta.wrapping_mul(steps.into()));
                        (self.clamped(range, delta), oa)
                    }
                };
                let existing = if u.arbitrary()? { Existing::Keep } else { Existing::Refuse };
                Operation::Map { range, oa, attributes, existing }
            }
            6..=9 => {
                let clear = Clear { leave: self.marker(u)?, full: u.ratio(1, 8)? };
                Operation::GetAndClear { range: self.range(u)?, clear }
            }
            10 if u.ratio(1, 4)? => Operation::TearDown,
            10 | 11 => {
                let to = [self.marker(u)?, self.marker(u)?, self.marker(u)?, self.marker(u)?];
                Operation::Remark { range: self.range(u)?, to }
            }
            12 | 13 => {
                let execute = [None, Some(Execute::Any), Some(Execute::El1), Some(Execute::None)];
                let flag = [None, Some(false), Some(true)];
                let protection = Protection {
                    read: *u.choose(&flag)?,
                    write: *u.choose(&flag)?,
                    execute: *u.choose(&execute)?,
                };
                Operation::Protect { range: self.range(u)?, protection }
            }
            14 => Operation::WriteProtect { range: self.range(u)? },
            15 | 16 => {
                let marks = Marks { young: u.arbitrary()?, dirty: u.arbitrary()? };
                Operation::Mark { range: self.range(u)?, marks }
            }
            17..=19 => {
                let access = *u.choose(&[Access::Read, Access::Write, Access::Execute])?;
                Operation::Fault { ipa: self.address(u)?.wrapping_add(u.int_in_range(0..=7)?), access }
            }
            20 | 21 => Operation::CollectDirty { range: self.range(u)? },
            22 => Operation::Age { range: self.range(u)? },
            23 => Operation::Fold { ipa: self.address(u)?, level: self.level(u)?, merge: self.merge(u)? },
            24 => Operation::Unfold { range: self.range(u)? },
            25 => Operation::Collapse { ipa: self.address(u)?, level: self.level(u)?, merge: self.merge(u)? },
            26 | 27 => {
                let (range, to) = (self.range(u)?, self.level(u)?);
                // At most two tables' worth of the smallest leaves.
                Operation::Split {
                    range: self.limited(range, G::size(to).saturating_mul(2 * G::ENTRIES as u64)),
                    to,
                }
            }
            28 | 29 => Operation::Optimise { range: self.range(u)?, merge: self.merge(u)? },
            30 => Operation::Flush,
            _ => {
                let frames = if u.arbitrary()? { u64::MAX } else { u.int_in_range(0..=3)? };
                Operation::Allow { frames }
            }
        })
    }

    fn unit(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        u.choose(&self.units).copied()
    }

    /// A home, some units up from it, and a few pages to either side.
    fn address(&self, u: &mut Unstructured<'_>) -> Result<u64> {
        let size = self.config.ipa_size();
        let unit = self.unit(u)?;
        let home = match u.int_in_range(0..=3u8)? {
            0 | 1 => 0,
            2 => size / 2,
            _ => size - unit,
        };
        let pages = u64::from(u.int_in_range(0..=4u8)?) * G::SIZE;
        let up = home + unit * u.int_in_range(0..=3)?;
        Ok(if u.arbitrary()? { up.saturating_add(pages) } else { up.saturating_sub(pages) })
    }

    fn range(&self, u: &mut Unstructured<'_>) -> Result<Range<u64>> {
        let start = self.address(u)?;
        let pages = u64::from(u.int_in_range(0..=3u8)?) * G::SIZE;
        let length = self.unit(u)? * u.int_in_range(1..=4)?;
        let mut end =
            if u.arbitrary()? { start + length + pages } else { (start + length).saturating_sub(pages) };
        match u.int_in_range(0..=31u8)? {
            0 => return Ok(start..u.arbitrary()?),
            1 => end = start + G::SIZE / 2,
            2 => {}
            _ => end = end.min(self.config.ipa_size()),
        }
        Ok(start..end)
    }

    fn limited(&self, range: Range<u64>, bytes: u64) -> Range<u64> {
        range.start..range.end.min(range.start.saturating_add(bytes))
    }

    /// A range that takes no more than a few thousand leaves when output and input are congruent modulo
    /// `delta`.
    fn clamped(&self, range: Range<u64>, delta: u64) -> Range<u64> {
        let mut leaf = G::SIZE;
        let mut level = self.config.largest_leaf();
        while !level.is_last() {
            if delta.is_multiple_of(G::size(level)) {
                leaf = G::size(level);
                break;
            }
            level = level.next();
        }
        self.limited(range, leaf.saturating_mul(2048))
    }

    fn level(&self, u: &mut Unstructured<'_>) -> Result<Level> {
        Ok(*u.choose(&[Level::L3, Level::L2, Level::L1, Level::L0])?)
    }

    fn merge(&self, u: &mut Unstructured<'_>) -> Result<Merge> {
        Ok(*u.choose(&[Merge::Uniform, Merge::Union, Merge::Harvest])?)
    }

    fn marker(&self, u: &mut Unstructured<'_>) -> Result<Option<Marker>> {
        Ok(*u.choose(&[None, Some(Marker::Vacant), Some(Marker::Released), Some(Marker::Absent)])?)
    }

    fn attributes(&self, u: &mut Unstructured<'_>) -> Result<Attributes> {
        let mut attributes = *u.choose(&[
            Attributes::RAM,
            Attributes::RAM,
            Attributes::RAM.dirty(),
            Attributes::RAM.old(),
            Attributes::RAM.read_only(),
            Attributes::RAM.read_only().dirty(),
            Attributes::DEVICE,
        ])?;
        match u.int_in_range(0..=15u8)? {
            0 => attributes.memory = Memory::Stage1,
            1 => attributes.software = u.int_in_range(0..=8)?,
            2 => attributes.shareability = Shareability::Non,
            3 => attributes.execute = *u.choose(&[Execute::El0, Execute::El1, Execute::None])?,
            _ => {}
        }
        Ok(attributes)
    }
}
