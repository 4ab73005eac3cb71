//! What a storm gives to the device and takes back, and what may have become of it meanwhile.

#![expect(unsafe_code, reason = "hands pages to the device that the storm owns by address")]

use core::ops::Range;
use core::slice;

use arrayvec::ArrayVec;
use board::ram::{PAGE_SIZE, Span};

use super::Storm;
use crate::bare::balloon::{self, DriverError, PFNS, RANGES};
use crate::storm::book::{Book, Content, Entry, filled};
use crate::storm::dice::Dice;
use crate::storm::plan::{Act, Pick};

/// Lists of page numbers that are under way at once.
const LISTS: usize = 4;
/// Pages of one batch.
const BATCH: usize = LISTS * PFNS;
/// Pages that a step moves towards the device's target.
const STRIDE: u64 = 2048;
/// Bytes of the largest piece of a report or hint: what Linux reports at once is as large.
const PIECE: u64 = 4 << 20;

impl Storm<'_> {
    pub(super) fn must_tell(&self) -> bool {
        self.balloon.features() & balloon::MUST_TELL_HOST != 0
    }

    /// Puts what is owned of `ranges` into the balloon, by descending addresses where `down`.
    pub(super) fn inflate(&mut self, ranges: &[Range<u64>], down: bool) -> Result<(), DriverError> {
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let batch = self.gather(&mut at, range.end, Act::Inflate);
                let mut order: ArrayVec<u64, BATCH> = batch.clone();
                if down {
                    order.reverse();
                }
                send(&self.book, &order, |lists| self.balloon.inflate(lists))?;
                self.counts.inflated += batch.len() as u64;
                self.put(&batch, &order);
            }
        }
        self.tell_actual()
    }

    /// Notes what has just been put into the balloon, in the order in which it was told.
    fn put(&mut self, batch: &[u64], order: &[u64]) {
        for &index in batch {
            if let Entry::Owned(content) = self.book.get(index) {
                self.book.set(index, Entry::Held(content));
            }
        }
        if self.must_tell() {
            return;
        }
        // The device is done with these pages: they hold what they will hold.
        for list in order.chunks(PFNS) {
            for &index in list {
                let Entry::Held(content) = self.book.get(index) else { continue };
                let Ok(now) = self.or_cleared(index, content) else { continue };
                self.book.set(index, Entry::Held(now));
                if now != Content::Blank && self.is_whole(index, list) {
                    self.bad(index, format_args!("kind=kept"));
                }
            }
        }
    }

    /// Whether all of the unit in which a page lies is in the list, which counts up or down.
    fn is_whole(&self, index: u64, list: &[u64]) -> bool {
        let Some(unit) = self.options.unit else { return false };
        let pages = (unit / PAGE_SIZE) as usize;
        let start = self.book.address(index) & !(unit - 1);
        let Some(at) = list.iter().position(|&other| self.book.address(other) == start) else { return false };
        let up = list.get(at..at + pages).is_some_and(|part| part.windows(2).all(|two| two[1] == two[0] + 1));
        let down = (at + 1).checked_sub(pages).and_then(|first| list.get(first..=at));
        up || down.is_some_and(|part| part.windows(2).all(|two| two[0] == two[1] + 1))
    }

    /// Takes what the balloon has of `ranges` out of it; where `early`, and the contract allows it, pages are
    /// written before the device is told.
    pub(super) fn deflate(&mut self, ranges: &[Range<u64>], early: bool) -> Result<(), DriverError> {
        let early = early && !self.must_tell();
        for range in ranges {
            let mut at = range.start;
            while at < range.end {
                let batch = self.gather(&mut at, range.end, Act::Deflate);
                if early {
                    let generation = self.next_generation();
                    batch.iter().for_each(|&index| self.write(index, generation));
                }
                send(&self.book, &batch, |lists| self.balloon.deflate(lists))?;
                self.counts.deflated += batch.len() as u64;
                for &index in &batch {
                    if early {
                        self.check(index..index + 1);
                    } else {
                        self.learn(index);
                    }
                }
            }
        }
        self.tell_actual()
    }

    /// Moves towards what the device wants.
    pub(super) fn follow(&mut self, dice: &mut Dice) -> Result<(), DriverError> {
        let (held, target) = (self.book.held(), u64::from(self.balloon.target()));
        let (act, mut left) = if held < target {
            (Act::Inflate, (target - held).min(STRIDE))
        } else {
            (Act::Deflate, (held - target).min(STRIDE))
        };
        let mut from = dice.below(self.book.len());
        while left > 0 {
            let Some(start) = self.book.find(from, |entry| act.suits(entry)) else { break };
            let more = self.book.clip(start..start + left);
            let end = more.clone().find(|&index| !act.suits(self.book.get(index))).unwrap_or(more.end);
            let range = start..end;
            left -= end - start;
            from = end;
            match act {
                Act::Inflate => self.inflate(slice::from_ref(&range), false)?,
                _ => self.deflate(slice::from_ref(&range), false)?,
            }
        }
        Ok(())
    }

    fn tell_actual(&mut self) -> Result<(), DriverError> {
        self.balloon.set_actual(self.book.held() as u32)
    }

    /// Reports what is owned of `pick`, and looks what has become of it.
    pub(super) fn report(&mut self, pick: &Pick) -> Result<(), DriverError> {
        let pieces = self.pieces(pick);
        if self.balloon.features() & balloon::PAGE_REPORTING == 0 || pieces.is_empty() {
            return Ok(());
        }
        let poison = self.balloon.features() & balloon::PAGE_POISON != 0;
        let word = u64::from(self.poison) << 32 | u64::from(self.poison);
        if poison {
            for index in pieces.iter().flat_map(Clone::clone) {
                self.page(index).fill(word);
                self.book.set(index, Entry::Owned(Content::Blank));
            }
        }
        let spans: ArrayVec<Span, RANGES> = pieces.iter().map(|piece| self.span(piece)).collect();
        // SAFETY: mapped pages that this storm owns, on its only CPU, and that are looked at anew below.
        let Some(mut used) = (unsafe { self.balloon.report(&spans) })?.map(u64::from) else { return Ok(()) };
        for index in pieces.iter().flat_map(Clone::clone) {
            self.counts.reported += 1;
            let is_used = used >= PAGE_SIZE;
            used = used.saturating_sub(PAGE_SIZE);
            if poison {
                if let Err(damage) = filled(self.page(index), word) {
                    self.bad(index, format_args!("{damage}"));
                }
                if word != 0 {
                    // Whoever takes a free page writes it.
                    let generation = self.next_generation();
                    self.write(index, generation);
                }
                continue;
            }
            self.learn(index);
            if is_used && self.book.get(index) != Entry::Owned(Content::Blank) {
                self.bad(index, format_args!("kind=used-not-cleared"));
            }
        }
        Ok(())
    }

    /// Hints what is owned of `pick`, then uses it again.
    pub(super) fn hint(&mut self, id: u32, pick: &Pick) -> Result<(), DriverError> {
        let pieces = self.pieces(pick);
        let spans: ArrayVec<Span, RANGES> = pieces.iter().map(|piece| self.span(piece)).collect();
        // SAFETY: as in `report`.
        unsafe { self.balloon.hint(id, &spans) }?;
        for piece in pieces {
            self.counts.hinted += piece.end - piece.start;
            for index in piece.clone() {
                self.learn(index);
            }
            // Until the device is done with its round it may clear what was not written since.
            self.stamp(piece);
        }
        Ok(())
    }

    /// The next pages up to `end` that suit `act`, as many as one batch takes.
    fn gather(&self, at: &mut u64, end: u64, act: Act) -> ArrayVec<u64, BATCH> {
        let mut batch = ArrayVec::new();
        while *at < end && !batch.is_full() {
            if act.suits(self.book.get(*at)) {
                batch.push(*at);
            }
            *at += 1;
        }
        batch
    }

    /// What is owned of `pick`, in pieces without gaps, as many as one report takes; each page once.
    fn pieces(&self, pick: &Pick) -> ArrayVec<Range<u64>, RANGES> {
        let mut pieces = ArrayVec::<Range<u64>, RANGES>::new();
        for index in pick.iter().flat_map(Clone::clone) {
            if !matches!(self.book.get(index), Entry::Owned(_))
                || pieces.iter().any(|piece| piece.contains(&index))
            {
                continue;
            }
            let grows =
                |last: &&mut Range<u64>| last.end == index && (last.end - last.start) * PAGE_SIZE < PIECE;
            if let Some(last) = pieces.last_mut().filter(grows) {
                last.end += 1;
            } else if pieces.try_push(index..index + 1).is_err() {
                break;
            }
        }
        pieces
    }

    fn span(&self, piece: &Range<u64>) -> Span {
        Span { start: self.book.address(piece.start), end: self.book.address(piece.end) }
    }
}

/// Sends pages as lists of page numbers.
fn send(
    book: &Book<'_>,
    pages: &[u64],
    send: impl FnOnce(&[&[u8]]) -> Result<(), DriverError>,
) -> Result<(), DriverError> {
    if pages.is_empty() {
        return Ok(());
    }
    let mut bytes = ArrayVec::<u8, { BATCH * 4 }>::new();
    for &index in pages {
        // 32 bits hold the number of any page below 16 TiB; there is no more.
        bytes.extend(((book.address(index) / PAGE_SIZE) as u32).to_le_bytes());
    }
    let lists: ArrayVec<&[u8], LISTS> = bytes.chunks(PFNS * 4).collect();
    send(&lists)
}
