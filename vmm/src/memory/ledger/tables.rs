//! The ledger's tables: the granule is the host's page, which is known when the program runs.
//!
//! They are packed while nobody looks at them ([`PackedFrames`]). Who looks at all of RAM would have all of them
//! unpacked at once, so every operation goes piece by piece, and packs after each. A piece ends where an entry or a group
//! ends that reaches beyond it: nothing is cut that would not be cut without pieces, and no leaf is handed out in two.

use std::ops::Range;

use stage2::{
    Attributes, Clear, Config, Error, Existing, G4K, G16K, G64K, Granule, Harvest, Leaf, Level, Lookup,
    Marker, Marks, Merge, NoMmu, PackedFrames, Run,
};

use super::Error as LedgerError;

type Of<G> = stage2::Tables<G, PackedFrames<G>, NoMmu>;

/// Tables of one of the three granules.
#[derive(Debug)]
pub(super) enum Tables {
    /// Pages of 4 KiB.
    K4(Of<G4K>),
    /// Pages of 16 KiB.
    K16(Of<G16K>),
    /// Pages of 64 KiB.
    K64(Of<G64K>),
}

/// The same for each granule.
macro_rules! each {
    ($tables:expr, $of:ident => $body:expr) => {
        match $tables {
            Tables::K4($of) => $body,
            Tables::K16($of) => $body,
            Tables::K64($of) => $body,
        }
    };
}

/// The input bits of tables that reach to `end`.
fn bits(end: u64) -> u32 {
    (u64::BITS - end.saturating_sub(1).leading_zeros()).max(32)
}

fn tables<G: Granule>(end: u64) -> Result<Of<G>, LedgerError> {
    Ok(stage2::Tables::new(Config::passive(bits(end))?, PackedFrames::new(), NoMmu)?)
}

/// Where the piece ends that begins at `at`: at the end of a group of level-2 blocks, the largest that takes a handful of
/// tables, or of what reaches beyond it.
#[inline]
fn piece<G: Granule>(of: &Of<G>, at: u64, end: u64) -> u64 {
    let group = G::group_size(Level::L2);
    let border = (at / group + 1).saturating_mul(group);
    if border >= end { end } else { across(of, border, end) }
}

/// `border`, or where the entry or group ends that lies across it.
#[inline(never)]
fn across<G: Granule>(of: &Of<G>, border: u64, end: u64) -> u64 {
    let across = match of.lookup(border) {
        Ok(Lookup::Leaf(leaf)) => leaf.range(),
        Ok(Lookup::Invalid { ipa, bytes, .. }) => ipa..ipa + bytes,
        Err(_) => return end,
    };
    if across.start < border { across.end.min(end) } else { border }
}

/// Does `work` on the pieces of `range`, in order, and packs after each. A range that the tables refuse is refused before
/// anything is done.
fn by_piece<G: Granule>(
    of: &mut Of<G>,
    range: Range<u64>,
    mut work: impl FnMut(&mut Of<G>, Range<u64>) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut end = piece(of, range.start, range.end);
    if end < range.end {
        drop(of.runs(range.clone())?);
    }
    let mut at = range.start;
    loop {
        let done = work(of, at..end);
        of.pack();
        if done.is_err() || end >= range.end {
            return done;
        }
        (at, end) = (end, piece(of, end, range.end));
    }
}

/// Joins what has become uniform.
fn join<G: Granule>(of: &mut Of<G>, range: Range<u64>) -> Result<(), Error> {
    by_piece(of, range.clone(), |of, piece| of.optimise(piece, Merge::Uniform, |_| {}).map(drop))?;
    // What is larger than a piece: whole tables of blocks, and groups of what they become. Most don't qualify.
    let inside = |size: u64| {
        let first = range.start.next_multiple_of(size);
        (first..range.end).step_by(size as usize).take_while(move |at| range.end - at >= size)
    };
    for at in inside(G::size(Level::L1)) {
        of.collapse(at, Level::L1, Merge::Uniform, |_| {}).ok();
    }
    for at in inside(G::group_size(Level::L1)) {
        of.fold(at, Level::L1, Merge::Uniform, |_| {}).ok();
    }
    Ok(())
}

impl Tables {
    /// Tables in pages of `page` bytes for addresses below `end`.
    pub(super) fn new(page: u64, end: u64) -> Result<Self, LedgerError> {
        Ok(match page {
            0x1000 => Self::K4(tables(end)?),
            0x4000 => Self::K16(tables(end)?),
            0x1_0000 => Self::K64(tables(end)?),
            other => return Err(LedgerError::PageSize(other)),
        })
    }

    /// Bytes that they would take unpacked.
    #[cfg(test)]
    pub(super) fn frame_bytes(&self) -> u64 {
        each!(self, of => of.frame_bytes())
    }

    /// Bytes of memory that they take.
    pub(super) fn held(&self) -> u64 {
        each!(self, of => of.frames().held())
    }

    /// The most that they ever took.
    pub(super) fn most_held(&self) -> u64 {
        each!(self, of => of.frames().most_held())
    }

    /// Bytes of the largest leaf that the last level below the root's has: what is joined after a change.
    pub(super) fn block(&self) -> u64 {
        fn of<G: Granule>(_: &Of<G>) -> u64 {
            G::size(Level::L2)
        }
        each!(self, tables => of(tables))
    }

    /// Fills the gaps of `range` with leaves to the outputs from `oa` on; what is mapped stays as it is. Leaves are as
    /// large as they can be after a [`join`](Self::join).
    pub(super) fn map(&mut self, range: Range<u64>, oa: u64, attributes: &Attributes) -> Result<(), Error> {
        let start = range.start;
        each!(self, of => by_piece(of, range, |of, piece| {
            let oa = oa.wrapping_add(piece.start - start);
            of.map(piece, oa, attributes, Existing::Keep)
        }))
    }

    /// Takes every leaf of `range`.
    pub(super) fn take(
        &mut self,
        range: Range<u64>,
        leave: Marker,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        let mut harvest = Harvest::default();
        each!(self, of => by_piece(of, range, |of, piece| {
            harvest.merge(of.get_and_clear(piece, Clear::leaving(leave), &mut visit)?);
            Ok(())
        }))?;
        Ok(harvest)
    }

    /// Takes every leaf there is.
    pub(super) fn tear_down(&mut self, mut visit: impl FnMut(Leaf)) -> Harvest {
        let mut harvest = Harvest::default();
        each!(self, of => {
            let swept = by_piece(of, of.whole(), |of, piece| {
                harvest.merge(of.get_and_clear(piece, Clear::default(), &mut visit)?);
                Ok(())
            });
            // Where that was refused, what is left goes at once.
            if swept.is_err() {
                harvest.merge(of.tear_down(visit));
            }
        });
        harvest
    }

    /// Replaces markers.
    pub(super) fn remark(
        &mut self,
        range: Range<u64>,
        change: impl Fn(Option<Marker>) -> Option<Marker>,
    ) -> Result<u64, Error> {
        let mut bytes = 0;
        each!(self, of => by_piece(of, range, |of, piece| {
            bytes += of.remark(piece, &change)?;
            Ok(())
        }))?;
        Ok(bytes)
    }

    /// Joins what has become uniform.
    pub(super) fn join(&mut self, range: Range<u64>) -> Result<(), Error> {
        each!(self, of => join(of, range))
    }

    /// Marks every leaf of `range` dirty.
    pub(super) fn mark_dirty(&mut self, range: Range<u64>) -> Result<u64, Error> {
        self.mark(range, Marks { dirty: true, young: true })
    }

    /// Marks every leaf of `range` young.
    pub(super) fn mark_young(&mut self, range: Range<u64>) -> Result<u64, Error> {
        self.mark(range, Marks { dirty: false, young: true })
    }

    fn mark(&mut self, range: Range<u64>, marks: Marks) -> Result<u64, Error> {
        let mut bytes = 0;
        each!(self, of => by_piece(of, range, |of, piece| {
            bytes += of.mark(piece, marks)?;
            Ok(())
        }))?;
        Ok(bytes)
    }

    /// Makes dirty leaves clean and hands them out.
    pub(super) fn collect_dirty(
        &mut self,
        range: Range<u64>,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        let mut harvest = Harvest::default();
        each!(self, of => by_piece(of, range, |of, piece| {
            harvest.merge(of.collect_dirty(piece, &mut of.gather(), &mut visit)?);
            Ok(())
        }))?;
        Ok(harvest)
    }

    /// Makes young leaves old and hands them out.
    pub(super) fn age(&mut self, range: Range<u64>, mut visit: impl FnMut(Leaf)) -> Result<Harvest, Error> {
        let mut harvest = Harvest::default();
        each!(self, of => by_piece(of, range, |of, piece| {
            harvest.merge(of.age(piece, &mut of.gather(), &mut visit)?);
            Ok(())
        }))?;
        Ok(harvest)
    }

    /// The stretches of `range`, in order: each uniform, and not always as long as it might be.
    pub(super) fn runs(&mut self, range: Range<u64>, mut visit: impl FnMut(Run)) -> Result<(), Error> {
        each!(self, of => by_piece(of, range, |of, piece| {
            of.runs(piece)?.for_each(&mut visit);
            Ok(())
        }))
    }

    /// The leaves that touch `range`, in order.
    pub(super) fn leaves(&mut self, range: Range<u64>, mut visit: impl FnMut(Leaf)) -> Result<(), Error> {
        each!(self, of => by_piece(of, range, |of, piece| of.leaves(piece, &mut visit)))
    }
}

#[cfg(test)]
#[path = "tables_tests.rs"]
mod tests;
