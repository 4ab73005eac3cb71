//! Which units of a piece of memory are taken: a bit for each.

/// Words of the bitmap.
const WORDS: usize = 128;

/// The most units.
pub const UNITS: usize = WORDS * 64;

/// What is taken. Runs are powers of two, aligned to themselves.
#[derive(Debug)]
pub struct Units {
    taken: [u64; WORDS],
    /// Units in use.
    count: usize,
    /// The word where the last one was found.
    from: usize,
}

impl Units {
    /// All free.
    pub const fn new() -> Self {
        Self { taken: [0; WORDS], count: 0, from: 0 }
    }

    /// How many are taken.
    pub const fn taken(&self) -> usize {
        self.count
    }

    /// Takes a run of `length` units, a power of two; `None` where no such run is free.
    pub fn take(&mut self, length: usize) -> Option<usize> {
        if !length.is_power_of_two() || length > UNITS {
            return None;
        }
        let first = if length <= 64 { self.within_word(length) } else { self.whole_words(length) }?;
        self.mark(first, length, true);
        Some(first)
    }

    /// Gives a run back; `false`, and nothing changes, where not all of it was taken.
    pub fn give(&mut self, first: usize, length: usize) -> bool {
        let all = length.is_power_of_two()
            && first.is_multiple_of(length)
            && first + length <= UNITS
            && (first..first + length).all(|unit| self.taken[unit / 64] >> (unit % 64) & 1 == 1);
        if all {
            self.mark(first, length, false);
        }
        all
    }

    fn within_word(&mut self, length: usize) -> Option<usize> {
        for step in 0..WORDS {
            let at = (self.from + step) % WORDS;
            let free = !self.taken[at];
            if free == 0 {
                continue;
            }
            let run = if length == 64 { u64::MAX } else { (1 << length) - 1 };
            let place = (0..64).step_by(length).find(|&place| free >> place & run == run);
            if let Some(place) = place {
                self.from = at;
                return Some(at * 64 + place);
            }
        }
        None
    }

    fn whole_words(&self, length: usize) -> Option<usize> {
        let words = length / 64;
        let run = (0..WORDS).step_by(words).find(|&at| self.taken[at..at + words].iter().all(|&w| w == 0));
        run.map(|at| at * 64)
    }

    fn mark(&mut self, first: usize, length: usize, taken: bool) {
        for unit in first..first + length {
            let bit = 1 << (unit % 64);
            if taken {
                self.taken[unit / 64] |= bit;
            } else {
                self.taken[unit / 64] &= !bit;
            }
        }
        self.count = if taken { self.count + length } else { self.count - length };
    }
}

impl Default for Units {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_aligned_and_never_overlap() {
        let mut units = Units::new();
        let mut seen = std::collections::BTreeSet::new();
        for length in [1, 16, 1, 4, 64, 256, 2, 1] {
            let first = units.take(length).unwrap();
            assert_eq!(first % length, 0);
            for unit in first..first + length {
                assert!(seen.insert(unit), "{unit} twice");
            }
        }
        assert_eq!(units.taken(), seen.len());
    }

    #[test]
    fn all_can_be_taken_and_come_back() {
        let mut units = Units::new();
        let taken: Vec<usize> = std::iter::from_fn(|| units.take(16)).collect();
        assert_eq!((taken.len(), units.take(1)), (UNITS / 16, None));
        assert!(taken.iter().all(|&first| units.give(first, 16)));
        assert_eq!(units.taken(), 0);
    }

    #[test]
    fn what_was_not_taken_is_not_given_back() {
        let mut units = Units::new();
        let first = units.take(4).unwrap();
        assert!(!units.give(first, 8));
        assert!(units.give(first, 4));
        assert!(!units.give(first, 4));
        assert_eq!(units.taken(), 0);
    }
}
