//! Which parts of a privately mapped file have made way for anonymous memory.

use std::ops::Range;

/// Extents of a memory object that are anonymous memory now, ascending. Those that touch are kept apart where the
/// kernel may have kept their mappings apart, so that their number bounds that of mappings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Anonymous {
    extents: Vec<Range<u64>>,
}

impl Anonymous {
    /// Whether all of `range` is anonymous.
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.parts(range).map(|part| part.end - part.start).sum::<u64>() == range.end - range.start
    }

    /// The anonymous parts of `range`, in order.
    pub(super) fn parts(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let (from, range) = (self.extents.partition_point(|extent| extent.end <= range.start), range.clone());
        self.extents[from..]
            .iter()
            .map(move |extent| extent.start.max(range.start)..extent.end.min(range.end))
            .take_while(|part| !part.is_empty())
    }

    /// The parts of `range` that are not anonymous, in order.
    pub(super) fn gaps(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = range.start;
        let end = range.end;
        let parts = self.parts(range).chain([end..end]);
        parts
            .map(move |part| {
                let gap = at..part.start;
                at = part.end;
                gap
            })
            .filter(|gap| !gap.is_empty())
    }

    /// Takes in that `range` was replaced by one new mapping. The kernel joins it with one neighbour at least:
    /// it holds no page yet, so nothing about it differs.
    pub(super) fn replace(&mut self, range: Range<u64>) {
        let before = self.extents.iter().filter(|extent| extent.start < range.start);
        let before = before.map(|extent| extent.start..extent.end.min(range.start));
        let behind = self.extents.iter().filter(|extent| extent.end > range.end);
        let behind = behind.map(|extent| extent.start.max(range.end)..extent.end);
        let (mut before, mut behind): (Vec<_>, Vec<_>) = (before.collect(), behind.collect());
        match (before.last_mut(), behind.first_mut()) {
            (Some(last), _) if last.end == range.start => last.end = range.end,
            (_, Some(first)) if first.start == range.end => first.start = range.start,
            _ => before.push(range),
        }
        before.append(&mut behind);
        self.extents = before;
    }

    /// The most mappings that a region of `range` can be in: each extent, and what is between and around.
    pub(super) fn mappings(&self) -> usize {
        2 * self.extents.len() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_pages(
            replaced in proptest::collection::vec((0u64..60, 1u64..8), 0..40),
            asked in (0u64..60, 1u64..20),
        ) {
            let mut model = [false; 80];
            let mut anonymous = Anonymous::default();
            for (start, len) in replaced {
                let range = start..start + len;
                model[range.start as usize..range.end as usize].fill(true);
                anonymous.replace(range);
            }
            let asked = asked.0..asked.0 + asked.1;
            let pages = |ranges: Vec<Range<u64>>| ranges.into_iter().flatten().collect::<Vec<_>>();
            let (inside, outside): (Vec<_>, Vec<_>) = asked.clone().partition(|page| model[*page as usize]);
            prop_assert_eq!(pages(anonymous.parts(&asked).collect()), inside);
            prop_assert_eq!(pages(anonymous.gaps(&asked).collect()), outside.clone());
            prop_assert_eq!(anonymous.covers(&asked), outside.is_empty());
        }
    }

    #[test]
    fn extents_join_with_one_neighbour_and_swallow_what_they_replace() {
        let mut anonymous = Anonymous::default();
        anonymous.replace(2..4);
        anonymous.replace(4..6);
        assert_eq!(anonymous.extents, [2..6]);
        anonymous.replace(8..10);
        anonymous.replace(6..8);
        assert_eq!(anonymous.extents, [2..8, 8..10]);
        assert!(anonymous.covers(&(3..9)));
        anonymous.replace(7..9);
        assert_eq!(anonymous.extents, [2..9, 9..10]);
        anonymous.replace(0..20);
        assert_eq!(anonymous.extents, [0..20]);
        assert_eq!(anonymous.mappings(), 3);
    }
}
