//! The open ledger, with every operation on it.

use std::ops::Range;

use stage2::{Attributes, Harvest, Leaf, Marker};
use vm_memory::GuestMemoryBackend;

use super::super::dirty::Dirty;
use super::super::presence::Presence;
use super::super::young::Young;
use super::super::{Backing, GuestMemory, GuestRam, Region};
use super::tables::Tables;
use super::{Error, State, Stretch};

/// Bytes that a refresh looks ahead. What it finds stays known, so that the next batch need not ask again.
const AHEAD: u64 = 64 << 20;

/// What a refresh took, and found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Refresh {
    /// System calls.
    pub calls: u64,
    /// Bytes that turned out to be populated.
    pub found: u64,
}

/// The open ledger. Ranges are guest-physical, half-open, whole host pages and inside RAM: what a guest names
/// has been clipped and aligned before it comes here ([`super::super::release`]).
#[derive(Debug)]
pub struct Books {
    pub(super) tables: Tables,
    /// The regions of RAM in ascending order, each with the offset of its first byte in the memory object.
    regions: Vec<(Range<u64>, u64)>,
    presence: Presence,
    pub(super) dirty: Dirty,
    pub(super) young: Young,
    memory: GuestMemory,
}

impl Books {
    pub(super) fn new(ram: &GuestRam) -> Result<Self, Error> {
        let mut offset = 0;
        let mut regions = Vec::new();
        for region in ram.regions() {
            let start = region.guest().0;
            regions.push((start..start + region.size(), offset));
            offset += region.size();
        }
        let end = regions.last().map_or(0, |(range, _)| range.end);
        let mut tables = Tables::new(rustix::param::page_size() as u64, end)?;
        for (range, _) in &regions {
            tables.remark(range.clone(), |_| Some(Marker::Vacant))?;
        }
        let memory = ram.memory().clone();
        let mut books = Self {
            tables,
            regions,
            presence: Presence::new(ram).map_err(Error::NoPresence)?,
            dirty: Dirty::new(ram),
            young: Young::new(ram),
            memory,
        };
        // Memory that was just made is vacant; a file has had a life before.
        if matches!(ram.backing(), Backing::File { .. } | Backing::PrivateFile { .. }) {
            let all: Vec<_> = books.ram().collect();
            books.refresh(&all)?;
        }
        Ok(books)
    }

    /// The regions of RAM, in ascending order.
    pub fn ram(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.regions.iter().map(|(range, _)| range.clone())
    }

    /// Where the regions are in this process, in the same order.
    pub fn host(&self) -> Vec<Range<u64>> {
        let at = |region: &Region| region.host() as u64..region.host() as u64 + region.size();
        self.memory.iter().map(at).collect()
    }

    /// Bytes of memory that the ledger takes now.
    pub fn held(&self) -> u64 {
        self.tables.held()
    }

    /// The most that it ever took, between operations or in the middle of one.
    pub fn most_held(&self) -> u64 {
        self.tables.most_held()
    }

    /// Hands out the stretches of `range` in order, each as long as its state is one.
    ///
    /// # Errors
    /// [`Error::Tables`] for a range that the tables don't reach to.
    pub fn stretches(&mut self, range: Range<u64>, mut visit: impl FnMut(Stretch)) -> Result<(), Error> {
        let mut last: Option<Stretch> = None;
        self.tables.runs(range, |run| {
            let state = State::of(run.content);
            match &mut last {
                Some(stretch) if stretch.state == state && stretch.range.end == run.range.start => {
                    stretch.range.end = run.range.end;
                }
                _ => last.replace(Stretch { range: run.range, state }).into_iter().for_each(&mut visit),
            }
        })?;
        last.into_iter().for_each(visit);
        Ok(())
    }

    /// Hands out the leaves that touch `range`, in order: blocks, groups and pages as they stand in the tables.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn leaves(&mut self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<(), Error> {
        Ok(self.tables.leaves(range, visit)?)
    }

    /// The parts of `ranges` in a state that `wanted` likes, merged.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn parts(
        &mut self,
        ranges: &[Range<u64>],
        wanted: impl Fn(State) -> bool,
    ) -> Result<Vec<Range<u64>>, Error> {
        let mut parts: Vec<Range<u64>> = Vec::new();
        for range in ranges {
            self.stretches(range.clone(), |stretch| {
                if !wanted(stretch.state) {
                    return;
                }
                match parts.last_mut() {
                    Some(last) if last.end == stretch.range.start => last.end = stretch.range.end,
                    _ => parts.push(stretch.range),
                }
            })?;
        }
        Ok(parts)
    }

    /// Asks the host about what is only softly known of `ranges` (sorted): what has been filled meanwhile becomes
    /// populated, young and dirty. Nothing is asked where nothing is soft. One look takes in what lies ahead, too.
    ///
    /// # Errors
    /// [`Error::Presence`] where the host can't say.
    pub fn refresh(&mut self, ranges: &[Range<u64>]) -> Result<Refresh, Error> {
        let mut done = Refresh::default();
        let mut asked = 0;
        for soft in self.parts(ranges, |state| state == State::Vacant)? {
            let soft = soft.start.max(asked)..soft.end;
            if soft.is_empty() {
                continue;
            }
            let ram = self.regions.iter().find(|(range, _)| range.contains(&soft.start));
            let end = ram.map_or(soft.end, |(range, _)| range.end);
            let look = soft.start..soft.end.max(end.min(soft.start.saturating_add(AHEAD)));
            asked = look.end;
            let mut found = Vec::new();
            done.calls += self.presence.scan(look, &mut |range| found.push(range))?;
            done.found += self.found(&found)?;
        }
        Ok(done)
    }

    /// Turns what is vacant of `ranges` into populated leaves; what is known otherwise stays so.
    fn found(&mut self, ranges: &[Range<u64>]) -> Result<u64, Error> {
        let vacant = self.parts(ranges, |state| state == State::Vacant)?;
        self.populate(&vacant)
    }

    /// Records that `ranges` hold something, young and dirty, whatever was known before but populated.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn populate(&mut self, ranges: &[Range<u64>]) -> Result<u64, Error> {
        let mut bytes = 0;
        for range in ranges {
            let Some((region, offset)) = self.regions.iter().find(|(ram, _)| ram.contains(&range.start))
            else {
                continue;
            };
            let oa = range.start - region.start + offset;
            self.tables.map(range.clone(), oa, &Attributes::RAM.dirty())?;
            bytes += range.end - range.start;
        }
        if let (Some(first), Some(last)) = (ranges.first(), ranges.last()) {
            self.join(first.start..last.end)?;
        }
        Ok(bytes)
    }

    /// Joins what has become uniform around `range`: pages into groups and blocks, blocks into groups.
    pub(super) fn join(&mut self, range: Range<u64>) -> Result<(), Error> {
        let unit = self.tables.block() * 16;
        let around = range.start / unit * unit..range.end.div_ceil(unit) * unit;
        for (ram, _) in &self.regions {
            let part = around.start.max(ram.start)..around.end.min(ram.end);
            if part.start < part.end {
                self.tables.join(part)?;
            }
        }
        Ok(())
    }

    /// One get-and-clear: takes every leaf of `range`, hands each to `visit` as it was, and leaves `leave`. The
    /// sum says whether anything was dirty or young, each exactly once.
    ///
    /// # Errors
    /// [`Error::Tables`]; nothing has changed then.
    pub fn take(
        &mut self,
        range: Range<u64>,
        leave: Marker,
        visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        Ok(self.tables.take(range, leave, visit)?)
    }

    /// The last harvest: takes every leaf there is and leaves nothing.
    pub fn tear_down(&mut self, visit: impl FnMut(Leaf)) -> Harvest {
        self.tables.tear_down(visit)
    }

    /// The balloon lets go of `range`: what was `Released` is `Vacant`, everything else stays. Returns the bytes that
    /// it held.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn let_go(&mut self, range: Range<u64>) -> Result<u64, Error> {
        Ok(self.tables.remark(range, |marker| match marker {
            Some(Marker::Released) => Some(Marker::Vacant),
            other => other,
        })?)
    }

    /// The balloon takes hold of what is `Vacant` in `range`, with the driver's promise.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn hold(&mut self, range: Range<u64>) -> Result<u64, Error> {
        Ok(self.tables.remark(range, |marker| match marker {
            Some(Marker::Vacant) => Some(Marker::Released),
            other => other,
        })?)
    }

    /// Marks what is populated of `range` dirty and young; the rest has nothing that could be.
    ///
    /// # Errors
    /// [`Error::Tables`].
    pub fn mark_dirty(&mut self, range: Range<u64>) -> Result<u64, Error> {
        Ok(self.tables.mark_dirty(range)?)
    }

    /// What the host says is there.
    pub(super) fn presence(&self) -> &Presence {
        &self.presence
    }

    /// The guest's memory.
    pub(super) fn memory(&self) -> &GuestMemory {
        &self.memory
    }
}
