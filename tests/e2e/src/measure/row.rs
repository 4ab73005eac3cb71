//! One line of the table: figures, a goal, the verdict.

use std::fmt;

use serde::Serialize;

use super::Figure;

/// What a figure should be.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// This, or less.
    AtMost(Figure),
    /// Less than this.
    Under(Figure),
    /// This, or more.
    AtLeast(Figure),
}

/// Whether a goal was met.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It was.
    Met,
    /// It was not: the figure over the goal, or the goal over the figure where more is better. Always 1 or more.
    Missed(f64),
}

impl Goal {
    /// Judges a figure. One that is no number meets no goal.
    pub fn judge(self, measured: Figure) -> Verdict {
        let (met, missed_by) = match self {
            Self::AtMost(goal) => (measured.value <= goal.value, measured.value / goal.value),
            Self::Under(goal) => (measured.value < goal.value, measured.value / goal.value),
            Self::AtLeast(goal) => (measured.value >= goal.value, goal.value / measured.value),
        };
        if met { Verdict::Met } else { Verdict::Missed(missed_by) }
    }

    /// How far a figure is from the goal: 1 is just there, less is better.
    pub fn distance(self, measured: Figure) -> f64 {
        match self {
            Self::AtMost(goal) | Self::Under(goal) if goal.value == 0.0 => measured.value,
            Self::AtMost(goal) | Self::Under(goal) => measured.value / goal.value,
            Self::AtLeast(goal) => goal.value / measured.value,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&match self {
            Self::AtMost(goal) => format!("<= {goal}"),
            Self::Under(goal) => format!("< {goal}"),
            Self::AtLeast(goal) => format!(">= {goal}"),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Met => f.pad("met"),
            Self::Missed(by) if by.is_finite() => f.pad(&format!("missed by {by:.2}x")),
            Self::Missed(_) => f.pad("missed"),
        }
    }
}

/// One line of the table.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Row {
    /// What was measured.
    pub what: String,
    /// Quire's figure.
    pub quire: Figure,
    /// The peer's, where there is one to compare with.
    pub peer: Option<Figure>,
    /// What is held against the goal: the ratio of the two, or Quire's figure.
    pub measured: Option<Figure>,
    /// The goal.
    pub goal: Option<Goal>,
    /// The verdict.
    pub verdict: Option<Verdict>,
}

impl Row {
    /// A figure without a goal.
    pub fn plain(what: &str, quire: Figure, peer: Option<Figure>) -> Self {
        Self { what: what.into(), quire, peer, measured: None, goal: None, verdict: None }
    }

    /// Quire's figure, held against a goal.
    pub fn absolute(what: &str, quire: Figure, peer: Option<Figure>, goal: Goal) -> Self {
        Self { measured: Some(quire), ..Self::plain(what, quire, peer) }.judged(goal)
    }

    /// Quire's figure over the peer's, held against a goal.
    pub fn relative(what: &str, quire: Figure, peer: Figure, goal: Goal) -> Self {
        Self { measured: Some(quire.over(peer)), ..Self::plain(what, quire, Some(peer)) }.judged(goal)
    }

    /// Quire's figure over another of its own, held against a goal.
    pub fn against(what: &str, quire: Figure, other: Figure, goal: Goal) -> Self {
        Self { measured: Some(quire.over(other)), ..Self::plain(what, quire, None) }.judged(goal)
    }

    fn judged(self, goal: Goal) -> Self {
        Self { goal: Some(goal), verdict: self.measured.map(|measured| goal.judge(measured)), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_at_its_edge_and_missed_beyond() {
        let at_most = Goal::AtMost(Figure::count(256));
        assert_eq!(at_most.judge(Figure::count(256)), Verdict::Met);
        assert_eq!(at_most.judge(Figure::count(512)), Verdict::Missed(2.0));
        let under = Goal::Under(Figure::bytes(65536));
        assert_eq!(under.judge(Figure::bytes(65536)), Verdict::Missed(1.0));
        assert_eq!(under.judge(Figure::bytes(65535)), Verdict::Met);
        let at_least = Goal::AtLeast(Figure::ratio(100.0));
        assert_eq!(at_least.judge(Figure::ratio(50.0)), Verdict::Missed(2.0));
        assert_eq!(at_least.judge(Figure::ratio(100.0)), Verdict::Met);
    }

    #[test]
    fn what_is_no_number_meets_no_goal() {
        let nothing = Figure::count(0).over(Figure::count(0));
        for goal in [Goal::AtMost(Figure::ratio(1.0)), Goal::AtLeast(Figure::ratio(1.0))] {
            assert!(matches!(goal.judge(nothing), Verdict::Missed(_)));
        }
        let none = Goal::AtMost(Figure::count(0));
        assert_eq!(none.judge(Figure::count(0)), Verdict::Met);
        assert_eq!(none.judge(Figure::count(3)).to_string(), "missed");
    }

    #[test]
    fn a_relative_row_is_judged_by_its_ratio() {
        let goal = Goal::AtMost(Figure::ratio(0.5));
        let row = Row::relative("time", Figure::count(3), Figure::count(4), goal);
        assert_eq!(row.verdict, Some(Verdict::Missed(1.5)));
        assert_eq!(row.verdict.unwrap().to_string(), "missed by 1.50x");
        assert_eq!(goal.to_string(), "<= 0.50x");
    }
}
