//! The batched get-and-clear: every leaf of a range goes, and what hardware knew about it comes back.
//!
//! # Nothing is lost
//!
//! A leaf is taken by one atomic exchange, so its AF and dirty bits are exactly those that hardware had
//! written when the leaf ceased to be. The exchange is never preceded by a plain store, and never by a
//! conversion that could be avoided: whole groups go member by member without being unfolded. Only what
//! straddles an end of the range is cut first, and a cut passes dirty and young on to both sides.
//!
//! # Nothing is kept
//!
//! A table that the range covers is emptied and unlinked. One that it touches is unlinked too once all its
//! entries say the same invalid thing; the entry above then says it for all of them. So the marker that is
//! left behind stands in as few and as large entries as the address space allows.

use core::ops::Range;

use crate::atomic::{Entry, Relaxed, Release, take};
use crate::descriptor::{CONTIGUOUS, Descriptor, HARVEST, VALID, is_table};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::{Granule, Level};
use crate::marker::Marker;
use crate::tables::{Tables, Work};
use crate::tlbi::Executor;
use crate::walk::{Leaf, indices};

/// How to clear.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Clear {
    /// What every address of the range says afterwards; nothing at all where absent.
    pub leave: Option<Marker>,
    /// Teardown: owe one invalidation of the whole VMID instead of the ranges.
    pub full: bool,
}

impl Clear {
    /// Leave a marker behind.
    pub const fn leaving(marker: Marker) -> Self {
        Self { leave: Some(marker), full: false }
    }

    /// Teardown.
    pub const FULL: Self = Self { leave: None, full: true };
}

/// What a batch found: sums, and ORs over all its leaves.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Harvest {
    /// Bytes that the leaves mapped.
    pub bytes: u64,
    /// Descriptors: a group of sixteen pages counts sixteen.
    pub entries: u64,
    /// Whether any leaf was dirty.
    pub dirty: bool,
    /// Whether any leaf was young.
    pub young: bool,
}

impl Harvest {
    /// Adds `entries` descriptors of `bytes` in total, whose bits are ORed in `word`.
    #[inline]
    pub(crate) fn add(&mut self, entries: u64, bytes: u64, word: u64) {
        let word = Descriptor::new(word);
        self.entries += entries;
        self.bytes += bytes;
        self.dirty |= word.dirty();
        self.young |= word.young();
    }

    /// Adds another harvest.
    pub fn merge(&mut self, other: Self) {
        self.entries += other.entries;
        self.bytes += other.bytes;
        self.dirty |= other.dirty;
        self.young |= other.young;
    }
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Takes every leaf of `range`, hands each to `visit`, and returns the sum. Leaves that straddle an end
    /// are cut there first. A group is one leaf to the visitor: its dirty bit, on whichever member it
    /// stood, may mean any of its pages.
    ///
    /// What must be invalidated is in [`pending`](Self::pending) until [`flush`](Self::flush).
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`]; [`Error::Frames`] where cutting needs frames and there are
    /// none. A range whose ends cut nothing needs none.
    pub fn get_and_clear(
        &mut self,
        range: Range<u64>,
        clear: Clear,
        visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        self.check(&range)?;
        let leave = Marker::word_of(clear.leave);
        self.cut_ends(&range, 0, |word, _| word != leave)?;
        Ok(self.sweep(&range, leave, clear.full, visit))
    }

    /// [`get_and_clear`](Self::get_and_clear) for those who only want the sum.
    ///
    /// # Errors
    /// As there.
    pub fn unmap(&mut self, range: Range<u64>) -> Result<Harvest, Error> {
        self.get_and_clear(range, Clear::default(), |_| {})
    }

    /// Takes every leaf there is. Needs no frames, unfolds nothing, and owes at most one invalidation.
    pub fn tear_down(&mut self, visit: impl FnMut(Leaf)) -> Harvest {
        self.sweep(&self.whole(), 0, true, visit)
    }

    fn sweep(&mut self, range: &Range<u64>, leave: u64, full: bool, visit: impl FnMut(Leaf)) -> Harvest {
        let work = self.work();
        let (root, start) = (work.root_table(), work.config.start);
        let mut sweep = Sweep { work, leave, full, unlinked: false, harvest: Harvest::default(), visit };
        sweep.table(root, start, 0, range, false);
        let Sweep { work, harvest, unlinked, .. } = sweep;
        if E::LIVE && full && (unlinked || harvest.entries != 0) {
            work.pending.add_whole();
        }
        self.finish();
        harvest
    }
}

struct Sweep<'a, G: Granule, F: Frames, E: Executor, V> {
    work: Work<'a, G, F, E>,
    leave: u64,
    full: bool,
    unlinked: bool,
    harvest: Harvest,
    visit: V,
}

impl<'a, G: Granule, F: Frames, E: Executor, V: FnMut(Leaf)> Sweep<'a, G, F, E, V> {
    /// Sweeps the part of a table that `range` covers. `dying` says that the table is unlinked right after:
    /// what it holds is read, and only where a walker might look is it also overwritten. Recursion is as deep
    /// as the tables.
    fn table(&mut self, table: &'a [Entry], level: Level, base: u64, range: &Range<u64>, dying: bool) {
        let part = indices::<G>(table, level, base, range);
        let size = G::size(level);
        let mut index = part.start;
        while index < part.end {
            // Leaves and invalid entries in one go, up to the next table.
            let stop = if level.is_last() {
                part.end
            } else {
                let is_table = |entry: &Entry| is_table(entry.load(Relaxed), level);
                table[index..part.end].iter().position(is_table).map_or(part.end, |next| index + next)
            };
            if index < stop {
                let base = base + index as u64 * size;
                if dying && !E::LIVE {
                    self.leaves::<false>(&table[index..stop], level, base, index);
                } else {
                    self.leaves::<true>(&table[index..stop], level, base, index);
                }
            }
            if stop < part.end {
                self.subtable(&table[stop], level, base + stop as u64 * size, range);
            }
            index = stop + 1;
        }
    }

    /// Sweeps the table below `entry`, and unlinks it if nothing is left to say in it.
    fn subtable(&mut self, entry: &Entry, level: Level, base: u64, range: &Range<u64>) {
        let end = base + G::size(level);
        let (child, frame) = self.work.child(entry.load(Relaxed));
        let covered = range.start <= base && end <= range.end;
        self.table(child, level.next(), base, range, covered);
        let swept = indices::<G>(child, level.next(), base, range);
        if covered || all_say(child, &swept, self.leave) {
            entry.store(self.leave, Release);
            self.unlinked = true;
            if !self.full {
                self.work.owe_tables(base..end);
            }
            self.work.bury(frame);
        }
    }

    /// Takes entries that are no tables. The first stands at `base`, and at `index` in its table.
    #[inline(always)]
    fn leaves<const STORE: bool>(&mut self, entries: &[Entry], level: Level, base: u64, index: usize) {
        let size = G::size(level);
        let members = G::group(level);
        let leave = self.leave;
        let format = self.work.config.format;
        let get = |entry: &Entry| match (STORE, E::LIVE) {
            (false, _) => entry.load(Relaxed),
            (true, true) => take::<true>(entry, leave),
            (true, false) => take::<false>(entry, leave),
        };
        // Only software makes entries valid or invalid, so what is going to be owed can be seen beforehand.
        let owed = if E::LIVE && !self.full { valid_part(entries) } else { 0..0 };
        let visit = &mut self.visit;
        let mut visit = |at: usize, members: usize, word: u64| {
            visit(Leaf {
                ipa: base + at as u64 * size,
                oa: format.leaf::<G>(word, level),
                bytes: members as u64 * size,
                level,
                descriptor: Descriptor::new(word),
            });
        };
        let (mut all, mut count) = (0, 0);
        let mut at = 0;
        // Whether an entry is valid, and whether it belongs to a group, can be seen before it is taken: hardware
        // writes neither. Its AF and dirty bits are known once it has been taken, and not before.
        while let Some(entry) = entries.get(at) {
            let word = entry.load(Relaxed);
            if word & VALID == 0 {
                if STORE && word != leave {
                    entry.store(leave, Release);
                }
                at += 1;
            } else if word & CONTIGUOUS == 0 {
                let before = at;
                while let Some(batch) = entries[at..].first_chunk::<BATCH>().filter(|batch| single(batch)) {
                    for (offset, entry) in batch.iter().enumerate() {
                        let word = get(entry);
                        all |= word;
                        visit(at + offset, 1, word);
                    }
                    at += BATCH;
                }
                if at == before {
                    let word = get(entry);
                    all |= word;
                    visit(at, 1, word);
                    at += 1;
                }
                count += at - before;
            } else {
                let within = (index + at) & (members - 1);
                let taken = if within == 0 && members >= BATCH && entries.len() - at >= members {
                    take_groups(&entries[at..], members, get, |offset, word| {
                        visit(at + offset, members, word)
                    })
                } else {
                    // Found by a later member, because the first is absent. To the group's end: cutting made
                    // sure that all of it lies in the range.
                    let rest = &entries[at..entries.len().min(at + members - within)];
                    let taken = take_rest(rest, get);
                    visit(at, rest.len(), word & !HARVEST | taken.any & HARVEST);
                    taken
                };
                at += taken.entries;
                count += taken.present;
                all |= taken.any;
            }
        }
        let count = count as u64;
        self.harvest.add(count, count * size, all);
        if !owed.is_empty() {
            self.work.owe_leaves(base + owed.start as u64 * size..base + owed.end as u64 * size, level);
        }
    }
}

/// The entries from the first valid one to the last.
fn valid_part(entries: &[Entry]) -> Range<usize> {
    let valid = |entry: &Entry| entry.load(Relaxed) & VALID != 0;
    match entries.iter().position(valid) {
        Some(first) => first..entries.iter().rposition(valid).map_or(first, |last| last + 1),
        None => 0..0,
    }
}

/// Entries that are handled without a decision about each: a divisor of every group.
const BATCH: usize = 8;

/// Whether all of a batch are leaves by themselves.
#[inline(always)]
fn single(batch: &[Entry; BATCH]) -> bool {
    let words = batch.each_ref().map(|entry| entry.load(Relaxed));
    words.iter().fold(0, |found, word| found | word ^ VALID) & (VALID | CONTIGUOUS) == 0
}

/// What was taken of groups.
#[derive(Default)]
struct Groups {
    /// Entries, absent ones among them.
    entries: usize,
    /// Entries that were valid, and their words ORed.
    present: usize,
    any: u64,
}

/// Takes whole groups of `members`, as many as follow on each other. `visit` sees where one begins, and its
/// word.
#[inline(never)]
fn take_groups(
    entries: &[Entry],
    members: usize,
    get: impl Fn(&Entry) -> u64,
    mut visit: impl FnMut(usize, u64),
) -> Groups {
    let mut taken = Groups::default();
    let mut absent = 0;
    let (batches, _) = entries.as_chunks::<BATCH>();
    for group in batches.chunks_exact(members / BATCH) {
        let first = group[0][0].load(Relaxed);
        if first & (VALID | CONTIGUOUS) != VALID | CONTIGUOUS {
            break;
        }
        let mut any = 0;
        for batch in group {
            let words = batch.each_ref().map(&get);
            if words.iter().fold(VALID, |every, word| every & word) != 0 {
                any |= words.iter().fold(0, |any, word| any | word);
            } else {
                absent += BATCH - gather_present(words, &mut any);
            }
        }
        visit(taken.entries, first & !HARVEST | any & HARVEST);
        taken.any |= any;
        taken.entries += members;
    }
    taken.present = taken.entries - absent;
    taken
}

/// Takes what is left of one group.
#[cold]
fn take_rest(entries: &[Entry], get: impl Fn(&Entry) -> u64) -> Groups {
    let mut any = 0;
    let present = gather_present(entries.iter().map(get), &mut any);
    Groups { entries: entries.len(), present, any }
}

/// ORs what the valid words say, and counts them. What stands in an absent member says nothing.
#[cold]
fn gather_present(words: impl IntoIterator<Item = u64>, any: &mut u64) -> usize {
    let valid = words.into_iter().filter(|word| word & VALID != 0);
    valid.inspect(|word| *any |= word).count()
}

/// Whether every entry of a table is the same invalid word. The neighbours of what was just swept are
/// asked first: where anything is left, one of them usually says so.
fn all_say(table: &[Entry], swept: &Range<usize>, word: u64) -> bool {
    let says = |entry: &Entry| entry.load(Relaxed) == word;
    table[swept.end..].iter().all(says)
        && table[..swept.start].iter().rev().all(says)
        && table[swept.clone()].iter().all(says)
}
