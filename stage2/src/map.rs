//! Mapping: the largest blocks and groups that both addresses allow.
//!
//! A leaf of some size fits where input and output address agree modulo that size. That agreement is the
//! same all along one request, so the best level is found once; the rest is filling tables with descriptors
//! that differ by a constant.
//!
//! A contiguous group is built only where it is aligned in IPA *and* OA, lies wholly inside the request and
//! the input address space, and every member is new. So its members are alike from the start.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed, Release};
use crate::attributes::Attributes;
use crate::config::Config;
use crate::descriptor::{CONTIGUOUS, VALID, is_leaf, is_table, leaf_type};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level, aligned, floor};
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Walker, indices};

/// What to do about leaves that are there already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Existing {
    /// Refuse the whole request.
    Refuse,
    /// Keep them as they are and fill the gaps between them.
    Keep,
}

/// A request, reduced to what the tables need to know.
struct Plan {
    range: Range<u64>,
    /// OA minus IPA.
    delta: u64,
    /// Attribute bits, valid.
    bits: u64,
    /// The shallowest level whose leaves fit.
    best: Level,
}

impl Plan {
    fn new<G: Granule>(config: &Config<G>, range: &Range<u64>, oa: u64, bits: u64) -> Self {
        let delta = oa.wrapping_sub(range.start);
        let mut best = config.largest_leaf;
        while !aligned(delta, G::size(best)) && !best.is_last() {
            best = best.next();
        }
        Self { range: range.clone(), delta, bits, best }
    }

    #[inline]
    fn oa(&self, ipa: u64) -> u64 {
        ipa.wrapping_add(self.delta)
    }

    /// Whether the entry of `level` at `ipa` becomes one leaf, if nothing is in the way.
    #[inline]
    fn fits<G: Granule>(&self, level: Level, ipa: u64) -> bool {
        level >= self.best && self.range.start <= ipa && ipa + G::size(level) <= self.range.end
    }
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Maps `range` to the output addresses from `oa` on. Markers in it are overwritten; what happens to
    /// leaves in it says `existing`.
    ///
    /// New leaves need no invalidation, because an invalid entry is never cached. But where an older
    /// translation of the range is still owed one, that is executed first: two translations of one address
    /// must never be cached at once.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`], [`Error::Output`], [`Error::Attributes`], [`Error::Mapped`]
    /// with [`Existing::Refuse`], [`Error::Frames`].
    pub fn map(
        &mut self,
        range: Range<u64>,
        oa: u64,
        attributes: &Attributes,
        existing: Existing,
    ) -> Result<(), Error> {
        self.check(&range)?;
        if !aligned(oa, G::SIZE) {
            return Err(Error::Misaligned { address: oa, granule: G::SIZE });
        }
        let oa_bits = self.config.oa_bits;
        if oa.checked_add(range.end - range.start).is_none_or(|end| end > 1 << oa_bits) {
            return Err(Error::Output { oa, oa_bits });
        }
        let bits = self.config.encoding.encode(attributes)?;
        let plan = Plan::new(&self.config, &range, oa, bits);

        let walker = self.walker();
        let mut survey = Survey { walker: &walker, plan: &plan, existing, tables: 0 };
        survey.table(walker.root_table(), self.config.start, 0)?;
        let needed = survey.tables;
        self.reserve(needed)?;
        if E::LIVE && self.pending.overlaps(&range) {
            self.flush();
        }
        let mut work = self.work();
        work.fill(&plan, work.root_table(), work.config.start, 0, false);
        work.publish();
        self.finish();
        Ok(())
    }
}

/// The dry run: finds what is in the way and counts the tables to come. It takes the same decisions as
/// [`Work::fill`], on the same words.
struct Survey<'a, G: Granule, F: Frames> {
    walker: &'a Walker<'a, G, F>,
    plan: &'a Plan,
    existing: Existing,
    tables: u64,
}

impl<G: Granule, F: Frames> Survey<'_, G, F> {
    /// Recursion is as deep as the tables.
    fn table(&mut self, table: &[Entry], level: Level, base: u64) -> Result<(), Error> {
        let size = G::size(level);
        for index in indices::<G>(table, level, base, &self.plan.range) {
            let ipa = base + index as u64 * size;
            let word = table[index].load(Relaxed);
            if is_table(word, level) {
                let child = self.walker.frames.table(self.walker.config.format.table(word), G::ENTRIES);
                if !(self.plan.fits::<G>(level, ipa)
                    && barren(self.walker.config, self.walker.frames, child, level.next()))
                {
                    self.table(child, level.next(), ipa)?;
                }
            } else if is_leaf(word, level) {
                if self.existing == Existing::Refuse {
                    return Err(Error::Mapped { ipa: ipa.max(self.plan.range.start) });
                }
            } else if !self.plan.fits::<G>(level, ipa) {
                self.tables += 1 + self.below(level.next(), ipa);
            }
        }
        Ok(())
    }

    /// Tables below a new one of `level` at `base`.
    fn below(&self, level: Level, base: u64) -> u64 {
        if level >= self.plan.best && level.is_last() {
            return 0;
        }
        let (size, range) = (G::size(level), &self.plan.range);
        let end = (base + size * G::ENTRIES as u64).min(range.end);
        let start = base.max(range.start);
        if level < self.plan.best {
            // No entry fits: each that is touched gets a table.
            let (first, last) = (floor(start, size), floor(end - 1, size));
            if level.next() >= self.plan.best && level.next().is_last() {
                return (last - first) / size + 1;
            }
            return (first..=last).step_by(size as usize).map(|ipa| 1 + self.below(level.next(), ipa)).sum();
        }
        // Whole entries fit; only the ends may need tables.
        let mut tables = 0;
        let (head, tail) = (floor(start, size), floor(end - 1, size));
        if !self.plan.fits::<G>(level, head) {
            tables += 1 + self.below(level.next(), head);
        }
        if tail != head && !self.plan.fits::<G>(level, tail) {
            tables += 1 + self.below(level.next(), tail);
        }
        tables
    }
}

/// Whether there is no valid leaf below a table. Recursion is as deep as the tables.
fn barren<G: Granule, F: Frames>(config: &Config<G>, frames: &F, table: &[Entry], level: Level) -> bool {
    table.iter().all(|entry| {
        let word = entry.load(Relaxed);
        if is_table(word, level) {
            barren(config, frames, frames.table(config.format.table(word), G::ENTRIES), level.next())
        } else {
            word & VALID == 0
        }
    })
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// Fills the part of a table that the plan covers. `new` says that no walker knows the table and nothing
    /// valid is in it. Recursion is as deep as the tables.
    fn fill(&mut self, plan: &Plan, table: &'a [Entry], level: Level, base: u64, new: bool) {
        let part = indices::<G>(table, level, base, &plan.range);
        let size = G::size(level);
        let mut index = part.start;
        while index < part.end {
            let ipa = base + index as u64 * size;
            let fits = plan.fits::<G>(level, ipa);
            if fits {
                // As many invalid entries as stand together become leaves at once.
                let most = ((plan.range.end - ipa) >> G::shift(level)) as usize;
                let whole = part.end.min(index.saturating_add(most));
                let free = if new { whole } else { self.free(table, level, base, index..whole) };
                if free > index {
                    self.leaves(plan, &table[index..free], level, ipa, index);
                    index = free;
                    continue;
                }
            }
            let word = table[index].load(Relaxed);
            if is_table(word, level) {
                let (child, _) = self.child(word);
                self.fill(plan, child, level.next(), ipa, false);
            } else if !is_leaf(word, level) {
                let (child, frame) = self.new_table();
                if word != 0 {
                    child.iter().for_each(|entry| entry.store(word, Relaxed));
                }
                self.fill(plan, child, level.next(), ipa, true);
                table[index].store(self.table_word(frame), Release);
            }
            index += 1;
        }
    }

    /// The end of the stretch of entries from `part.start` on that can take a leaf. Tables without a
    /// leaf in them are unlinked on the way.
    fn free(&mut self, table: &'a [Entry], level: Level, base: u64, part: Range<usize>) -> usize {
        let mut broken = false;
        let mut end = part.start;
        for index in part {
            let word = table[index].load(Relaxed);
            if is_table(word, level) {
                let (child, frame) = self.child(word);
                if !barren(self.config, self.frames, child, level.next()) {
                    break;
                }
                let ipa = base + index as u64 * G::size(level);
                table[index].store(0, Release);
                self.owe_tables(ipa..ipa + G::size(level));
                self.bury_all(child, frame, level.next());
                broken = true;
            } else if word & VALID != 0 {
                break;
            }
            end = index + 1;
        }
        // A cached pointer to the table and the new leaf must not exist side by side.
        if broken {
            self.invalidate_now();
        }
        end
    }

    /// Buries a table without leaves, and the tables below it.
    fn bury_all(&mut self, table: &'a [Entry], frame: u64, level: Level) {
        for entry in table {
            let word = entry.load(Relaxed);
            if is_table(word, level) {
                entry.store(0, Release);
                let (child, frame) = self.child(word);
                self.bury_all(child, frame, level.next());
            }
        }
        self.bury(frame);
    }

    /// Fills invalid entries with leaves. The first stands for `ipa`, and at `index` in its table.
    fn leaves(&mut self, plan: &Plan, entries: &[Entry], level: Level, ipa: u64, index: usize) {
        let size = G::size(level);
        let format = self.config.format;
        let bits = plan.bits | leaf_type(level);
        let mut ipa = ipa;
        // Up to the first address bit that stands elsewhere in the descriptor, addition is enough.
        let mut rest = entries;
        let mut index = index;
        while !rest.is_empty() {
            let oa = plan.oa(ipa);
            let span = format.contiguous_span();
            let most = ((span - (oa & (span - 1))) >> G::shift(level)) as usize;
            let (now, later) = rest.split_at(rest.len().min(most.max(1)));
            self.stretch(now, bits | format.encode(oa), oa, level, index);
            ipa += now.len() as u64 * size;
            index += now.len();
            rest = later;
        }
    }

    /// Fills entries whose descriptors differ by a constant: single ones up to the first group, whole groups,
    /// and single ones after the last.
    #[inline]
    fn stretch(&self, entries: &[Entry], word: u64, oa: u64, level: Level, index: usize) {
        let size = G::size(level);
        let members = self.config.group(level);
        let (mut head, mut body) = (entries.len(), 0);
        // IPA and OA agree modulo the group exactly if OA and the index do.
        let agree = (oa >> G::shift(level)) as usize & (members - 1) == index & (members - 1);
        if members > 1 && agree {
            let first = index.next_multiple_of(members) - index;
            if first < entries.len() {
                head = first;
                body = (entries.len() - first) & !(members - 1);
            }
        }
        let word = put(&entries[..head], word, size);
        let word = put(&entries[head..head + body], word | CONTIGUOUS, size) & !CONTIGUOUS;
        put(&entries[head + body..], word, size);
    }
}

/// Writes `word`, `word` + `step` and so on; returns the one after the last.
#[inline(always)]
fn put(entries: &[Entry], mut word: u64, step: u64) -> u64 {
    let mut put = |entry: &Entry| {
        entry.store(word, Release);
        word += step;
    };
    // Eight at a time: the loop costs more than the stores.
    let (eights, rest) = entries.as_chunks::<8>();
    for eight in eights {
        eight.iter().for_each(&mut put);
    }
    rest.iter().for_each(&mut put);
    word
}
