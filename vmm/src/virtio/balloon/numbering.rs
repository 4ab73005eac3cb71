//! Which queue is which.
//!
//! The first two are always there. Of the other three each exists only with its feature (virtio 1.3, 5.5.2),
//! and Linux and QEMU number those that exist without gaps. A driver that takes the numbers of the
//! specification as they stand is told apart by the queues that it sets up.

use super::features::{FREE_PAGE_HINT, PAGE_REPORTING, STATS_VQ};

/// What a queue is for; its value is its number in the specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Pages for the balloon.
    Inflate = 0,
    /// Pages out of the balloon.
    Deflate = 1,
    /// What the guest says about its memory.
    Statistics = 2,
    /// Free pages, when asked.
    Hint = 3,
    /// Free pages, unasked.
    Report = 4,
}

/// The largest number of queues.
pub(super) const QUEUES: usize = 5;

/// The role of each queue: for a driver that took these features, and set these queues up.
pub(super) fn roles(features: u64, is_ready: [bool; QUEUES]) -> [Option<Role>; QUEUES] {
    let optional =
        [(Role::Statistics, STATS_VQ), (Role::Hint, FREE_PAGE_HINT), (Role::Report, PAGE_REPORTING)];
    let taken = optional.into_iter().filter(|(_, bit)| features & bit != 0).map(|(role, _)| role);
    let taken = [Role::Inflate, Role::Deflate].into_iter().chain(taken);
    let mut dense = [None; QUEUES];
    let mut literal = [None; QUEUES];
    for (number, role) in taken.enumerate() {
        dense[number] = Some(role);
        literal[role as usize] = Some(role);
    }
    let fits = |roles: &[Option<Role>; QUEUES]| (0..QUEUES).all(|at| roles[at].is_some() == is_ready[at]);
    if !fits(&dense) && fits(&literal) { literal } else { dense }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All 64 subsets of the features.
    fn subsets() -> impl Iterator<Item = (u64, Vec<Role>)> {
        (0..64u64).map(|features| {
            let mut roles = vec![Role::Inflate, Role::Deflate];
            for (role, bit) in [(Role::Statistics, 1), (Role::Hint, 3), (Role::Report, 5)] {
                if features & 1 << bit != 0 {
                    roles.push(role);
                }
            }
            (features, roles)
        })
    }

    #[test]
    fn must_pass_10_queues_are_numbered_without_gaps_for_every_subset_of_features() {
        for (features, expected) in subsets() {
            let mut ready = [false; QUEUES];
            ready[..expected.len()].fill(true);
            let roles: Vec<_> = roles(features, ready).into_iter().flatten().collect();
            assert_eq!(roles, expected, "{features:#b}");
        }
    }

    #[test]
    fn must_pass_10_a_driver_that_numbers_by_the_letter_is_understood() {
        for (features, expected) in subsets() {
            let mut ready = [false; QUEUES];
            expected.iter().for_each(|&role| ready[role as usize] = true);
            let roles = roles(features, ready);
            for role in expected {
                assert_eq!(roles[role as usize], Some(role), "{features:#b}");
            }
        }
    }

    #[test]
    fn queues_without_a_feature_or_not_set_up_mean_nothing() {
        assert_eq!(roles(0, [true; QUEUES]), [Some(Role::Inflate), Some(Role::Deflate), None, None, None]);
        assert_eq!(roles(STATS_VQ, [false; QUEUES])[2], Some(Role::Statistics));
    }
}
