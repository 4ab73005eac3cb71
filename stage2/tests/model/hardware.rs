//! The hardware: an MMU that translates, caches, and marks descriptors, at any moment it likes.
//!
//! The crate under test calls out of its operations at two seams: when it looks at a table, and when it issues
//! instructions. There the hardware may do anything that real hardware might do at that moment: forget
//! entries, walk ahead of any access, read and write memory.

use std::cell::{Cell, OnceCell, RefCell};
use std::sync::atomic::Ordering::{AcqRel, Acquire, Release};

use stage2::Instruction;

use crate::arena::Arena;
use crate::chance::Chance;
use crate::flat::Set;
use crate::regime::Regime;
use crate::tlb::{Cached, Tlb};
use crate::tlbi::{Scope, check_order};
use crate::violation::Violation;
use crate::walker::{Place, Walk, entry_range, group_range, walk};
use crate::word::{AF, CONTIGUOUS, DBM, LeafWord, WRITE, Word};

/// A memory access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    Read,
    Write,
    Execute,
}

/// How an access ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Done {
        oa: u64,
    },
    /// Nothing valid there.
    Translation,
    /// Not young, and hardware doesn't make it so.
    AccessFlag,
    Permission,
    /// Two entries hit, at FEAT_BBM level 2; the TLB has been emptied.
    ConflictAbort,
}

/// What an access did, for whoever judges it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Event {
    pub(crate) ipa: u64,
    pub(crate) access: Access,
    pub(crate) outcome: Outcome,
    /// The access flag was set.
    pub(crate) aged: bool,
    /// It went through a cached entry that was dirty already: no descriptor was written.
    pub(crate) unmarked: bool,
}

/// How the hardware behaves where the architecture leaves it a choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Temper {
    /// Anything, by chance.
    Random,
    /// Remembers everything for as long as it may, groups whole: what isn't invalidated stays.
    Sticky,
}

/// Changes what the crate under test issues: for the tests of the model itself.
pub(crate) type Tamper = Box<dyn FnMut(Vec<Instruction>) -> Vec<Instruction>>;

/// An MMU, its TLB and the memory that its tables stand in.
pub(crate) struct Hardware {
    pub(crate) arena: Arena,
    pub(crate) regime: OnceCell<Regime>,
    pub(crate) temper: Temper,
    pub(crate) chance: Chance,
    /// Whether it acts at the seams.
    pub(crate) awake: Cell<bool>,
    /// Whether it also accesses memory there, or only walks ahead.
    pub(crate) busy: Cell<bool>,
    /// Addresses that it likes.
    pub(crate) hot: RefCell<Vec<u64>>,
    pub(crate) events: RefCell<Vec<Event>>,
    pub(crate) issued: RefCell<Vec<Instruction>>,
    pub(crate) tamper: RefCell<Option<Tamper>>,
    tlb: RefCell<Tlb>,
    violation: RefCell<Option<Violation>>,
}

impl std::fmt::Debug for Hardware {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hardware").field("regime", &self.regime).finish_non_exhaustive()
    }
}

impl Hardware {
    pub(crate) fn new(arena: Arena, temper: Temper, seed: u64) -> Self {
        Self {
            arena,
            regime: OnceCell::new(),
            temper,
            chance: Chance::new(seed),
            awake: Cell::new(false),
            busy: Cell::new(false),
            hot: RefCell::default(),
            events: RefCell::default(),
            issued: RefCell::default(),
            tamper: RefCell::default(),
            tlb: RefCell::new(Tlb { sticky: temper == Temper::Sticky, ..Tlb::default() }),
            violation: RefCell::default(),
        }
    }

    pub(crate) fn regime(&self) -> &Regime {
        self.regime.get().expect("the registers are written before anything is translated")
    }

    /// Notes the first violation found at a seam, where it can't be returned.
    pub(crate) fn note(&self, result: Result<(), Violation>) {
        if let Err(violation) = result {
            self.violation.borrow_mut().get_or_insert(violation);
        }
    }

    /// What was found at the seams since last asked.
    pub(crate) fn found(&self) -> Result<(), Violation> {
        self.violation.take().map_or(Ok(()), Err)
    }

    fn sticky(&self) -> bool {
        self.temper == Temper::Sticky
    }

    fn maybe(&self, part: usize, whole: usize) -> bool {
        !self.sticky() && self.chance.once(part, whole)
    }

    fn hot_address(&self) -> Option<u64> {
        let hot = self.hot.borrow();
        (!hot.is_empty()).then(|| hot[self.chance.below(hot.len())])
    }

    /// A moment at which hardware may act.
    pub(crate) fn seam(&self) {
        if self.awake.get() && self.regime.get().is_some() && self.violation.borrow().is_none() {
            let result = self.act();
            self.note(result);
        }
    }

    fn act(&self) -> Result<(), Violation> {
        if self.sticky() {
            let hot = self.hot.borrow().clone();
            return hot.into_iter().try_for_each(|ipa| self.speculate(ipa));
        }
        if self.maybe(1, 4) {
            self.tlb.borrow_mut().evict(&self.chance);
        }
        for _ in 0..2 {
            let Some(ipa) = self.hot_address() else { break };
            self.speculate(ipa)?;
        }
        if self.busy.get()
            && self.maybe(1, 2)
            && let Some(ipa) = self.hot_address()
        {
            let access = if self.chance.once(2, 3) { Access::Write } else { Access::Read };
            self.access(ipa, access)?;
        }
        Ok(())
    }

    /// Walks ahead: caches what an access might need, marks nothing.
    pub(crate) fn speculate(&self, ipa: u64) -> Result<(), Violation> {
        let walk = self.walk(ipa)?;
        match walk.word {
            Word::Leaf(leaf) if leaf.has(AF) => self.fill(ipa, &walk, leaf),
            _ => {
                self.fill_tables(&walk);
                Ok(())
            }
        }
    }

    fn walk(&self, ipa: u64) -> Result<Walk, Violation> {
        let from = self.tlb.borrow().table(ipa).cloned();
        let from = from.filter(|_| self.sticky() || self.chance.once(1, 2));
        walk(self.regime(), &self.arena, ipa, from.as_ref())
    }

    fn fill_tables(&self, walk: &Walk) {
        for step in &walk.steps {
            if self.sticky() || self.chance.once(1, 2) {
                self.tlb.borrow_mut().fill_table(step, &self.chance);
            }
        }
    }

    fn fill(&self, ipa: u64, walk: &Walk, leaf: LeafWord) -> Result<(), Violation> {
        self.fill_tables(walk);
        if leaf.nt() {
            return Ok(());
        }
        let regime = self.regime();
        let entry = entry_range(regime, walk.level, ipa);
        let group = leaf.has(CONTIGUOUS);
        // The hint may be taken or not; a combined entry is as small as stage 1 makes it.
        let whole = group && !self.maybe(1, 3);
        let mut range = if whole { group_range(regime, walk.level, ipa) } else { entry.clone() };
        let delta = leaf.oa.wrapping_sub(entry.start);
        let combined = self.maybe(1, 2);
        if combined && self.chance.once(1, 2) {
            let page = ipa & !(regime.page() - 1);
            range = page..page + regime.page();
        }
        let oa = range.start.wrapping_add(delta);
        let mut tlb = self.tlb.borrow_mut();
        if self.sticky() {
            let combined = Cached { range: range.clone(), leaf, oa, group, combined: true };
            tlb.fill(regime, combined, &self.chance)?;
        }
        tlb.fill(regime, Cached { range, leaf, oa, group, combined }, &self.chance)
    }

    /// One access of the guest. What it did is logged.
    pub(crate) fn access(&self, ipa: u64, access: Access) -> Result<Outcome, Violation> {
        let mut event = Event { ipa, access, outcome: Outcome::Translation, aged: false, unmarked: false };
        event.outcome = self.perform(ipa, access, &mut event)?;
        self.events.borrow_mut().push(event);
        Ok(event.outcome)
    }

    fn perform(&self, ipa: u64, access: Access, event: &mut Event) -> Result<Outcome, Violation> {
        loop {
            let hits = self.tlb.borrow().hits(ipa);
            if self.tlb.borrow().conflict(&hits) {
                match self.regime().processor.bbm {
                    0 | 1 => return Err(Violation::Conflict { ipa }),
                    2 if self.maybe(1, 2) => {
                        self.tlb.borrow_mut().clear();
                        return Ok(Outcome::ConflictAbort);
                    }
                    _ => {}
                }
            }
            if hits.is_empty() || self.maybe(1, 4) {
                return self.access_by_walk(ipa, access, event);
            }
            let hit = hits[self.chance.below(hits.len())];
            if let Some(outcome) = self.access_by_hit(hit, ipa, access, event)? {
                return Ok(outcome);
            }
            // The descriptor isn't what was cached: forget it, look again.
            self.tlb.borrow_mut().leaves.swap_remove(hit);
        }
    }

    /// An access through a cached entry; `None` where the descriptor behind it has to be marked and has
    /// changed.
    fn access_by_hit(
        &self,
        hit: usize,
        ipa: u64,
        access: Access,
        event: &mut Event,
    ) -> Result<Option<Outcome>, Violation> {
        let entry = self.tlb.borrow().leaves[hit].clone();
        let oa = ipa.wrapping_add(entry.delta());
        let done = Ok(Some(Outcome::Done { oa }));
        match access {
            _ if !allows(&entry.leaf, access) => return Ok(Some(Outcome::Permission)),
            Access::Write if entry.leaf.has(WRITE) => {
                event.unmarked = true;
                return done;
            }
            Access::Write => {}
            _ => return done,
        }
        if !self.regime().hd {
            return Ok(Some(Outcome::Permission));
        }
        // A group cached as one entry has one dirty bit, and any member's descriptor may hold it.
        let size = self.regime().size(entry.leaf.level);
        let members = ((entry.range.end - entry.range.start) / size).max(1) as usize;
        let ipa = match members {
            1 => ipa,
            _ => entry.range.start + self.chance.below(members) as u64 * size,
        };
        let walk = walk(self.regime(), &self.arena, ipa, None)?;
        let Word::Leaf(now) = walk.word else { return Ok(None) };
        let address = ipa & !(size - 1);
        let same = walk.level == entry.leaf.level
            && now.oa == address.wrapping_add(entry.delta())
            && now.fields == entry.leaf.fields
            && now.has(DBM);
        if !same || !self.mark(walk.place, now.word, AF | WRITE)? {
            return Ok(None);
        }
        event.aged = !now.has(AF);
        self.tlb.borrow_mut().leaves[hit].leaf.word |= WRITE;
        done
    }

    /// An access that looks at the tables.
    fn access_by_walk(&self, ipa: u64, access: Access, event: &mut Event) -> Result<Outcome, Violation> {
        loop {
            let mut walk = self.walk(ipa)?;
            let Word::Leaf(mut leaf) = walk.word else {
                self.fill_tables(&walk);
                return Ok(Outcome::Translation);
            };
            let regime = self.regime();
            if leaf.nt() && self.maybe(1, 4) {
                return Ok(Outcome::Translation);
            }
            if !leaf.has(AF) && !regime.ha {
                return Ok(Outcome::AccessFlag);
            }
            let mut marks = AF;
            let mut denied = !allows(&leaf, access);
            if access == Access::Write && !leaf.has(WRITE) {
                if regime.hd && leaf.has(DBM) {
                    marks |= WRITE;
                } else {
                    denied = true;
                }
            }
            // The access flag may be set by an access that is then denied; dirty never is.
            if denied && (leaf.has(AF) || !self.maybe(1, 2)) {
                return Ok(Outcome::Permission);
            }
            if denied {
                marks = AF;
            }
            if !self.mark(walk.place, leaf.word, marks)? {
                continue;
            }
            event.aged |= !leaf.has(AF);
            leaf.word |= marks;
            walk.word = Word::Leaf(leaf);
            if denied {
                return Ok(Outcome::Permission);
            }
            self.fill(ipa, &walk, leaf)?;
            let offset = ipa & (regime.size(walk.level) - 1);
            return Ok(Outcome::Done { oa: leaf.oa + offset });
        }
    }

    /// The atomic update of a descriptor.
    fn mark(&self, place: Place, seen: u64, bits: u64) -> Result<bool, Violation> {
        let entry = self.arena.entry(place.frame, place.index)?;
        if seen & bits == bits {
            return Ok(entry.load(Acquire) == seen);
        }
        Ok(entry.compare_exchange(seen, seen | bits, AcqRel, Acquire).is_ok())
    }

    /// The descriptor of the leaf or invalid entry at `ipa`.
    pub(crate) fn word(&self, ipa: u64) -> Result<u64, Violation> {
        let place = walk(self.regime(), &self.arena, ipa, None)?.place;
        Ok(self.arena.entry(place.frame, place.index)?.load(Acquire))
    }

    /// Changes that descriptor by a plain load and store, as only a mistake would.
    pub(crate) fn edit(&self, ipa: u64, change: impl Fn(u64) -> u64) {
        let result = walk(self.regime(), &self.arena, ipa, None).and_then(|walk| {
            let entry = self.arena.entry(walk.place.frame, walk.place.index)?;
            entry.store(change(entry.load(Acquire)), Release);
            Ok(())
        });
        self.note(result);
    }

    /// Executes a sequence. An invalidation works only when a barrier completes it; until then, and between any
    /// two instructions, hardware goes on.
    pub(crate) fn execute(&self, sequence: Vec<Instruction>) -> Result<(), Violation> {
        let sequence = match self.tamper.borrow_mut().as_mut() {
            Some(tamper) => tamper(sequence),
            None => sequence,
        };
        check_order(&sequence)?;
        let mut queue = Vec::new();
        for instruction in sequence {
            self.seam();
            self.issued.borrow_mut().push(instruction);
            if let Some(scope) = Scope::decode(self.regime(), instruction)? {
                queue.push(scope);
            } else if instruction == Instruction::DsbIsh {
                let mut tlb = self.tlb.borrow_mut();
                queue.drain(..).for_each(|scope| tlb.invalidate(&scope));
            }
        }
        self.seam();
        Ok(())
    }

    /// Takes a frame back, unless a walker may still come to it.
    pub(crate) fn free(&self, frame: u64, size: u64) -> Result<(), Violation> {
        if self.tlb.borrow().tables.iter().any(|step| step.frame == frame) {
            return Err(Violation::EarlyFree { frame });
        }
        self.arena.free(frame, size)
    }

    /// Holds everything cached against the tables. `owed` says what an invalidation is still owed for, and of
    /// `unseen` pages nobody minds that they look older than they are.
    pub(crate) fn audit(&self, owed: impl Fn(u64, bool) -> bool, unseen: &Set) -> Result<(), Violation> {
        let regime = self.regime();
        let tlb = self.tlb.borrow();
        for step in &tlb.tables {
            let walk = walk(regime, &self.arena, step.range.start, None)?;
            if !walk.steps.contains(step) && !owed(step.range.start, true) {
                return Err(Violation::Stale { range: step.range.clone(), why: "a pointer to a table" });
            }
        }
        for entry in &tlb.leaves {
            let stale = |why| Err(Violation::Stale { range: entry.range.clone(), why });
            let size = regime.size(entry.leaf.level).min(entry.range.end - entry.range.start);
            let (mut dirty, mut young) = (false, false);
            let mut unexplained = false;
            for ipa in (entry.range.start..entry.range.end).step_by(size as usize) {
                let walk = walk(regime, &self.arena, ipa, None)?;
                let Word::Leaf(now) = walk.word else {
                    if owed(ipa, false) {
                        (dirty, young) = (true, true);
                        continue;
                    }
                    return stale("nothing is mapped there");
                };
                let offset = ipa & (regime.size(walk.level) - 1);
                let was = ipa.wrapping_add(entry.delta());
                let why = match () {
                    () if now.oa + offset != was => "another output address",
                    () if walk.level != entry.leaf.level => "another size",
                    () if now.has(CONTIGUOUS) != entry.group => "another Contiguous bit",
                    () if now.fields != entry.leaf.fields => "other permissions or attributes",
                    () => "",
                };
                if owed(ipa, false) {
                    (dirty, young) = (true, true);
                } else if !why.is_empty() {
                    return stale(why);
                }
                dirty |= now.has(WRITE);
                young |= now.has(AF) || unseen.at(ipa);
                unexplained = true;
            }
            // A group's marks may stand on any member, also on one that this smaller entry isn't of.
            if entry.group && unexplained {
                dirty |= self.group_has(&entry.range, WRITE)?;
                young |= self.group_has(&entry.range, AF)?;
            }
            if !young {
                return stale("its access flag has been cleared: its accesses would go unseen");
            }
            if entry.dirty() && !dirty {
                return stale("dirty, though the tables say clean: its stores would go unseen");
            }
        }
        Ok(())
    }

    fn group_has(&self, part: &std::ops::Range<u64>, bit: u64) -> Result<bool, Violation> {
        let regime = self.regime();
        let level = walk(regime, &self.arena, part.start, None)?.level;
        let group = group_range(regime, level, part.start);
        for ipa in group.step_by(regime.size(level) as usize) {
            if let Word::Leaf(leaf) = walk(regime, &self.arena, ipa, None)?.word
                && leaf.has(bit)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Whether a leaf allows an access, the dirty state aside.
fn allows(leaf: &LeafWord, access: Access) -> bool {
    match access {
        Access::Read => leaf.fields.read,
        Access::Write => leaf.has(DBM | WRITE),
        Access::Execute => leaf.fields.read && leaf.fields.execute_never != 0b10,
    }
}
