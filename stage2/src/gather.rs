//! The gather: what must be invalidated, merged, and how that is done at the least cost.
//!
//! Operations add spans; neighbours merge. When it is executed, the gather chooses between entry by
//! entry, by range, and the whole VMID. The choice never leaves anything out:
//!
//! - Entry by entry steps by the size of an *entry*, never of a contiguous group: a TLB may hold single
//!   members of a group beside the group.
//! - A TTL hint is given only where every entry of the span is a leaf of one level. Otherwise it is
//!   "unknown": a wrong hint would let the hardware skip the entry.
//! - A range with a hint must begin on a multiple of that level's entries, or what it covers is UNPREDICTABLE.
//!   Spans of leaves do, and so does what is left of them after each instruction: it covers whole entries.
//! - Where a table was unlinked, the instruction also covers cached pointers to tables, and there is no hint.
//! - A range may cover more than asked (its size counts in pairs of granules, its base in 64 KiB where
//!   DS = 1); it never covers less.

use core::ops::Range;

use crate::geometry::{Granule, Level, floor};
use crate::tlbi::{Instruction, TlbiRules, range_granules};

/// Spans kept apart; one more and the whole VMID goes. A batch that is scattered so widely costs more to
/// name than to refill.
const SPANS: usize = 16;

/// Ranges of this size together give way to the whole VMID: few entries outside them would be left to save,
/// and implementations may take time in proportion to a range's length.
const WHOLE_FROM: u64 = 4 << 30;

/// A stretch of IPA space to invalidate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// The level of all leaves in it; `None` where that is mixed or unknown.
    pub level: Option<Level>,
    /// The size of the smallest entry that may be cached of it: the step, entry by entry.
    pub step: u64,
    /// Whether a table was unlinked.
    pub unlinked: bool,
}

/// Invalidations that are owed: filled by the operations on the tables that it belongs to, whole entries each
/// time.
///
/// Dropping a gather that is not empty leaves stale translations behind: hand it to
/// [`Tables::invalidate`](crate::Tables::invalidate).
#[must_use = "translations stay stale until the gather has been executed"]
#[derive(Clone, Debug)]
pub struct Gather {
    rules: TlbiRules,
    spans: [Span; SPANS],
    len: usize,
    whole: bool,
}

impl Gather {
    /// An empty gather for a configuration.
    pub fn new<G: Granule>(config: &crate::Config<G>) -> Self {
        Self { rules: TlbiRules::new(config), spans: [Span::default(); SPANS], len: 0, whole: false }
    }

    /// Whether nothing is owed.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.len == 0 && !self.whole
    }

    /// Whether the whole VMID is owed.
    pub const fn is_whole(&self) -> bool {
        self.whole
    }

    /// The spans owed; meaningless where [`is_whole`](Self::is_whole).
    pub fn spans(&self) -> &[Span] {
        &self.spans[..self.len]
    }

    /// Whether any of `range` is owed.
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        self.whole || self.spans().iter().any(|span| span.start < range.end && range.start < span.end)
    }

    /// Owes nothing any more: the caller has executed it, or drops it knowing that stale translations
    /// do no harm (after ageing, say, where a stale entry only makes the page look older than it is).
    pub fn clear(&mut self) {
        self.len = 0;
        self.whole = false;
    }

    /// Owes the whole VMID.
    pub fn add_whole(&mut self) {
        self.len = 0;
        self.whole = true;
    }

    /// Owes `range`, whose leaves all stand at `level`.
    #[inline]
    pub(crate) fn add_leaves<G: Granule>(&mut self, range: Range<u64>, level: Level) {
        self.add(Span {
            start: range.start,
            end: range.end,
            level: Some(level),
            step: G::size(level),
            unlinked: false,
        });
    }

    /// Owes `range`, of which tables have been unlinked: pointers to them may be cached, and leaves of any
    /// level below.
    pub(crate) fn add_tables<G: Granule>(&mut self, range: Range<u64>) {
        self.add(Span { start: range.start, end: range.end, level: None, step: G::SIZE, unlinked: true });
    }

    /// Owes a span. It merges with those that it touches or overlaps: of one kind always, of different
    /// kinds where ranges make the mixture no dearer than its parts.
    pub(crate) fn add(&mut self, mut span: Span) {
        if self.whole || span.start >= span.end {
            return;
        }
        // The common case, a sweep in order: the span goes on where the last one ended.
        if let Some((last, others)) = self.spans[..self.len].split_last_mut()
            && (last.end, last.level, last.unlinked) == (span.start, span.level, span.unlinked)
            && others.iter().all(|other| other.end < span.start || span.end < other.start)
        {
            last.end = span.end;
            return;
        }
        let mut index = 0;
        while index < self.len {
            let other = self.spans[index];
            let touches = other.start <= span.end && span.start <= other.end;
            let alike = other.level == span.level && other.unlinked == span.unlinked;
            let overlaps = other.start < span.end && span.start < other.end;
            if touches && (alike || overlaps || self.rules.range) {
                span = Span {
                    start: span.start.min(other.start),
                    end: span.end.max(other.end),
                    level: if alike { span.level } else { None },
                    step: span.step.min(other.step),
                    unlinked: span.unlinked || other.unlinked,
                };
                self.len -= 1;
                self.spans[index] = self.spans[self.len];
                // The grown span may touch one that the old one didn't.
                index = 0;
            } else {
                index += 1;
            }
        }
        if self.len == SPANS {
            self.add_whole();
        } else {
            self.spans[self.len] = span;
            self.len += 1;
        }
    }

    /// Whether executing it invalidates the whole VMID: asked for, or cheaper.
    pub fn wants_whole(&self) -> bool {
        if self.whole {
            return true;
        }
        let (mut operations, mut bytes) = (0u64, 0u64);
        for span in self.spans() {
            if self.rules.range && span.end - span.start > span.step {
                bytes = bytes.saturating_add(span.end - span.start);
            }
            operations = operations.saturating_add(self.operations(span));
        }
        bytes >= WHOLE_FROM || operations > u64::from(self.rules.limit)
    }

    /// Instructions that a span costs.
    fn operations(&self, span: &Span) -> u64 {
        let singles = (span.end - span.start).div_ceil(span.step);
        // A range instruction can't undercut one single.
        if self.rules.range && singles > 1 { 4.min(singles) } else { singles }
    }

    /// The instructions that pay what is owed, barriers included; none where nothing is owed.
    pub fn sequence(&self) -> Sequence<'_> {
        let state = match self {
            _ if self.is_empty() => State::End,
            _ => State::Begin { whole: self.wants_whole() },
        };
        Sequence { gather: Some(self), state }
    }
}

/// Where a [`Sequence`] stands.
#[derive(Clone, Copy, Debug)]
enum State {
    Publish,
    Begin { whole: bool },
    Whole,
    Span { index: usize, at: u64 },
    Stage1,
    Stage1Complete,
    Isb,
    End,
}

/// The instructions of one invalidation, or the barrier that publishes new descriptors.
#[derive(Clone, Debug)]
pub struct Sequence<'a> {
    gather: Option<&'a Gather>,
    state: State,
}

impl Sequence<'_> {
    /// A barrier alone: what was invalid has become valid. Invalid entries are never cached, so there is
    /// nothing to invalidate, but the walkers must see the stores before anyone relies on them.
    pub(crate) const fn publish() -> Self {
        Self { gather: None, state: State::Publish }
    }

    /// The next instruction of a span, and the address after what it covers.
    fn step(rules: &TlbiRules, span: &Span, at: u64) -> (Instruction, u64) {
        let left = span.end - at;
        if rules.range && left > span.step {
            // A base between two units of it is rounded down: covering more is allowed.
            let base = floor(at, 1 << rules.base_shift());
            let granules = (span.end - base).div_ceil(1 << rules.shift);
            // The largest scale that is used up at least once; what it leaves over comes next. An odd
            // granule at the very end is covered as a pair.
            let scale = (0..4).rev().find(|&scale| granules >= range_granules(scale, 0)).unwrap_or(0);
            let num = (granules >> (5 * scale + 1)).clamp(1, 32) - 1;
            let end = base + (range_granules(scale, num) << rules.shift);
            let operand = rules.range_operand(base, scale, num, span.level);
            let instruction = if span.unlinked {
                Instruction::Ripas2e1is(operand)
            } else {
                Instruction::Ripas2le1is(operand)
            };
            return (instruction, end);
        }
        let operand = rules.ipa_operand(at, span.level);
        let instruction =
            if span.unlinked { Instruction::Ipas2e1is(operand) } else { Instruction::Ipas2le1is(operand) };
        (instruction, at.saturating_add(span.step))
    }
}

impl Iterator for Sequence<'_> {
    type Item = Instruction;

    fn next(&mut self) -> Option<Instruction> {
        let (instruction, state) = match (self.state, self.gather) {
            (State::End, _) => return None,
            (State::Publish, _) => (Instruction::DsbIshst, State::End),
            (State::Begin { whole: true }, _) => (Instruction::DsbIshst, State::Whole),
            (State::Begin { whole: false }, Some(gather)) => {
                (Instruction::DsbIshst, State::Span { index: 0, at: gather.spans[0].start })
            }
            (State::Whole, _) => (Instruction::Vmalls12e1is, State::Stage1Complete),
            (State::Span { index, at }, Some(gather)) if index < gather.len => {
                let span = &gather.spans[index];
                let (instruction, at) = Self::step(&gather.rules, span, at);
                let state = if at < span.end {
                    State::Span { index, at }
                } else {
                    let start = gather.spans().get(index + 1).map_or(0, |span| span.start);
                    State::Span { index: index + 1, at: start }
                };
                (instruction, state)
            }
            (State::Span { .. } | State::Begin { .. }, _) => (Instruction::DsbIsh, State::Stage1),
            (State::Stage1, _) => (Instruction::Vmalle1is, State::Stage1Complete),
            (State::Stage1Complete, _) => (Instruction::DsbIsh, State::Isb),
            (State::Isb, _) => (Instruction::Isb, State::End),
        };
        self.state = state;
        Some(instruction)
    }
}
