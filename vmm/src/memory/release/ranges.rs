//! Clip, sort, merge, align: what a guest names becomes what may be given back.

use std::ops::Range;

/// The parts of `ranges` that are inside `ram` (sorted, disjoint), sorted and merged.
pub(super) fn clipped(ranges: &[Range<u64>], ram: &[Range<u64>]) -> Vec<Range<u64>> {
    let inside = |range: &Range<u64>| {
        let range = range.clone();
        ram.iter().map(move |ram| range.start.max(ram.start)..range.end.min(ram.end))
    };
    merged(ranges.iter().flat_map(inside).filter(|range| range.start < range.end).collect())
}

/// Sorted, with what overlaps or touches joined.
pub(super) fn merged(mut ranges: Vec<Range<u64>>) -> Vec<Range<u64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut out: Vec<Range<u64>> = Vec::with_capacity(ranges.len().min(64));
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => out.push(range),
        }
    }
    out
}

/// The whole `unit`s (a power of two) inside each of `ranges`; never a byte more than was named.
pub(super) fn inward(ranges: &[Range<u64>], unit: u64) -> Vec<Range<u64>> {
    let whole = |range: &Range<u64>| {
        let start = range.start.checked_next_multiple_of(unit)?;
        let end = range.end / unit * unit;
        (start < end).then_some(start..end)
    };
    ranges.iter().filter_map(whole).collect()
}

/// The `unit`s that `ranges` (sorted, inside `ram`) touch, clipped to `ram` and merged.
pub(super) fn outward(ranges: &[Range<u64>], unit: u64, ram: &[Range<u64>]) -> Vec<Range<u64>> {
    let touched =
        |range: &Range<u64>| range.start / unit * unit..range.end.div_ceil(unit).saturating_mul(unit);
    clipped(&ranges.iter().map(touched).collect::<Vec<_>>(), ram)
}

/// Bytes in all.
pub(super) fn bytes(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two regions with a hole between them.
    const RAM: [Range<u64>; 2] = [0x10000..0x20000, 0x30000..0x38000];

    fn holds(ranges: &[Range<u64>], byte: u64) -> bool {
        ranges.iter().any(|range| range.contains(&byte))
    }

    proptest! {
        /// 4K PFNs on hosts with larger pages must not take their neighbours along.
        #[test]
        fn nothing_is_rounded_up(
            ranges in proptest::collection::vec((0u64..0x40000, 0u64..0x9000), 0..8),
            unit in prop::sample::select(vec![1u64, 0x1000, 0x4000, 0x10000]),
        ) {
            let named: Vec<_> = ranges.iter().map(|&(start, len)| start..start + len).collect();
            let all = clipped(&named, &RAM);
            let whole = inward(&all, unit);
            let touched = outward(&all, unit, &RAM);
            for pair in all.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for byte in (0..0x40000).step_by(0x200) {
                let is_named = holds(&named, byte) && holds(&RAM, byte);
                prop_assert_eq!(holds(&all, byte), is_named);
                let start = byte / unit * unit;
                let unit_is_named = (start..start + unit).step_by(0x200.min(unit as usize)).all(|b| holds(&all, b));
                if holds(&whole, byte) {
                    prop_assert!(unit_is_named);
                } else if unit >= 0x200 && is_named {
                    // What is left out lacks a byte of its unit; sampling may miss which.
                    prop_assert!(holds(&touched, byte));
                }
            }
        }
    }

    #[test]
    fn a_range_at_the_end_of_everything_does_not_overflow() {
        assert_eq!(inward(&[u64::MAX - 5..u64::MAX], 4096), []);
        assert_eq!(
            clipped(&[u64::MAX - 5..u64::MAX, 0x1f000..u64::MAX], &RAM),
            [0x1f000..0x20000, 0x30000..0x38000]
        );
        #[expect(clippy::reversed_empty_ranges, reason = "a guest may name one")]
        let backwards = 0x18000..0x11000;
        assert_eq!(clipped(&[backwards], &RAM), []);
    }
}
