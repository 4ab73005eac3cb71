//! What a step does, and to which pages.

use core::fmt;
use core::ops::Range;

use arrayvec::ArrayVec;
use board::ram::PAGE_SIZE;

use super::book::{Book, Entry};
use super::dice::Dice;

/// Pages of a contiguous group of 4 KiB granules.
pub const GROUP: u64 = 16;
/// Pages of a block of 2 MiB.
pub const BLOCK: u64 = 512;
/// The most pieces that one step picks.
const PIECES: usize = 32;

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Puts pages into the balloon.
    Inflate,
    /// Takes pages out of it.
    Deflate,
    /// Follows the device's target, by inflating or deflating.
    Follow,
    /// Reports free pages.
    Report,
    /// Hints free pages, where the device has asked for it.
    Hint,
    /// Writes a new generation.
    Dirty,
    /// Checks pages.
    Read,
    /// Resets the device and drives it again, with other features.
    Rebind,
}

impl Act {
    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Inflate => "inflate",
            Self::Deflate => "deflate",
            Self::Follow => "follow",
            Self::Report => "report",
            Self::Hint => "hint",
            Self::Dirty => "dirty",
            Self::Read => "read",
            Self::Rebind => "rebind",
        }
    }

    /// How often each of them comes.
    const WEIGHTS: [(u64, Self); 8] = [
        (30, Self::Inflate),
        (24, Self::Deflate),
        (8, Self::Follow),
        (14, Self::Report),
        (6, Self::Hint),
        (26, Self::Dirty),
        (12, Self::Read),
        (2, Self::Rebind),
    ];

    /// Which pages it can be done to.
    pub const fn suits(self, entry: Entry) -> bool {
        match self {
            Self::Deflate => matches!(entry, Entry::Held(_)),
            Self::Rebind => false,
            _ => matches!(entry, Entry::Owned(_)),
        }
    }
}

/// How the pages of a step lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Single pages.
    Pages,
    /// Groups of 16, without one page each.
    Fifteen,
    /// Whole groups.
    Groups,
    /// Whole blocks.
    Blocks,
    /// All that there is.
    Everything,
}

impl Shape {
    /// Its name.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pages => "pages",
            Self::Fifteen => "fifteen",
            Self::Groups => "groups",
            Self::Blocks => "blocks",
            Self::Everything => "everything",
        }
    }

    const WEIGHTS: [(u64, Self); 5] = [
        (28, Self::Pages),
        (24, Self::Fifteen),
        (24, Self::Groups),
        (22, Self::Blocks),
        (2, Self::Everything),
    ];
}

/// One step: what it does, and how the pages lie that it does it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it does.
    pub act: Act,
    /// How its pages lie.
    pub shape: Shape,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "act={} shape={}", self.act.word(), self.shape.word())
    }
}

/// Ranges of page indices.
pub type Pick = ArrayVec<Range<u64>, PIECES>;

impl Step {
    /// What comes next.
    pub fn roll(dice: &mut Dice) -> Self {
        let act = dice.weighted(&Act::WEIGHTS).unwrap_or(Act::Read);
        let shape = dice.weighted(&Shape::WEIGHTS).unwrap_or(Shape::Pages);
        Self { act, shape }
    }

    /// The pages. Some of them may not suit what is to be done: whoever does it leaves those out.
    pub fn pick(&self, dice: &mut Dice, book: &Book<'_>) -> Pick {
        let mut pick = Pick::new();
        let (most, size) = match self.shape {
            Shape::Pages => (PIECES as u64, 1),
            Shape::Fifteen => (PIECES as u64 / 2, GROUP),
            Shape::Groups => (PIECES as u64, GROUP),
            Shape::Blocks => (8, BLOCK),
            Shape::Everything => {
                pick.push(0..book.len());
                return pick;
            }
        };
        for _ in 0..=dice.below(most) {
            let from = dice.below(book.len());
            let hole = dice.below(size);
            // Where something is to be done: most of memory may be in the balloon, or none of it.
            let Some(index) = book.find(from, |entry| self.act.suits(entry)) else { break };
            let bytes = size * PAGE_SIZE;
            let start = book.address(index) / bytes * bytes;
            // The first of them may begin before the book does.
            let range = book.clip(book.first_at(start)..book.first_at(start + bytes));
            if self.shape == Shape::Fifteen {
                let hole = book.first_at(start + hole * PAGE_SIZE).clamp(range.start, range.end);
                let _ = pick.try_push(range.start..hole);
                let _ = pick.try_push((hole + 1).min(range.end)..range.end);
            } else {
                let _ = pick.try_push(range);
            }
        }
        pick
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storm::book::{Content, Packed};
    use board::ram::{Ram, Span};

    fn ram() -> Ram {
        let mut ram = Ram::default();
        // Not whole blocks at either end.
        ram.add(Span::new(0x4007_3000, 0x80_0000)).unwrap();
        ram
    }

    #[test]
    fn every_act_and_every_shape_comes() {
        let steps: Vec<_> = (0..2000).map(|step| Step::roll(&mut Dice::of_step(1, step))).collect();
        for (_, act) in Act::WEIGHTS {
            assert!(steps.iter().any(|step| step.act == act), "{act:?}");
        }
        for (_, shape) in Shape::WEIGHTS {
            assert!(steps.iter().any(|step| step.shape == shape), "{shape:?}");
        }
    }

    #[test]
    fn what_is_picked_lies_as_the_shape_says() {
        let ram = ram();
        let mut pages = vec![Packed::default(); Book::len_for(&ram) as usize];
        let book = Book::new(&ram, &mut pages);
        for (shape, size) in [(Shape::Pages, 1), (Shape::Groups, GROUP), (Shape::Blocks, BLOCK)] {
            for number in 0..50 {
                let step = Step { act: Act::Inflate, shape };
                for range in step.pick(&mut Dice::of_step(2, number), &book) {
                    let (start, end) = (book.address(range.start), book.address(range.end));
                    let whole = size * PAGE_SIZE;
                    assert!(range.start == 0 || start % whole == 0, "{shape:?} {range:?}");
                    assert!(range.end == book.len() || end % whole == 0, "{shape:?} {range:?}");
                    assert!(range.end - range.start <= size && !range.is_empty());
                }
            }
        }
        let all = Step { act: Act::Inflate, shape: Shape::Everything };
        assert_eq!(all.pick(&mut Dice::of_step(2, 0), &book).as_slice(), [0..book.len()]);
    }

    #[test]
    fn fifteen_of_sixteen_leave_one_out() {
        let ram = ram();
        let mut pages = vec![Packed::default(); Book::len_for(&ram) as usize];
        let book = Book::new(&ram, &mut pages);
        let step = Step { act: Act::Inflate, shape: Shape::Fifteen };
        for number in 0..50 {
            let pick = step.pick(&mut Dice::of_step(3, number), &book);
            for pair in pick.chunks_exact(2) {
                let pages = pair[0].end - pair[0].start + pair[1].end - pair[1].start;
                assert!(pages == 15 || pair[0].start == 0 || pair[1].end == book.len(), "{pair:?}");
                assert_eq!(pair[0].end + 1, pair[1].start.max(pair[0].end + 1));
            }
        }
    }

    #[test]
    fn a_deflate_finds_the_only_page_of_the_balloon() {
        let ram = ram();
        let mut pages = vec![Packed::default(); Book::len_for(&ram) as usize];
        let mut book = Book::new(&ram, &mut pages);
        let step = Step { act: Act::Deflate, shape: Shape::Pages };
        assert!(step.pick(&mut Dice::of_step(5, 0), &book).is_empty());
        book.set(1234, Entry::Held(Content::Blank));
        let pick = step.pick(&mut Dice::of_step(5, 0), &book);
        assert!(!pick.is_empty() && pick.iter().all(|range| *range == (1234..1235)));
    }

    #[test]
    fn a_step_reads_as_fields() {
        let step = Step { act: Act::Report, shape: Shape::Blocks };
        assert_eq!(step.to_string(), "act=report shape=blocks");
    }
}
