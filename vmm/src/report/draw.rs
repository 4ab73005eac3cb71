//! A map as text.

use std::fmt;

use super::{Cell, Folios, Map};
use crate::config::Size;

/// Cells per line.
const WIDTH: usize = 64;

/// What a cell may show: a letter, its meaning.
const KINDS: [(char, &str); 6] = [
    ('#', "blocks"),
    ('=', "contiguous groups"),
    ('-', "pages"),
    ('o', "released to the host"),
    ('.', "vacant"),
    ('~', "not loaded yet"),
];

impl fmt::Display for Map {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = &self.summary;
        let share = |bytes: u64| bytes as f64 * 100.0 / (sum.total.max(1) as f64);
        writeln!(f, "guest memory {}", Size(sum.total))?;
        for (what, bytes) in [
            ("populated", sum.populated),
            ("  dirty", sum.dirty),
            ("  young", sum.young),
            ("released", sum.released),
            ("vacant", sum.vacant),
            ("absent", sum.absent),
        ] {
            writeln!(f, "  {what:<12} {:>10} {:>6.2} %", Size(bytes), share(bytes))?;
        }
        writeln!(f, "in the ledger ({}), as", Size(sum.ledger))?;
        sizes(f, &sum.leaves)?;
        if let Some(Folios { mapped, sizes: by }) = &self.host {
            writeln!(f, "in the host's tables {}, as folios of", Size(*mapped))?;
            sizes(f, by)?;
        }
        if let Some(why) = &self.host_unknown {
            writeln!(f, "in the host's tables: not known, {why}")?;
        }
        writeln!(f, "one character is {}", Size(self.cell))?;
        for line in self.strip.chunks(WIDTH) {
            let text: String = line.iter().map(kind).collect();
            writeln!(f, "  {text}")?;
        }
        let legend: Vec<_> = KINDS.iter().map(|(letter, what)| format!("{letter} {what}")).collect();
        writeln!(f, "  {}", legend.join("  "))
    }
}

fn sizes(f: &mut fmt::Formatter<'_>, sizes: &std::collections::BTreeMap<u64, u64>) -> fmt::Result {
    let all: u64 = sizes.values().sum();
    for (size, bytes) in sizes.iter().rev() {
        let share = *bytes as f64 * 100.0 / (all.max(1) as f64);
        writeln!(f, "  {:<12} {:>10} {share:>6.2} %", Size(*size), Size(*bytes))?;
    }
    Ok(())
}

/// The letter of the kind that most of a cell is; the first of several that are equal.
fn kind(cell: &Cell) -> char {
    let bytes = [cell.blocks, cell.groups, cell.pages, cell.released, cell.vacant, cell.absent];
    KINDS.iter().zip(bytes).rev().max_by_key(|(_, bytes)| *bytes).map_or('?', |((letter, _), _)| *letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_shows_what_most_of_it_is() {
        assert_eq!(kind(&Cell { pages: 10, released: 11, ..Cell::default() }), 'o');
        assert_eq!(kind(&Cell { blocks: 5, pages: 5, ..Cell::default() }), '#');
    }
}
