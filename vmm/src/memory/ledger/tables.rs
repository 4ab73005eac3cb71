//! The ledger's tables: the granule is the host's page, which is known when the program runs.

use std::ops::Range;

use stage2::{
    Attributes, Clear, Config, Error, Existing, G4K, G16K, G64K, Granule, Harvest, HeapFrames, Leaf, Level,
    Marker, Marks, Merge, NoMmu, Run,
};

use super::Error as LedgerError;

type Of<G> = stage2::Tables<G, HeapFrames<G>, NoMmu>;

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
    Ok(stage2::Tables::new(Config::passive(bits(end))?, HeapFrames::new(), NoMmu)?)
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

    /// Bytes of table frames.
    pub(super) fn frame_bytes(&self) -> u64 {
        each!(self, of => of.frame_bytes())
    }

    /// Bytes of the largest leaf that the last level below the root's has: what is joined after a change.
    pub(super) fn block(&self) -> u64 {
        fn of<G: Granule>(_: &Of<G>) -> u64 {
            G::size(Level::L2)
        }
        each!(self, tables => of(tables))
    }

    /// Fills the gaps of `range` with leaves to the outputs from `oa` on; what is mapped stays as it is.
    pub(super) fn map(&mut self, range: Range<u64>, oa: u64, attributes: &Attributes) -> Result<(), Error> {
        each!(self, of => of.map(range, oa, attributes, Existing::Keep))
    }

    /// Takes every leaf of `range`.
    pub(super) fn take(
        &mut self,
        range: Range<u64>,
        leave: Marker,
        visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        each!(self, of => {
            let harvest = of.get_and_clear(range, Clear::leaving(leave), visit)?;
            of.flush();
            Ok(harvest)
        })
    }

    /// Takes every leaf there is.
    pub(super) fn tear_down(&mut self, visit: impl FnMut(Leaf)) -> Harvest {
        each!(self, of => {
            let harvest = of.tear_down(visit);
            of.flush();
            harvest
        })
    }

    /// Replaces markers.
    pub(super) fn remark(
        &mut self,
        range: Range<u64>,
        change: impl Fn(Option<Marker>) -> Option<Marker>,
    ) -> Result<u64, Error> {
        each!(self, of => {
            let bytes = of.remark(range, change)?;
            of.flush();
            Ok(bytes)
        })
    }

    /// Joins what has become uniform.
    pub(super) fn join(&mut self, range: Range<u64>) -> Result<(), Error> {
        each!(self, of => {
            of.optimise(range, Merge::Uniform, |_| {})?;
            of.flush();
            Ok(())
        })
    }

    /// Marks every leaf of `range` dirty.
    pub(super) fn mark_dirty(&mut self, range: Range<u64>) -> Result<u64, Error> {
        each!(self, of => of.mark(range, Marks { dirty: true, young: true }))
    }

    /// Marks every leaf of `range` young.
    pub(super) fn mark_young(&mut self, range: Range<u64>) -> Result<u64, Error> {
        each!(self, of => of.mark(range, Marks { dirty: false, young: true }))
    }

    /// Makes dirty leaves clean and hands them out.
    pub(super) fn collect_dirty(&self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<Harvest, Error> {
        each!(self, of => of.collect_dirty(range, &mut of.gather(), visit))
    }

    /// Makes young leaves old and hands them out.
    pub(super) fn age(&self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<Harvest, Error> {
        each!(self, of => of.age(range, &mut of.gather(), visit))
    }

    /// The uniform stretches of `range`, in order.
    pub(super) fn runs(&self, range: Range<u64>, visit: impl FnMut(Run)) -> Result<(), Error> {
        each!(self, of => {
            of.runs(range)?.for_each(visit);
            Ok(())
        })
    }

    /// The leaves that touch `range`, in order.
    pub(super) fn leaves(&self, range: Range<u64>, visit: impl FnMut(Leaf)) -> Result<(), Error> {
        each!(self, of => of.leaves(range, visit))
    }
}
