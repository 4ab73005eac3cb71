//! Writes, and whether each was accounted for: the payload scatters generations over pages while EL2 collects
//! what is dirty and copies it. A write that is not reported leaves the copy behind.

use core::ops::Range;
use core::sync::atomic::{AtomicU64, Ordering};

use spin::RelaxStrategy;
use stage2::{Gather, Granule, Leaf};

use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::payload::{self, Routine, peek, poke};
use crate::bare::probe;
use crate::bare::team::{Team, Yield};
use crate::bare::vcpu::{Answer, Vcpu};
use crate::bare::watch;
use crate::fault::{Fault, Kind};
use crate::tap::Outcome;
use crate::{ensure, fail};

/// Pages that are written to.
pub const PAGES: usize = 64;
/// Translations that had been invalidated and were used again, since somebody asked.
static REVIVED: AtomicU64 = AtomicU64::new(0);
/// CPUs that write at most, each to a word of its own in every page.
const WRITERS: usize = 8;
/// Bytes between those words.
const APART: u64 = 64;
/// Generation `g` goes to page `(g * SCATTER) >> SHIFT`: all over the place, and known to both sides.
const SCATTER: u64 = 0x9e37_79b9_7f4a_7c15;
const SHIFT: u64 = 64 - PAGES.ilog2() as u64;

/// Where the pages are.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// IPA of the first.
    pub ipa: u64,
    /// Address of the first.
    pub oa: u64,
    /// Bytes from one to the next.
    pub stride: u64,
}

impl Field {
    /// The page of an IPA.
    const fn addresses(&self, page: usize) -> (u64, u64) {
        (self.ipa + page as u64 * self.stride, self.oa + page as u64 * self.stride)
    }
}

/// Faults that writers took.
#[derive(Debug, Default)]
pub struct Faults {
    /// For want of a translation.
    pub translation: AtomicU64,
    /// For want of a flag: access or dirty.
    pub flag: AtomicU64,
    /// Of any other kind, or such as could not be resolved.
    pub wrong: AtomicU64,
}

/// How far each writer has come.
#[derive(Debug, Default)]
pub struct Writers {
    next: [AtomicU64; WRITERS],
    /// What faulted meanwhile.
    pub faults: Faults,
}

impl Writers {
    /// Has every other CPU write all over the field while this one does `own`; then they are stopped.
    pub fn beside<G: Granule, R>(&self, guest: &Guest<'_, G>, field: Field, own: impl FnOnce() -> R) -> R {
        for page in 0..PAGES {
            for word in 0..WRITERS as u64 {
                poke(field.addresses(page).1 + word * APART, 0);
            }
        }
        payload::stop(false);
        let team: &Team = guest.team();
        team.beside(&|cpu| self.write(guest, field, cpu), || {
            // Nothing is raced with until all of them are under way.
            let under_way =
                |cpu: usize| peek_all(field, cpu) != 0 || self.next[cpu].load(Ordering::Acquire) != 0;
            let wait = watch::Wait::begin();
            while !writers(team).all(under_way) {
                wait.check("every writer's first write");
                Yield::relax();
            }
            let result = own();
            payload::stop(true);
            result
        })
    }

    /// The life of one writer. Odd ones store generations, even ones add up.
    fn write<G: Granule>(&self, guest: &Guest<'_, G>, field: Field, cpu: usize) {
        if cpu >= WRITERS {
            return;
        }
        let routine = if cpu % 2 == 1 { Routine::Scatter } else { Routine::AddUp };
        let base = field.ipa + cpu as u64 * APART;
        let arguments = [base, field.stride, 0, 1, payload::stop_ipa(), SCATTER, SHIFT];
        let result = Vcpu::new().run(routine, &arguments, |fault| self.answer(guest, fault));
        self.next[cpu].store(result.unwrap_or(u64::MAX), Ordering::Release);
    }

    fn answer<G: Granule>(&self, guest: &Guest<'_, G>, fault: &Fault) -> Answer {
        let count = match fault.kind() {
            // A conversion had broken the translation. By the time that the tables can be read it is made again.
            Kind::Translation => &self.faults.translation,
            Kind::AccessFlag | Kind::Permission | Kind::Conflict => &self.faults.flag,
            _ => &self.faults.wrong,
        };
        count.fetch_add(1, Ordering::Relaxed);
        match guest.resolve(fault) {
            Ok(_) => Answer::Retry,
            Err(_) => {
                self.faults.wrong.fetch_add(1, Ordering::Relaxed);
                Answer::Stop
            }
        }
    }

    /// What memory must hold of a writer's last generations, and holds.
    fn check(&self, field: Field, team: &Team) -> Outcome {
        for cpu in writers(team) {
            let next = self.next[cpu].load(Ordering::Acquire);
            ensure!(next > 1 && next != u64::MAX, "cpu {cpu} was stopped by a fault");
            for page in 0..PAGES {
                let of_page = |generation: u64| (generation.wrapping_mul(SCATTER) >> SHIFT) as usize == page;
                let value = peek(field.addresses(page).1 + cpu as u64 * APART);
                let expected = if cpu % 2 == 1 {
                    (1..next).rev().find(|&generation| of_page(generation)).unwrap_or(0)
                } else {
                    (1..next).filter(|&generation| of_page(generation)).count() as u64
                };
                ensure!(value == expected, "cpu {cpu} page {page}: {value} is there, not {expected}");
            }
        }
        Ok(())
    }
}

/// How often [`Mirror::look`] has seen a translation come back to life, since it was last asked.
pub fn take_revived() -> u64 {
    REVIVED.swap(0, Ordering::Relaxed)
}

/// The CPUs that write.
fn writers(team: &Team) -> core::ops::Range<usize> {
    1..team.cpus().min(WRITERS)
}

fn peek_all(field: Field, cpu: usize) -> u64 {
    (0..PAGES).map(|page| peek(field.addresses(page).1 + cpu as u64 * APART)).fold(0, |all, word| all | word)
}

/// The copy.
#[derive(Debug)]
pub struct Mirror {
    field: Field,
    writers: core::ops::Range<usize>,
    copy: [[u64; WRITERS]; PAGES],
    /// Reported since the last copy.
    reported: [bool; PAGES],
    /// Seen to have changed without a report: the next round owes it.
    owed: [bool; PAGES],
    /// Reports so far.
    pub reports: u64,
}

impl Mirror {
    /// A copy of pages that nobody has written to yet.
    pub fn new(field: Field, team: &Team) -> Self {
        Self {
            field,
            writers: writers(team),
            copy: [[0; WRITERS]; PAGES],
            reported: [false; PAGES],
            owed: [false; PAGES],
            reports: 0,
        }
    }

    /// A leaf was reported: if it was dirty, its pages are to be copied, once the invalidation is done.
    pub fn report(&mut self, leaf: &Leaf) {
        if leaf.dirty() {
            self.dirty(leaf.range());
        }
    }

    fn dirty(&mut self, range: Range<u64>) {
        self.reports += 1;
        for page in 0..PAGES {
            self.reported[page] |= range.contains(&self.field.addresses(page).0);
        }
    }

    fn read(&self, page: usize) -> [u64; WRITERS] {
        let mut words = [0; WRITERS];
        for cpu in self.writers.clone() {
            words[cpu] = peek(self.field.addresses(page).1 + cpu as u64 * APART);
        }
        words
    }

    /// What has been reported since the last copy is owed an invalidation.
    pub fn owed(&self, gather: &Gather) -> Outcome {
        for page in (0..PAGES).filter(|&page| self.reported[page]) {
            let (ipa, _) = self.field.addresses(page);
            ensure!(gather.overlaps(&(ipa..ipa + 1)), "page {page} was dirty, and no invalidation is owed");
        }
        Ok(())
    }

    /// Under KVM alone, between two invalidations: what has changed since it was copied must be dirty by now.
    ///
    /// KVM walks its guest's tables on a fault, and enters what it has found into its own some time later. An
    /// invalidation of another CPU that comes in between is lost: the old translation is entered after it, and
    /// stores go through it that no table allows any more. That is seen by doing such a store: the descriptor is clean
    /// before and after, and it does not fault. Then the page is invalidated once more, and copied as if it had been
    /// reported. A store that does fault says that the translation was in order, and that a write was lost.
    pub fn look<G: Granule>(&mut self, guest: &Guest<'_, G>) -> Outcome {
        if !bed().nested {
            return Ok(());
        }
        for page in 0..PAGES {
            // The content first: a write that is seen here was dirty before.
            if self.reported[page] || self.read(page) == self.copy[page] {
                continue;
            }
            let (ipa, _) = self.field.addresses(page);
            let clean = || !probe::descriptor(&guest.read(), ipa).0.dirty();
            if !clean() {
                continue;
            }
            let store = Vcpu::new().write(ipa + WRITERS as u64 * APART, 1);
            if let Err(fault) = store {
                fail!("page {page} had changed, and was clean: a store takes {fault:?}, as it must");
            }
            ensure!(clean(), "page {page} had changed, and was clean; it has become dirty since");
            let tables = guest.read();
            let mut gather = tables.gather();
            let aged = tables.age(ipa..ipa + G::SIZE, &mut gather, |_| {});
            ensure!(aged.is_ok() && !gather.is_empty(), "page {page} can't be invalidated again: {aged:?}");
            tables.invalidate(&mut gather);
            REVIVED.fetch_add(1, Ordering::Relaxed);
            self.reported[page] = true;
        }
        Ok(())
    }

    /// Copies what was reported, after the invalidation. `all`: everything dirty has been collected, so what has
    /// changed beside must come in the next round: a write that is seen but not reported is reported then.
    pub fn settle(&mut self, all: bool) -> Outcome {
        for page in 0..PAGES {
            if self.reported[page] {
                self.copy[page] = self.read(page);
                self.owed[page] = false;
            } else if all {
                ensure!(!self.owed[page], "page {page} had changed, and was not reported in the next round");
                self.owed[page] = self.read(page) != self.copy[page];
            }
            self.reported[page] = false;
        }
        Ok(())
    }

    /// After the last round, with the writers stopped: the copy is what memory holds, and memory holds what was
    /// written last.
    pub fn finish(&self, writers: &Writers, team: &Team) -> Outcome {
        for page in 0..PAGES {
            let (now, copy) = (self.read(page), self.copy[page]);
            ensure!(now == copy, "page {page}: {now:x?} is there, {copy:x?} was the last report");
        }
        writers.check(self.field, team)
    }
}
