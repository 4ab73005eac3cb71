//! Runs: maximal uniform stretches of the address space.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed};
use crate::attributes::Attributes;
use crate::descriptor::{
    AF, CONTIGUOUS, DIRTY, Descriptor, NT, S2AP_W, SW_DIRTY, TYPE, VALID, is_leaf, is_table,
};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, floor};
use crate::marker::Marker;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::{gathered, group_of, indices};

/// What a run holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// Mapped, with outputs that follow on each other from `oa`. Blocks, groups and pages are told apart by
    /// [`Tables::leaves`]; a run goes across them.
    Mapped {
        /// Output address of the first byte.
        oa: u64,
        /// The same all along. What is being ignored reads as `false`.
        attributes: Attributes,
    },
    /// Not mapped, with this marker.
    Marked(Marker),
    /// Not mapped, nothing known.
    Unmapped,
}

/// A maximal uniform stretch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Run {
    /// Its addresses, clipped to the range asked for.
    pub range: Range<u64>,
    /// What they hold.
    pub content: Content,
}

impl Run {
    /// Its length in bytes.
    pub const fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// The runs of a range, in order and without gaps. What hardware changes meanwhile may or may not show.
///
/// Every entry is read once, table by table: where one run ends, the piece that begins the next has been read
/// and is kept.
#[derive(Debug)]
#[must_use = "an iterator does nothing by itself"]
pub struct Runs<'a, G: Granule, F: Frames, E: Executor> {
    tables: &'a Tables<G, F, E>,
    /// Where the next run begins.
    at: u64,
    end: u64,
    ignored: u64,
    cursor: Cursor<'a>,
    ahead: Option<Piece>,
}

/// The next entry to read, and what is the same for all entries of its table.
#[derive(Debug)]
struct Cursor<'a> {
    table: &'a [Entry],
    index: usize,
    /// The first entry that isn't to be read: of the table, or of the range.
    stop: usize,
    /// Address of the entry at `index`.
    ipa: u64,
    level: Level,
    /// Bytes per entry.
    size: u64,
    /// The bits of a leaf that say where it leads and how large it is.
    place: u64,
}

impl<'a> Cursor<'a> {
    /// The cursor for the table that holds the entry of `range.start`.
    fn new<G: Granule, F: Frames, E: Executor>(tables: &'a Tables<G, F, E>, range: Range<u64>) -> Self {
        let (table, level, index) = tables.walker().descend(range.start);
        let size = G::size(level);
        let ipa = floor(range.start, size);
        let stop = indices::<G>(table, level, ipa - index as u64 * size, &range).end;
        let nt = if level.is_last() { 0 } else { NT };
        let place = tables.config.format.leaf_mask::<G>(level) | TYPE | CONTIGUOUS | nt;
        Self { table, index, stop, ipa, level, size, place }
    }

    #[inline]
    fn advance(&mut self, entries: usize) {
        self.index += entries;
        self.ipa += entries as u64 * self.size;
    }

    /// Goes past the entries that follow on from `word`, the last one read: what a mapping or a marker of any
    /// length looks like in one table.
    #[inline]
    fn skip(&mut self, word: u64) {
        let step = match word & (VALID | CONTIGUOUS) {
            0 => 0,
            VALID => self.size,
            _ => return,
        };
        let mut expected = word;
        let follows = |entry: &&Entry| {
            expected = expected.wrapping_add(step);
            entry.load(Relaxed) == expected
        };
        let rest = self.table.get(self.index..self.stop).unwrap_or_default();
        self.advance(rest.iter().take_while(follows).count());
    }
}

/// One entry, or one whole group.
#[derive(Clone, Copy, Debug)]
struct Piece {
    ipa: u64,
    key: Key,
    /// The entry that was read.
    word: u64,
}

/// What makes neighbours alike: a leaf's bits without address and size, or an invalid word; and for a leaf the
/// output address minus the input address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Key {
    word: u64,
    delta: u64,
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// The runs of `range`.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`].
    pub fn runs(&self, range: Range<u64>) -> Result<Runs<'_, G, F, E>, Error> {
        self.check(&range)?;
        let cursor = Cursor::new(self, range.clone());
        Ok(Runs { tables: self, at: range.start, end: range.end, ignored: 0, cursor, ahead: None })
    }
}

impl<G: Granule, F: Frames, E: Executor> Runs<'_, G, F, E> {
    /// Lets a run go on where only young differs.
    pub const fn ignoring_young(mut self) -> Self {
        self.ignored |= AF;
        self
    }

    /// Lets a run go on where only dirty differs.
    pub const fn ignoring_dirty(mut self) -> Self {
        self.ignored |= DIRTY;
        self
    }

    /// Reads the next piece, and goes past it.
    #[inline(always)]
    fn piece(&mut self) -> Option<Piece> {
        while self.cursor.ipa < self.end {
            let Cursor { table, index, ipa, level, size, .. } = self.cursor;
            let word = table.get(index).map(|entry| entry.load(Relaxed));
            let Some(word) = word.filter(|&word| !is_table(word, level)) else {
                // Into the table below, or on to the one beside this.
                self.cursor = Cursor::new(self.tables, ipa..self.end);
                continue;
            };
            let key = if !is_leaf(word, level) {
                self.cursor.advance(1);
                Key { word, delta: 0 }
            } else if word & CONTIGUOUS == 0 {
                self.cursor.advance(1);
                self.key(word, ipa)
            } else {
                // A range may begin inside a group: what the group says is said from its first member on.
                let members = group_of::<G>(table, level, index, word);
                self.cursor.advance(members.end - index);
                let first = ipa - (index - members.start) as u64 * size;
                self.key(gathered(&table[members]), first)
            };
            return Some(Piece { ipa, key, word });
        }
        None
    }

    /// The key of a leaf at `ipa`, of the cursor's level.
    #[inline]
    fn key(&self, word: u64, ipa: u64) -> Key {
        let mut bits = word & !(self.cursor.place | self.ignored);
        // One dirty is as good as the other.
        if bits & DIRTY != 0 {
            bits = bits & !S2AP_W | SW_DIRTY;
        }
        let oa = self.tables.config.format.leaf::<G>(word, self.cursor.level);
        Key { word: bits, delta: oa.wrapping_sub(ipa) }
    }
}

impl<G: Granule, F: Frames, E: Executor> Iterator for Runs<'_, G, F, E> {
    type Item = Run;

    fn next(&mut self) -> Option<Run> {
        let Piece { key, mut word, .. } = match self.ahead.take() {
            Some(piece) => piece,
            None => self.piece()?,
        };
        let start = self.at;
        loop {
            self.cursor.skip(word);
            match self.piece() {
                Some(next) if next.key == key => word = next.word,
                ahead => {
                    self.at = ahead.map_or(self.end, |piece| piece.ipa);
                    self.ahead = ahead;
                    break;
                }
            }
        }
        let content = if key.word & VALID != 0 {
            let attributes = self.tables.config.encoding.decode(Descriptor::new(key.word));
            Content::Mapped { oa: start.wrapping_add(key.delta), attributes }
        } else {
            Marker::from_word(key.word).map_or(Content::Unmapped, Content::Marked)
        };
        Some(Run { range: start..self.at, content })
    }
}
