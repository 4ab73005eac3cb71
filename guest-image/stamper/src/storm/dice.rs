//! Numbers that look random and follow from a seed.

/// A source of numbers: splitmix64.
#[derive(Clone, Debug)]
pub struct Dice(u64);

/// 2^64 / the golden ratio, odd: what splitmix64 counts by.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

impl Dice {
    /// The numbers of one step: they follow from seed and step alone, so that a step can be looked at without
    /// those before it.
    pub const fn of_step(seed: u64, step: u64) -> Self {
        let mut dice = Self(seed);
        // Two rounds, or step 1 of seed 0 would be step 0 of the seed that comes next.
        let seed = dice.roll();
        Self(seed ^ step.wrapping_mul(GAMMA))
    }

    /// Any number.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GAMMA);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`; 0 where that is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        // The high half of the product: no division, and a bias of bound / 2^64.
        ((self.roll() as u128 * bound as u128) >> 64) as u64
    }

    /// True in `part` of `whole` cases.
    pub const fn chance(&mut self, part: u64, whole: u64) -> bool {
        self.below(whole) < part
    }

    /// One of `choices` by its weight.
    pub fn weighted<T: Copy>(&mut self, choices: &[(u64, T)]) -> Option<T> {
        let mut left = self.below(choices.iter().map(|(weight, _)| weight).sum());
        choices.iter().find_map(|&(weight, choice)| {
            let found = left < weight;
            left = left.wrapping_sub(weight);
            found.then_some(choice)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seed_and_step_decide() {
        let roll = |seed, step| Dice::of_step(seed, step).roll();
        assert_eq!(roll(1, 7), roll(1, 7));
        let mut all: Vec<_> = (0..16).flat_map(|seed| (0..64).map(move |step| roll(seed, step))).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 16 * 64);
    }

    #[test]
    fn every_number_below_the_bound_comes_and_no_other() {
        let mut dice = Dice::of_step(3, 3);
        let mut seen = [0; 7];
        (0..7000).for_each(|_| seen[dice.below(7) as usize] += 1);
        assert!(seen.iter().all(|&count| count > 800), "{seen:?}");
        assert_eq!(dice.below(0), 0);
    }

    #[test]
    fn weights_count() {
        let mut dice = Dice::of_step(4, 4);
        let choices = [(0, 'a'), (1, 'b'), (3, 'c')];
        let count =
            |wanted, dice: &mut Dice| (0..4000).filter(|_| dice.weighted(&choices) == Some(wanted)).count();
        assert_eq!(count('a', &mut dice), 0);
        assert!((700..1300).contains(&count('b', &mut dice)));
        assert_eq!(dice.weighted::<char>(&[]), None);
    }
}
