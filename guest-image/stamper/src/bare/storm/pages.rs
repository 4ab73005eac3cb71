//! The pages of a storm: written, read, and held against the book.

#![expect(unsafe_code, reason = "writes into memory that is owned by address")]

use core::ops::Range;

use super::Storm;
use crate::stamp::{Damage, Page, Stamp};
use crate::storm::book::{Content, Entry, LAST_GENERATION};
use crate::storm::plan::Pick;

/// In so many steps every page is read once, besides those that a step reads.
const SWEEP: u64 = 64;

impl Storm<'_> {
    /// Checks what is owned of `pick`, and, where it may be looked at, what the balloon has.
    pub(super) fn read(&mut self, pick: &Pick) {
        for range in pick {
            self.check(range.clone());
        }
    }

    /// Checks the next part of all memory.
    pub(super) fn sweep(&mut self) {
        let (start, len) = (self.sweep, self.book.len());
        let end = (start + len.div_ceil(SWEEP)).min(len);
        self.check(start..end);
        self.sweep = if end == len { 0 } else { end };
    }

    /// Writes a new generation into what is owned of a range.
    pub(super) fn stamp(&mut self, range: Range<u64>) {
        let generation = self.next_generation();
        for index in range {
            if matches!(self.book.get(index), Entry::Owned(_)) {
                self.write(index, generation);
            }
        }
    }

    pub(super) fn next_generation(&mut self) -> u32 {
        if self.generation == LAST_GENERATION {
            self.fail(format_args!("{LAST_GENERATION} batches of stamps are all that the book can count"));
        }
        self.generation += 1;
        self.generation
    }

    pub(super) fn write(&mut self, index: u64, generation: u32) {
        let stamp =
            Stamp { address: self.book.address(index), generation: generation.into(), pattern: self.pattern };
        stamp.write(self.page(index));
        self.book.set(index, Entry::Owned(Content::Stamped(generation)));
        self.counts.stamped += 1;
    }

    /// Checks every page of a range whose content is known: what is owned, and what the balloon has where the
    /// device is done with it.
    pub(super) fn check(&mut self, range: Range<u64>) {
        let held_too = !self.must_tell();
        for index in range {
            let content = match self.book.get(index) {
                Entry::Owned(content) => content,
                // Reading brings memory back that was given away: a few are enough.
                Entry::Held(content) if held_too && index % 61 == self.number % 61 => content,
                _ => continue,
            };
            self.counts.checked += 1;
            if let Err(damage) = content.check(self.book.address(index), self.pattern, self.page(index)) {
                self.bad(index, format_args!("{damage}"));
            }
        }
    }

    /// Owns a page that may have been cleared, and notes what it holds.
    pub(super) fn learn(&mut self, index: u64) {
        let (Entry::Owned(content) | Entry::Held(content)) = self.book.get(index) else { return };
        let now = self.or_cleared(index, content).unwrap_or(content);
        self.book.set(index, Entry::Owned(now));
    }

    /// What a page holds that may have been cleared; reports it where that is neither.
    pub(super) fn or_cleared(&mut self, index: u64, content: Content) -> Result<Content, Damage> {
        self.counts.checked += 1;
        let now = content.or_cleared(self.book.address(index), self.pattern, self.page(index));
        match now {
            Ok(Content::Blank) => self.counts.cleared += 1,
            Ok(_) => self.counts.kept += 1,
            Err(damage) => self.bad(index, format_args!("{damage}")),
        }
        now
    }

    pub(super) fn page(&mut self, index: u64) -> &mut Page {
        // SAFETY: a whole mapped page of the memory that the storm was given, on the only CPU that uses it.
        unsafe { &mut *(self.book.address(index) as *mut Page) }
    }
}
