//! Sequences: random operations on random ranges, and how a step is carried out.

use std::ops::Range;

use proptest::prelude::*;
use stage2::{
    Attributes, Execute, Existing, Granule, Level, Marker, Marks, Memory, Merge, Protection, Shareability,
};

use crate::hardware::Access;
use crate::rig::{Processor, Rig};
use crate::violation::Violation;

/// A range, before the geometry is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    /// Which of the busy places: the bottom, the middle, the top; or something that is mapped already.
    place: u8,
    /// Unit of the length: pages, page groups, blocks, block groups, larger blocks.
    unit: u8,
    from: u8,
    count: u8,
    /// Pages by which the ends miss the unit.
    shift: i8,
    grow: i8,
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Map {
        area: Area,
        output: u8,
        skew: u8,
        attributes: Attributes,
        keep: bool,
    },
    GetAndClear {
        area: Area,
        leave: Option<Marker>,
        full: bool,
    },
    Unmap {
        area: Area,
    },
    Remark {
        area: Area,
        from: Option<Marker>,
        to: Option<Marker>,
    },
    Protect {
        area: Area,
        protection: Protection,
    },
    WriteProtect {
        area: Area,
    },
    Mark {
        area: Area,
        marks: Marks,
    },
    CollectDirty {
        area: Area,
    },
    Age {
        area: Area,
        drop: bool,
    },
    Fold {
        area: Area,
        level: u8,
        merge: Merge,
    },
    Unfold {
        area: Area,
    },
    Collapse {
        area: Area,
        level: u8,
        merge: Merge,
    },
    Split {
        area: Area,
        to: u8,
    },
    Optimise {
        area: Area,
        merge: Merge,
    },
    /// Part of what is mapped comes apart, is written here and there, and is joined again.
    Rejoin {
        area: Area,
        blocks: bool,
        merge: Merge,
        writes: Vec<u16>,
    },
    Guest {
        area: Area,
        access: u8,
    },
    Flush,
    Read,
}

/// A step, and how many frames it may have.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    operation: Operation,
    frames: Option<u8>,
}

fn areas() -> impl Strategy<Value = Area> {
    let ends = prop_oneof![6 => Just(0i8), 1 => -1i8..=1, 1 => -9i8..=9];
    (0u8..12, 0u8..6, 0u8..6, 1u8..5, ends.clone(), ends)
        .prop_map(|(place, unit, from, count, shift, grow)| Area { place, unit, from, count, shift, grow })
}

fn attributes() -> impl Strategy<Value = Attributes> {
    let memory = prop_oneof![4 => Just(Memory::WriteBack), 1 => Just(Memory::NonCacheable)];
    let execute = prop_oneof![3 => Just(Execute::Any), 1 => Just(Execute::None)];
    let software = prop_oneof![4 => Just(0u8), 1 => 0u8..=7];
    let write = proptest::bool::weighted(0.8);
    (memory, execute, software, write, any::<bool>(), proptest::bool::weighted(0.2)).prop_map(
        |(memory, execute, software, write, young, dirty)| Attributes {
            memory,
            shareability: Shareability::Inner,
            read: true,
            write,
            execute,
            young,
            dirty,
            software,
        },
    )
}

fn markers() -> impl Strategy<Value = Option<Marker>> {
    proptest::option::of(proptest::sample::select(Marker::ALL.to_vec()))
}

fn merges() -> impl Strategy<Value = Merge> {
    proptest::sample::select(vec![Merge::Uniform, Merge::Union, Merge::Harvest])
}

fn protections() -> impl Strategy<Value = Protection> {
    let execute = proptest::sample::select(vec![Execute::Any, Execute::None, Execute::El0]);
    // Read permission stays: an access that may not even read has nothing to tell.
    (proptest::option::of(any::<bool>()), proptest::option::weighted(0.3, execute))
        .prop_map(|(write, execute)| Protection { read: None, write, execute })
}

fn marks() -> impl Strategy<Value = Marks> {
    (any::<bool>(), any::<bool>()).prop_map(|(young, dirty)| Marks { young, dirty })
}

fn operations() -> impl Strategy<Value = Operation> {
    use Operation::*;
    let area = areas;
    prop_oneof![
        5 => (area(), 0u8..3, 0u8..8, attributes(), any::<bool>()).prop_map(
            |(area, output, skew, attributes, keep)| Map { area, output, skew, attributes, keep }
        ),
        4 => (area(), markers(), proptest::bool::weighted(0.1))
            .prop_map(|(area, leave, full)| GetAndClear { area, leave, full }),
        1 => area().prop_map(|area| Unmap { area }),
        2 => (area(), markers(), markers()).prop_map(|(area, from, to)| Remark { area, from, to }),
        3 => (area(), protections()).prop_map(|(area, protection)| Protect { area, protection }),
        3 => area().prop_map(|area| WriteProtect { area }),
        2 => (area(), marks()).prop_map(|(area, marks)| Mark { area, marks }),
        3 => area().prop_map(|area| CollectDirty { area }),
        3 => (area(), any::<bool>()).prop_map(|(area, drop)| Age { area, drop }),
        3 => (area(), 0u8..4, merges()).prop_map(|(area, level, merge)| Fold { area, level, merge }),
        2 => area().prop_map(|area| Unfold { area }),
        2 => (area(), 0u8..4, merges()).prop_map(|(area, level, merge)| Collapse { area, level, merge }),
        2 => (area(), 0u8..4).prop_map(|(area, to)| Split { area, to }),
        3 => (area(), merges()).prop_map(|(area, merge)| Optimise { area, merge }),
        6 => (area(), any::<bool>(), merges(), proptest::collection::vec(any::<u16>(), 0..3))
            .prop_map(|(area, blocks, merge, writes)| Rejoin { area, blocks, merge, writes }),
        10 => (area(), 0u8..5).prop_map(|(area, access)| Guest { area, access }),
        2 => Just(Flush),
        1 => Just(Read),
    ]
}

/// Random steps, the first of which map something.
pub(crate) fn steps(count: usize) -> impl Strategy<Value = Vec<Step>> {
    let first = (areas(), attributes()).prop_map(|(area, attributes)| Step {
        operation: Operation::Map { area, output: 0, skew: 0, attributes, keep: true },
        frames: None,
    });
    let step = (operations(), proptest::option::weighted(0.15, 0u8..3))
        .prop_map(|(operation, frames)| Step { operation, frames });
    (proptest::collection::vec(first, 1..3), proptest::collection::vec(step, 1..count)).prop_map(
        |(mut first, rest)| {
            first.extend(rest);
            first
        },
    )
}

impl Area {
    fn unit<G: Granule>(self, end: u64) -> u64 {
        let unit = match self.unit {
            0 | 1 => G::SIZE,
            2 => G::group_size(Level::L3),
            3 => G::size(Level::L2),
            4 => G::group_size(Level::L2),
            _ => G::size(Level::L1),
        };
        unit.min(end / 4)
    }

    /// A range in this geometry, mapped or not. Most are good, a few leave the input address space.
    fn anywhere<G: Granule, E: Processor>(self, rig: &Rig<G, E>) -> Range<u64> {
        let end = rig.regime().ipa_size();
        let unit = self.unit::<G>(end);
        let length = unit * u64::from(self.count);
        let from = unit * u64::from(self.from);
        let start = match self.place {
            0..4 => from,
            4..7 => end / 2 + from,
            7..10 => (end / 2).saturating_sub(from),
            _ => end.saturating_sub(from + length),
        };
        self.missing::<G>(start..start.saturating_add(length))
    }

    /// A range that has to do with something that is mapped, if anything is.
    fn range<G: Granule, E: Processor>(self, rig: &Rig<G, E>) -> Range<u64> {
        let end = rig.regime().ipa_size();
        let mapped = rig.mapped(&(0..end));
        if self.place < 2 || mapped.is_empty() {
            return self.anywhere(rig);
        }
        let stretch = mapped[usize::from(self.place) % mapped.len()].clone();
        let unit = self.unit::<G>(end);
        let start = match self.from {
            0..3 => stretch.start,
            _ => stretch.start + (unit * u64::from(self.from - 2)) % (stretch.end - stretch.start),
        };
        let start = start & !(unit - 1);
        self.missing::<G>(start..start.saturating_add(unit * u64::from(self.count)))
    }

    /// An address in something that is mapped, if anything is.
    fn address<G: Granule, E: Processor>(self, rig: &Rig<G, E>) -> u64 {
        self.range(rig).start.min(rig.regime().ipa_size() - G::SIZE)
    }

    /// The same range, with ends that miss by a few pages.
    fn missing<G: Granule>(self, range: Range<u64>) -> Range<u64> {
        let by = |address: u64, pages: i8| address.saturating_add_signed(i64::from(pages) * G::SIZE as i64);
        by(range.start, self.shift)..by(range.end, self.grow)
    }
}

/// A level near that of the leaf at `ipa`, most of the time.
fn level_near<G: Granule, E: Processor>(rig: &Rig<G, E>, ipa: u64, number: u8, step: i32) -> Level {
    let near = rig.survey.extent(ipa).and_then(|extent| Level::new(extent.level + step));
    near.filter(|_| number > 0).unwrap_or(level_of(number))
}

fn level_of(number: u8) -> Level {
    Level::new(i32::from(number)).unwrap_or(Level::L3)
}

/// Carries one step out.
pub(crate) fn run<G: Granule, E: Processor>(rig: &mut Rig<G, E>, step: &Step) -> Result<(), Violation> {
    let arena = std::rc::Rc::clone(&rig.hardware);
    if let Some(frames) = step.frames {
        arena.arena.set_budget(u64::from(frames));
    }
    // While frames are short, hardware walks ahead but writes nothing: what is refused can be compared byte
    // for byte.
    arena.busy.set(E::LIVE && step.frames.is_none());
    let result = carry_out(rig, &step.operation);
    arena.arena.set_budget(u64::MAX);
    result
}

fn rejoin<G: Granule, E: Processor>(
    rig: &mut Rig<G, E>,
    area: Area,
    blocks: bool,
    merge: Merge,
    writes: &[u16],
) -> Result<(), Violation> {
    let ipa = area.address(rig);
    let Some(whole) = rig.survey.extent(ipa).cloned() else { return Ok(()) };
    let Some(level) = Level::new(whole.level) else { return Ok(()) };
    let size = G::size(level);
    let block = ipa & !(size - 1)..(ipa & !(size - 1)) + size;
    let range = if blocks { block } else { whole.range };
    if blocks {
        // A block that is part of a group leaves it first.
        rig.unfold(range.clone())?;
        if !level.is_last() {
            rig.split(range.clone(), level.next())?;
        }
    } else {
        rig.unfold(range.clone())?;
    }
    for write in writes {
        let pages = (range.end - range.start) / G::SIZE;
        let ipa = range.start + u64::from(*write) % pages * G::SIZE;
        rig.heat([ipa]);
        if E::LIVE {
            rig.guest(ipa, Access::Write)?;
        }
    }
    if blocks {
        rig.collapse(ipa, level, merge)?;
    } else {
        rig.fold(ipa, level, merge)?;
    }
    Ok(())
}

fn carry_out<G: Granule, E: Processor>(rig: &mut Rig<G, E>, operation: &Operation) -> Result<(), Violation> {
    let hot = |rig: &Rig<G, E>, range: &Range<u64>| {
        let (start, end) = (range.start, range.end);
        let middle = start / 2 + end / 2;
        let page = G::SIZE;
        rig.heat([
            start,
            start.wrapping_sub(page),
            middle & !(page - 1),
            end.wrapping_sub(page),
            end,
            start.wrapping_add(3 * page),
        ]);
    };
    match operation {
        Operation::Map { area, output, skew, attributes, keep } => {
            let mut range = area.anywhere(rig);
            // Congruent to the address by all, by blocks, or by pages only.
            let (delta, most) = match skew {
                0..5 => (0, u64::MAX),
                5 | 6 => (G::size(Level::L2), G::size(Level::L2) * 40),
                _ => (G::SIZE, G::SIZE * (G::ENTRIES as u64 + 40)),
            };
            range.end = range.end.min(range.start.saturating_add(most));
            let oa_bits = rig.regime().oa_bits;
            let place = (u64::from(*output) << 44) & ((1 << oa_bits) - 1);
            let room = (1u64 << oa_bits) - 1;
            let oa = (place + (range.start & room & ((1 << 43) - 1)) + delta) & room;
            hot(rig, &range);
            let existing = if *keep { Existing::Keep } else { Existing::Refuse };
            rig.map(range, oa, attributes, existing)?;
        }
        Operation::GetAndClear { area, leave, full } => {
            let range = area.range(rig);
            hot(rig, &range);
            rig.get_and_clear(range, *leave, *full)?;
        }
        Operation::Unmap { area } => {
            let range = area.range(rig);
            hot(rig, &range);
            rig.unmap(range)?;
        }
        Operation::Remark { area, from, to } => {
            let range = area.range(rig);
            hot(rig, &range);
            rig.remark(range, |marker| if marker == *from { *to } else { marker })?;
        }
        Operation::Protect { area, protection } => {
            let range = area.range(rig);
            hot(rig, &range);
            rig.protect(range, *protection)?;
        }
        Operation::WriteProtect { area } => {
            let range = area.range(rig);
            hot(rig, &range);
            rig.write_protect(range)?;
        }
        Operation::Mark { area, marks } => {
            rig.mark(area.range(rig), *marks)?;
        }
        Operation::CollectDirty { area } => {
            rig.collect_dirty(area.range(rig))?;
        }
        Operation::Age { area, drop } => {
            // A stale young entry makes a page look older than it is, nothing worse: it may be left alone.
            let nothing_else = rig.gather.is_empty();
            rig.age(area.range(rig))?;
            if *drop && nothing_else {
                rig.drop_gather();
            }
        }
        Operation::Fold { area, level, merge } => {
            let ipa = area.address(rig);
            rig.fold(ipa, level_near(rig, ipa, *level, 0), *merge)?;
        }
        Operation::Unfold { area } => {
            rig.unfold(area.range(rig))?;
        }
        Operation::Collapse { area, level, merge } => {
            let ipa = area.address(rig);
            rig.collapse(ipa, level_near(rig, ipa, *level, -1), *merge)?;
        }
        Operation::Split { area, to } => {
            let range = area.range(rig);
            hot(rig, &range);
            let to = level_near(rig, range.start, *to, 1);
            rig.split(range, to)?;
        }
        Operation::Optimise { area, merge } => {
            rig.optimise(area.range(rig), *merge)?;
        }
        Operation::Rejoin { area, blocks, merge, writes } => rejoin(rig, *area, *blocks, *merge, writes)?,
        Operation::Guest { area, access } => {
            if E::LIVE {
                let access = match access {
                    0 | 1 => Access::Read,
                    2 | 3 => Access::Write,
                    _ => Access::Execute,
                };
                let ipa = area.address(rig);
                rig.heat([ipa]);
                rig.guest(ipa, access)?;
            }
        }
        Operation::Flush => rig.flush()?,
        Operation::Read => rig.read()?,
    }
    Ok(())
}
