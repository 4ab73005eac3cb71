//! The oracle: what every page says, without levels, blocks, groups or tables.
//!
//! It keeps stretches instead of pages, so that a petabyte costs nothing, but nothing in it knows of any
//! size other than one byte. How far hardware's AF and dirty bits reach depends on leaves; the replay asks
//! the tables for those and checks them first.

use std::collections::BTreeMap;
use std::ops::Range;

use stage2::{Attributes, Content, Marker, Run};

/// What a stretch says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Invalid(Option<Marker>),
    /// `oa` is the output address of the first byte.
    Mapped {
        oa: u64,
        attributes: Attributes,
    },
}

impl State {
    /// The state `bytes` further on.
    fn advanced(self, bytes: u64) -> Self {
        match self {
            Self::Mapped { oa, attributes } => Self::Mapped { oa: oa + bytes, attributes },
            invalid => invalid,
        }
    }
}

pub(crate) struct Oracle {
    /// By first address; each reaches to the next. There is always one at 0.
    stretches: BTreeMap<u64, State>,
    end: u64,
}

impl Oracle {
    pub(crate) fn new(end: u64) -> Self {
        Self { stretches: BTreeMap::from([(0, State::Invalid(None))]), end }
    }

    fn cut(&mut self, at: u64) {
        if at < self.end {
            let (&start, &state) = self.stretches.range(..=at).next_back().expect("there is one at 0");
            self.stretches.insert(at, state.advanced(at - start));
        }
    }

    /// Changes what `range` says, stretch by stretch.
    pub(crate) fn change(&mut self, range: &Range<u64>, mut change: impl FnMut(Range<u64>, &mut State)) {
        self.cut(range.start);
        self.cut(range.end);
        let starts: Vec<u64> = self.stretches.range(range.clone()).map(|(&start, _)| start).collect();
        for (index, &start) in starts.iter().enumerate() {
            let end = starts.get(index + 1).copied().unwrap_or(range.end);
            change(start..end, self.stretches.get_mut(&start).expect("it was just listed"));
        }
        self.join(range);
    }

    /// Changes the attributes of what is mapped in `range`.
    pub(crate) fn change_mapped(&mut self, range: &Range<u64>, mut change: impl FnMut(&mut Attributes)) {
        self.change(range, |_, state| {
            if let State::Mapped { attributes, .. } = state {
                change(attributes);
            }
        });
    }

    /// Joins neighbours that say the same, in and around `range`.
    fn join(&mut self, range: &Range<u64>) {
        let first = self.stretches.range(..range.start).next_back().map_or(0, |(&start, _)| start);
        let mut previous: Option<(u64, State)> = None;
        let listed: Vec<(u64, State)> =
            self.stretches.range(first..=range.end).map(|(&start, &state)| (start, state)).collect();
        for (start, state) in listed {
            match previous {
                Some((from, before)) if before.advanced(start - from) == state => {
                    self.stretches.remove(&start);
                }
                _ => previous = Some((start, state)),
            }
        }
    }

    /// The maximal stretches that touch `range`, clipped to it.
    pub(crate) fn stretches(&self, range: &Range<u64>) -> Vec<(Range<u64>, State)> {
        let first = self.stretches.range(..=range.start).next_back().map_or(0, |(&start, _)| start);
        let mut found: Vec<(Range<u64>, State)> = Vec::new();
        for (&start, &state) in self.stretches.range(first..range.end) {
            let clipped = start.max(range.start);
            if let Some((last, _)) = found.last_mut() {
                last.end = clipped;
            }
            found.push((clipped..range.end, state.advanced(clipped - start)));
        }
        found
    }

    /// What `ipa` says.
    pub(crate) fn at(&self, ipa: u64) -> State {
        let (&start, &state) = self.stretches.range(..=ipa).next_back().expect("there is one at 0");
        state.advanced(ipa - start)
    }

    /// The first mapped address in `range`.
    pub(crate) fn first_mapped(&self, range: &Range<u64>) -> Option<u64> {
        let mut stretches = self.stretches(range).into_iter();
        stretches.find(|(_, state)| matches!(state, State::Mapped { .. })).map(|(range, _)| range.start)
    }

    /// The same in the words of [`stage2::Runs`].
    pub(crate) fn runs(&self, range: &Range<u64>) -> Vec<Run> {
        let content = |state| match state {
            State::Invalid(None) => Content::Unmapped,
            State::Invalid(Some(marker)) => Content::Marked(marker),
            State::Mapped { oa, attributes } => Content::Mapped { oa, attributes },
        };
        let stretches = self.stretches(range).into_iter();
        stretches.map(|(range, state)| Run { range, content: content(state) }).collect()
    }
}
