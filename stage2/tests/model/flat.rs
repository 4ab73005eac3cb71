//! The flat map: a function from every address to a value, stored by stretches.
//!
//! An input address space of 52 bits has a million million pages; what a test does to it has a few dozen
//! borders. Every address still has its own value: the stretches are only how it is written down.

use std::collections::BTreeMap;
use std::ops::Range;

/// A value for every address below `end`.
#[derive(Clone, Debug)]
pub(crate) struct Flat<T> {
    /// Each value holds from its key to the next.
    starts: BTreeMap<u64, T>,
    end: u64,
}

impl<T: Copy + Eq> Flat<T> {
    pub(crate) fn new(end: u64, value: T) -> Self {
        Self { starts: BTreeMap::from([(0, value)]), end }
    }

    pub(crate) fn at(&self, address: u64) -> T {
        *self.starts.range(..=address).next_back().expect("there is a value for address 0").1
    }

    pub(crate) fn set(&mut self, range: Range<u64>, value: T) {
        self.update(range, |_| value);
    }

    /// Applies `change` to every address of `range`.
    pub(crate) fn update(&mut self, range: Range<u64>, change: impl Fn(T) -> T) {
        if range.is_empty() {
            return;
        }
        for border in [range.start, range.end] {
            if border < self.end {
                let value = self.at(border);
                self.starts.insert(border, value);
            }
        }
        for (_, value) in self.starts.range_mut(range.clone()) {
            *value = change(*value);
        }
        // Borders between equal values go.
        let inside: Vec<u64> = self.starts.range(range.start..=range.end).map(|(&start, _)| start).collect();
        for start in inside {
            if start > 0 && self.starts[&start] == self.at(start - 1) {
                self.starts.remove(&start);
            }
        }
    }

    /// Appends: everything from `start` on has `value`. `start` isn't below any earlier one.
    pub(crate) fn push(&mut self, start: u64, value: T) {
        if self.starts.last_key_value().is_none_or(|(_, &last)| last != value) {
            self.starts.insert(start, value);
        }
    }

    /// The maximal uniform stretches, in order.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (Range<u64>, T)> + '_ {
        let ends = self.starts.keys().skip(1).copied().chain([self.end]);
        self.starts.iter().zip(ends).map(|((&start, &value), end)| (start..end, value))
    }

    /// The stretches of `range`, clipped.
    pub(crate) fn within(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, T)> + '_ {
        let first = self.starts.range(..=range.start).next_back().map_or(0, |(&start, _)| start);
        let ends = self.starts.range(first..).skip(1).map(|(&start, _)| start).chain([self.end]);
        let clip = range.clone();
        self.starts
            .range(first..)
            .zip(ends)
            .map(|((&start, &value), end)| (start..end, value))
            .take_while(move |(part, _)| part.start < range.end)
            .map(move |(part, value)| (part.start.max(clip.start)..part.end.min(clip.end), value))
            .filter(|(part, _)| !part.is_empty())
    }

    /// Joins two maps, address by address.
    pub(crate) fn zip<U: Copy + Eq, V: Copy + Eq>(&self, other: &Flat<U>, f: impl Fn(T, U) -> V) -> Flat<V> {
        let mut joined = Flat { starts: BTreeMap::new(), end: self.end };
        for (range, left) in self.stretches() {
            for (part, right) in other.within(range) {
                joined.push(part.start, f(left, right));
            }
        }
        joined
    }
}

/// A set of addresses.
pub(crate) type Set = Flat<bool>;

impl Set {
    pub(crate) fn empty(end: u64) -> Self {
        Self::new(end, false)
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        self.set(range, true);
    }

    pub(crate) fn or(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a || b)
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        self.zip(other, |a, b| a && !b)
    }

    /// The stretches that are in the set.
    pub(crate) fn members(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        self.stretches().filter(|(_, inside)| *inside).map(|(range, _)| range)
    }

    pub(crate) fn first(&self) -> Option<Range<u64>> {
        self.members().next()
    }

    /// Whether any address of `range` is in the set.
    pub(crate) fn touches(&self, range: Range<u64>) -> bool {
        self.within(range).any(|(_, inside)| inside)
    }
}
