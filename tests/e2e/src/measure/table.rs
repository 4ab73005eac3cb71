//! All rows, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Row, Verdict};

/// Rows under headings.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Table {
    /// What was measured, on what, against whom.
    pub about: BTreeMap<String, String>,
    /// In the order of the table.
    pub sections: Vec<Section>,
}

/// Rows that belong together.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// Its rows.
    pub rows: Vec<Row>,
}

impl Table {
    /// Adds rows under a heading.
    pub fn add(&mut self, title: &str, rows: Vec<Row>) -> &Section {
        let at = self.sections.len();
        self.sections.push(Section { title: title.into(), rows });
        &self.sections[at]
    }

    /// All rows.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.sections.iter().flat_map(|section| &section.rows)
    }

    /// How many goals were met, and how many there are.
    pub fn score(&self) -> (usize, usize) {
        let verdicts: Vec<_> = self.rows().filter_map(|row| row.verdict).collect();
        (verdicts.iter().filter(|verdict| **verdict == Verdict::Met).count(), verdicts.len())
    }
}

/// Columns of the first cell.
const WIDTH: usize = 46;

/// What is not there is a dash.
fn or_dash(value: &Option<impl fmt::Display>) -> String {
    value.as_ref().map_or_else(|| "-".into(), |value| value.to_string())
}

/// Writes one line of cells.
fn line(f: &mut fmt::Formatter<'_>, width: usize, cells: [&str; 6]) -> fmt::Result {
    let [what, quire, peer, measured, goal, verdict] = cells;
    let text = format!("{what:<width$}{quire:>12}{peer:>12}{measured:>11}  {goal:<14}{verdict}");
    writeln!(f, "{}", text.trim_end())
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        for row in &self.rows {
            let cells = [
                format!("  {}", row.what),
                row.quire.to_string(),
                or_dash(&row.peer),
                or_dash(&row.measured),
                or_dash(&row.goal),
                row.verdict.map(|verdict| verdict.to_string()).unwrap_or_default(),
            ];
            line(f, WIDTH, cells.each_ref().map(String::as_str))?;
        }
        Ok(())
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, WIDTH, ["", "Quire", "QEMU", "measured", "goal", ""])?;
        for section in &self.sections {
            write!(f, "\n{section}")?;
        }
        let (met, all) = self.score();
        writeln!(f, "\n{met} of {all} goals met")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::{Figure, Goal};

    fn table() -> Table {
        let mut table = Table::default();
        let goal = Goal::AtMost(Figure::ratio(0.5));
        let (two, eight) = (Figure::count(2), Figure::count(8));
        table.add(
            "inflate",
            vec![
                Row::relative("time", two, eight, goal),
                Row::relative("kernel time", eight, two, goal),
                Row::plain("the guest's share", two, None),
            ],
        );
        table
    }

    #[test]
    fn the_table_says_what_was_met_and_what_was_not() {
        let text = table().to_string();
        let line = |what: &str| text.lines().find(|line| line.trim().starts_with(what)).unwrap();
        assert!(line("time").ends_with("<= 0.50x      met"), "{text}");
        assert!(line("kernel time").ends_with("missed by 8.00x"), "{text}");
        assert!(line("the guest's share").contains('-'), "{text}");
        assert!(text.ends_with("1 of 2 goals met\n"), "{text}");
    }

    #[test]
    fn the_json_has_figures_goals_and_verdicts() {
        let json = serde_json::to_value(table()).unwrap();
        let row = &json["sections"][0]["rows"][1];
        assert_eq!(row["measured"]["value"], 4.0);
        assert_eq!(row["goal"]["at_most"]["value"], 0.5);
        assert_eq!(row["verdict"]["missed"], 8.0);
        assert_eq!(json["sections"][0]["rows"][0]["verdict"], "met");
    }
}
