//! Violations: what the model reports. Each names one way in which tables, invalidations or reports can be wrong.

use std::ops::Range;

/// What the model found wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Violation {
    /// A descriptor that the architecture reserves, or with bits set that this level doesn't have.
    Reserved { level: i32, word: u64, why: &'static str },
    /// The Contiguous bit, or another bit of a leaf, on an invalid entry.
    InvalidEntry { level: i32, word: u64 },
    /// The members of a contiguous group don't make up a group.
    Group { ipa: u64, why: &'static str },
    /// An output address beyond the configured size.
    OutputSize { ipa: u64, oa: u64 },
    /// A walk came to a frame that isn't a table (any more).
    FreedTable { frame: u64 },
    /// A frame was freed while a pointer to it could still be cached, or is still reachable.
    EarlyFree { frame: u64 },
    /// The allocator's rules were broken: freed twice, never allocated, not returned.
    Frames { why: &'static str, frame: u64 },
    /// A cached translation, permission or pointer outlived the invalidation that should have covered it.
    Stale { range: Range<u64>, why: &'static str },
    /// A translation was used that the tables don't say and no owed invalidation explains.
    Translation { ipa: u64, why: &'static str },
    /// Two sizes of translation were cached for one address.
    Conflict { ipa: u64 },
    /// Two output addresses or memory types were cached for one address.
    BreakBeforeMake { ipa: u64 },
    /// Instructions in an order that doesn't invalidate.
    Sequence { why: &'static str },
    /// A TLBI operand that is reserved or unpredictable.
    Operand { operand: u64, why: &'static str },
    /// A page that was written or accessed is neither marked nor reported so.
    Lost { what: &'static str, range: Range<u64> },
    /// A page is marked or reported written or accessed that never was.
    Invented { what: &'static str, range: Range<u64> },
    /// A mark survived its harvest.
    Kept { what: &'static str, range: Range<u64> },
    /// The tables say something else than the flat map.
    Content { range: Range<u64>, found: String, expected: String },
    /// An operation's answer is wrong.
    Answer { why: String },
    /// An operation failed and changed the tables nevertheless.
    Changed { frame: u64, index: usize },
    /// An access keeps on faulting though the fault was resolved.
    Unresolved { ipa: u64 },
}

impl Violation {
    /// Its name, without what it is about: what a test of the model expects.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Reserved { .. } => "Reserved",
            Self::InvalidEntry { .. } => "InvalidEntry",
            Self::Group { .. } => "Group",
            Self::OutputSize { .. } => "OutputSize",
            Self::FreedTable { .. } => "FreedTable",
            Self::EarlyFree { .. } => "EarlyFree",
            Self::Frames { .. } => "Frames",
            Self::Stale { .. } => "Stale",
            Self::Translation { .. } => "Translation",
            Self::Conflict { .. } => "Conflict",
            Self::BreakBeforeMake { .. } => "BreakBeforeMake",
            Self::Sequence { .. } => "Sequence",
            Self::Operand { .. } => "Operand",
            Self::Lost { .. } => "Lost",
            Self::Invented { .. } => "Invented",
            Self::Kept { .. } => "Kept",
            Self::Content { .. } => "Content",
            Self::Answer { .. } => "Answer",
            Self::Changed { .. } => "Changed",
            Self::Unresolved { .. } => "Unresolved",
        }
    }
}
