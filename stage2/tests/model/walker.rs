//! The walker: from an address to its descriptor, over raw table memory.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::atomic::Ordering::Acquire;

use crate::arena::Arena;
use crate::flat::{Flat, Set};
use crate::regime::Regime;
use crate::violation::Violation;
use crate::word::{CONTIGUOUS, Fields, LeafWord, MARKS, WRITE, Word, marker};

/// What an address holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Content {
    /// Nothing mapped; the marker's code, 0 for none.
    Unmapped(u8),
    /// Mapped to its address plus `delta`.
    Mapped { delta: u64, fields: Fields },
}

/// Where a descriptor stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    pub(crate) frame: u64,
    pub(crate) index: usize,
}

/// One table on the way down.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Step {
    /// Addresses that the table resolves.
    pub(crate) range: Range<u64>,
    /// Level of its entries.
    pub(crate) level: i32,
    pub(crate) frame: u64,
}

/// One walk.
#[derive(Clone, Debug)]
pub(crate) struct Walk {
    /// The tables below the one where the walk began.
    pub(crate) steps: Vec<Step>,
    /// The last descriptor: where, its level, what it said.
    pub(crate) place: Place,
    pub(crate) level: i32,
    pub(crate) word: Word,
}

/// The addresses that an entry of `level` around `ipa` maps.
pub(crate) fn entry_range(regime: &Regime, level: i32, ipa: u64) -> Range<u64> {
    let size = regime.size(level);
    let start = ipa & !(size - 1);
    start..(start + size).min(regime.ipa_size())
}

/// The addresses of the contiguous group of `level` around `ipa`.
pub(crate) fn group_range(regime: &Regime, level: i32, ipa: u64) -> Range<u64> {
    let size = regime.size(level) * regime.members(level) as u64;
    let start = ipa & !(size - 1);
    start..start + size
}

/// Walks for `ipa`, from the start level or from a table that a cache remembers.
pub(crate) fn walk(regime: &Regime, arena: &Arena, ipa: u64, from: Option<&Step>) -> Result<Walk, Violation> {
    let (mut frame, mut level) = from.map_or((regime.root, regime.start), |step| (step.frame, step.level));
    let mut steps = Vec::new();
    loop {
        let index = regime.index(level, ipa);
        let bits = arena.entry(frame, index)?.load(Acquire);
        let word = Word::decode(regime, bits, level)?;
        if let Word::Table(next) = word {
            let range = entry_range(regime, level, ipa);
            (frame, level) = (next, level + 1);
            steps.push(Step { range, level, frame });
            continue;
        }
        if let Word::Leaf(leaf) = word
            && leaf.has(CONTIGUOUS)
            && group_range(regime, level, ipa).end > regime.ipa_size()
        {
            return Err(Violation::Group { ipa, why: "larger than the input address space" });
        }
        return Ok(Walk { steps, place: Place { frame, index }, level, word });
    }
}

/// One leaf: a page, a block or a whole group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) range: Range<u64>,
    pub(crate) level: i32,
    pub(crate) group: bool,
}

/// Everything that the tables say.
#[derive(Clone, Debug)]
pub(crate) struct Survey {
    pub(crate) contents: Flat<Content>,
    /// Pages of leaves that are dirty: a group is if any member is.
    pub(crate) dirty: Set,
    pub(crate) young: Set,
    /// Every leaf, in order.
    pub(crate) extents: Vec<Extent>,
    /// Every table's frame, the start level's included.
    pub(crate) tables: BTreeSet<u64>,
}

impl Survey {
    /// Walks everything, and checks what must hold when no operation is under way.
    pub(crate) fn new(regime: &Regime, arena: &Arena) -> Result<Self, Violation> {
        let end = regime.ipa_size();
        let mut survey = Self {
            contents: Flat::new(end, Content::Unmapped(0)),
            dirty: Set::empty(end),
            young: Set::empty(end),
            extents: Vec::new(),
            tables: BTreeSet::new(),
        };
        survey.table(regime, arena, regime.root, regime.start, 0)?;
        Ok(survey)
    }

    fn table(
        &mut self,
        regime: &Regime,
        arena: &Arena,
        frame: u64,
        level: i32,
        base: u64,
    ) -> Result<(), Violation> {
        if !self.tables.insert(frame) {
            return Err(Violation::Frames { why: "linked twice", frame });
        }
        let size = regime.size(level);
        let words = arena.entries(frame, regime.entries_at(level))?;
        let mut index = 0;
        while index < words.len() {
            let ipa = base + index as u64 * size;
            match Word::decode(regime, words[index].load(Acquire), level)? {
                Word::Invalid(word) => {
                    self.push(ipa, Content::Unmapped(marker(word, level)?), false, false);
                    index += 1;
                }
                Word::Table(next) => {
                    self.table(regime, arena, next, level + 1, ipa)?;
                    index += 1;
                }
                Word::Leaf(first) => {
                    if first.nt() {
                        return Err(Violation::Reserved { level, word: first.word, why: "nT left behind" });
                    }
                    let mut count = 1;
                    let (mut dirty, mut young) = (first.dirty(), first.young());
                    if first.has(CONTIGUOUS) {
                        count = regime.members(level);
                        if index % count != 0 {
                            return Err(Violation::Group { ipa, why: "a member without its first" });
                        }
                        for member in 1..count {
                            let Some(word) = words.get(index + member) else {
                                return Err(Violation::Group { ipa, why: "beyond the input address space" });
                            };
                            let word = Word::decode(regime, word.load(Acquire), level)?;
                            let leaf = member_of(regime, &first, member, word, ipa)?;
                            dirty |= leaf.dirty();
                            young |= leaf.young();
                        }
                    }
                    let delta = first.oa.wrapping_sub(ipa);
                    self.push(ipa, Content::Mapped { delta, fields: first.fields }, dirty, young);
                    let range = ipa..ipa + count as u64 * size;
                    self.extents.push(Extent { range, level, group: count > 1 });
                    index += count;
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, ipa: u64, content: Content, dirty: bool, young: bool) {
        self.contents.push(ipa, content);
        self.dirty.push(ipa, dirty);
        self.young.push(ipa, young);
    }

    /// The leaf around `ipa`.
    pub(crate) fn extent(&self, ipa: u64) -> Option<&Extent> {
        let next = self.extents.partition_point(|extent| extent.range.end <= ipa);
        self.extents.get(next).filter(|extent| extent.range.contains(&ipa))
    }

    /// Every address of every leaf that has an address in `set`: how far one mark may mean.
    pub(crate) fn spread(&self, set: &Set) -> Set {
        let mut spread = set.clone();
        for range in set.members() {
            let first = self.extents.partition_point(|extent| extent.range.end <= range.start);
            for extent in &self.extents[first..] {
                if extent.range.start >= range.end {
                    break;
                }
                // Only the ends can reach further than the set.
                if extent.range.start < range.start || extent.range.end > range.end {
                    spread.insert(extent.range.clone());
                }
            }
        }
        spread
    }
}

/// Checks that `word` is member number `member` of the group that `first` begins.
fn member_of(
    regime: &Regime,
    first: &LeafWord,
    member: usize,
    word: Word,
    ipa: u64,
) -> Result<LeafWord, Violation> {
    let wrong = |why| Err(Violation::Group { ipa, why });
    let Word::Leaf(leaf) = word else { return wrong("an absent member") };
    let size = regime.size(first.level);
    if first.oa & (size * regime.members(first.level) as u64 - 1) != 0 {
        return wrong("its output address isn't aligned to the group");
    }
    if leaf.oa != first.oa + member as u64 * size {
        return wrong("a gap in the output addresses");
    }
    if !leaf.has(CONTIGUOUS) {
        return wrong("a member without Contiguous");
    }
    if leaf.fields != first.fields {
        return wrong("members with different attributes");
    }
    let address = address_bits(regime, first.level);
    let differs = (leaf.word ^ first.word) & !address;
    if differs & !MARKS != 0 {
        return wrong("members that differ in more than address and marks");
    }
    // What hardware doesn't manage is permission, and permissions must be the same.
    if !regime.hd && differs & WRITE != 0 {
        return wrong("members with different write permission");
    }
    Ok(leaf)
}

/// The descriptor bits in which the addresses of a group's members differ.
fn address_bits(regime: &Regime, level: i32) -> u64 {
    let size = regime.size(level);
    size * regime.members(level) as u64 - size
}
