//! From bits to ranges: one bit per host page, 64 in a word, the lowest first, as KVM's dirty log has them.

use std::ops::Range;

/// Pages per word.
pub const WORD: u64 = 64;

/// Visits the runs of pages whose bit is set in `words`, the first of which stands for page `first`.
pub fn runs(words: impl IntoIterator<Item = u64>, first: u64, visit: &mut dyn FnMut(Range<u64>)) {
    let mut open: Option<Range<u64>> = None;
    for (index, word) in (0..).zip(words) {
        let base = first + index * WORD;
        let mut rest = word;
        while rest != 0 {
            let start = rest.trailing_zeros();
            let len = (rest >> start).trailing_ones();
            let run = base + u64::from(start)..base + u64::from(start + len);
            match &mut open {
                Some(open) if open.end == run.start => open.end = run.end,
                _ => {
                    if let Some(done) = open.replace(run) {
                        visit(done);
                    }
                }
            }
            // The shift is in two steps: all 64 bits may be used up.
            rest = rest.checked_shr(start + len).unwrap_or(0).checked_shl(start + len).unwrap_or(0);
        }
    }
    if let Some(done) = open {
        visit(done);
    }
}

/// The bits of word `index` that stand for `pages`.
pub fn mask(index: u64, pages: &Range<u64>) -> u64 {
    let base = index * WORD;
    let from = pages.start.clamp(base, base + WORD) - base;
    let to = pages.end.clamp(base, base + WORD) - base;
    let below = |n: u64| if n == WORD { u64::MAX } else { (1 << n) - 1 };
    below(to) & !below(from)
}

/// The words that stand for `pages`, which are not empty.
pub fn words(pages: &Range<u64>) -> Range<u64> {
    pages.start / WORD..pages.end.div_ceil(WORD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_are_the_pages_whose_bit_is_set(
            words in proptest::collection::vec(prop_oneof![Just(0), Just(u64::MAX), any::<u64>()], 0..6),
            first in 0u64..1 << 40,
        ) {
            let mut found: Vec<Range<u64>> = Vec::new();
            runs(words.iter().copied(), first, &mut |run| found.push(run));
            prop_assert!(found.windows(2).all(|pair| pair[0].end < pair[1].start), "{:?}", found);
            let pages: Vec<_> = found.into_iter().flatten().collect();
            let set = |page: &u64| words[(page / 64) as usize] >> (page % 64) & 1 == 1;
            let expected: Vec<_> = (0..words.len() as u64 * 64).filter(set).map(|page| page + first).collect();
            prop_assert_eq!(pages, expected);
        }

        #[test]
        fn a_mask_has_the_bits_of_its_pages(start in 0u64..200, len in 1u64..200) {
            let pages = start..start + len;
            for index in 0..8 {
                let expected = (0..64).filter(|bit| pages.contains(&(index * 64 + bit))).fold(0, |mask, bit| mask | 1 << bit);
                prop_assert_eq!(mask(index, &pages), expected);
                prop_assert_eq!(words(&pages).contains(&index), expected != 0);
            }
        }
    }
}
