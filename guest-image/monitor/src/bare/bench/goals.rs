//! The goals: what groups and blocks must cost at most, against pages.

use core::fmt;

use board::say;

use super::{Cost, Form, Leaves};

/// Faults and invalidations of what a goal is about, by form and leaves.
#[derive(Debug, Default)]
pub(super) struct Goals {
    harvest: [[Option<Figures>; 3]; 3],
    take: [[Option<Figures>; 3]; 3],
}

/// What is compared.
#[derive(Clone, Copy, Debug)]
struct Figures {
    faults: u64,
    invalidations: u64,
}

/// At most one in so many.
const GROUPS: u64 = 10;
const BLOCKS: u64 = 500;

impl Goals {
    /// A harvest costs what it invalidates, and the faults after it.
    pub(super) fn harvest(&mut self, form: Form, leaves: Leaves, harvest: Cost, again: Cost) {
        let figures = Figures {
            faults: harvest.faults + again.faults,
            invalidations: harvest.issued.sequences + again.issued.sequences,
        };
        self.harvest[form as usize][leaves as usize] = Some(figures);
    }

    /// Memory that is given back leaf by leaf.
    pub(super) fn take(&mut self, form: Form, leaves: Leaves, take: Cost) {
        let figures = Figures { faults: take.faults, invalidations: take.issued.sequences };
        self.take[form as usize][leaves as usize] = Some(figures);
    }

    /// One line for each: met or missed.
    pub(super) fn print(&self) {
        for (what, table) in [("harvest", &self.harvest), ("teardown leaf by leaf", &self.take)] {
            for form in Form::ALL {
                let [Some(pages), groups, blocks] = table[form as usize] else { continue };
                for (leaves, figures, at_most) in [("groups", groups, GROUPS), ("blocks", blocks, BLOCKS)] {
                    let Some(figures) = figures else { continue };
                    let met = figures.faults * at_most <= pages.faults
                        && figures.invalidations * at_most <= pages.invalidations;
                    let verdict = if met { "met" } else { "MISSED" };
                    say!(
                        "# goal: {what} as {leaves}, by {}: at most 1/{at_most} of pages: {figures} of {pages}: {verdict}",
                        form.name()
                    );
                }
            }
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults and {} invalidations", self.faults, self.invalidations)
    }
}
