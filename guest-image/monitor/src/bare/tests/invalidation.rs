//! Invalidation by entry, by range and of the whole VMID covers exactly what it says.
//!
//! What is looked at are translations that stage 1's own walks use: `TLBI IPAS2E1IS` is about those. (What both
//! stages make together goes with `VMALLE1IS`, which ends every sequence, and hides what the rest has missed.) So
//! each page under test holds a table of stage 1. All pages are made old in the tables; those of one half are
//! invalidated. A walk through them must then fault, and a walk through the others must not: their translations
//! are stale, and still there.

#![expect(unsafe_code, reason = "issues an invalidation of its own")]

use core::arch::asm;

use stage2::{Attributes, Features, Granule, HardwareUpdate, Options};

use super::layout::{Kind, Place};
use super::{Suite, rig};
use crate::bare::bed::bed;
use crate::bare::guest::Guest;
use crate::bare::mmu::Issued;
use crate::bare::team::Team;
use crate::bare::vcpu::Vcpu;
use crate::fault;
use crate::shape::kib;
use crate::tap::{Miss, Outcome};
use crate::{ensure, fail, skip};

/// Pages, and those of them that are invalidated.
const PAGES: u64 = 32;
const CHOSEN: core::ops::Range<u64> = 8..16;

/// How an invalidation names what it covers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Entry,
    EntryWithLevel,
    Range,
    Whole,
}

/// Each form.
pub(super) fn run<G: Granule>(suite: &mut Suite<'_>) {
    for form in [Form::Entry, Form::EntryWithLevel, Form::Range, Form::Whole] {
        let name = match form {
            Form::Entry => "by entry",
            Form::EntryWithLevel => "by entry, with a level hint",
            Form::Range => "by range",
            Form::Whole => "of the VMID",
        };
        suite.test(format_args!("invalidation: {}K: {name} reaches what it names", kib::<G>()), |team| {
            covers::<G>(team, form, true)
        });
        if form != Form::Whole {
            suite.test(format_args!("invalidation: {}K: {name} leaves the rest alone", kib::<G>()), |team| {
                covers::<G>(team, form, false)
            });
        }
    }
}

/// A CPU that has no more than the form needs.
fn features(form: Form) -> Result<Features, Miss> {
    let features = bed().features;
    match form {
        Form::EntryWithLevel if !features.ttl => skip!("this CPU does not have FEAT_TTL"),
        Form::Range if !features.tlbi_range => skip!("this CPU does not have FEAT_TLBIRANGE"),
        _ => {}
    }
    Ok(Features { ttl: form == Form::EntryWithLevel, tlbi_range: form == Form::Range, ..features })
}

fn covers<G: Granule>(team: &Team, form: Form, inside: bool) -> Outcome {
    let options = Options {
        update: Some(HardwareUpdate::None),
        contiguous: false,
        tlbi_limit: if form == Form::Whole { 0 } else { 512 },
        ..Options::new(36.min(bed().features.pa_bits))
    };
    let guest = Guest::<G>::with_features(team, &features(form)?, options)?;
    let Some(place) = Place::find(guest.config(), Kind::PAGE, PAGES) else { skip!("they do not fit") };
    guest.map(place.ipa, place.oa, place.bytes, &Attributes::RAM.dirty())?;
    let page = |k: u64| (place.ipa + k * G::SIZE, place.oa + k * G::SIZE);
    rig::build(PAGES, page);
    Guest::<G>::stage1(true);
    let result = look(&guest, &place, page);
    Guest::<G>::stage1(false);
    let Seen { before, after, issued } = result?;
    let kinds = (issued.by_entry > 0, issued.by_range > 0, issued.whole > 0);
    let expected =
        (matches!(form, Form::Entry | Form::EntryWithLevel), form == Form::Range, form == Form::Whole);
    ensure!(issued.sequences == 1 && kinds == expected, "{issued:?} was issued");
    let within = |k: u64| CHOSEN.contains(&k) || form == Form::Whole;
    if inside {
        if let Some(k) = (0..PAGES).find(|&k| within(k) && after & 1 << k == 0) {
            fail!("page {k} is still reached, after {issued:?}");
        }
        if (0..PAGES).all(|k| !within(k) || before & 1 << k != 0) {
            skip!("no TLB had kept what was to be invalidated");
        }
        return Ok(());
    }
    // A TLB may forget at any time, so what is gone proves nothing; what is there does.
    if (0..PAGES).all(|k| within(k) || after & 1 << k != 0) {
        skip!("the rest is gone too: this TLB drops more than it is asked to");
    }
    Ok(())
}

/// Which pages faulted, as bits: while nothing had been invalidated, and after.
struct Seen {
    before: u64,
    after: u64,
    issued: Issued,
}

fn look<G: Granule>(
    guest: &Guest<'_, G>,
    place: &Place,
    page: impl Fn(u64) -> (u64, u64),
) -> Result<Seen, Miss> {
    let mut vcpu = Vcpu::new();
    let warm = walk(&mut vcpu, &page)?;
    ensure!(warm == 0, "pages {warm:#x} fault before anything was done");
    let tables = guest.read();
    let chosen = page(CHOSEN.start).0..page(CHOSEN.end).0;
    let (mut owed, mut dropped) = (tables.gather(), tables.gather());
    for (range, gather) in [(chosen.clone(), &mut owed), (place.range(), &mut dropped)] {
        if let Err(error) = tables.age(range, gather, |_| {}) {
            fail!("age: {error}");
        }
    }
    dropped.clear();
    forget_combined();
    let before = walk(&mut vcpu, &page)?;
    let issued = tables.executor().issued();
    tables.invalidate(&mut owed);
    let issued = tables.executor().issued().since(issued);
    let after = walk(&mut vcpu, &page)?;
    Ok(Seen { before, after, issued })
}

/// Walks through every page: which of them faulted.
fn walk(vcpu: &mut Vcpu, page: &impl Fn(u64) -> (u64, u64)) -> Result<u64, Miss> {
    let mut faulted = 0;
    for k in 0..PAGES {
        if let Err(fault) = vcpu.read(rig::through(k)) {
            let right = fault.stage1_walk() && fault.kind() == fault::Kind::AccessFlag;
            ensure!(right && fault.ipa() == page(k).0, "page {k}: {fault:?}");
            faulted |= 1 << k;
        }
    }
    Ok(faulted)
}

/// Drops what both stages have made together, and leaves what stage 2 has made alone.
fn forget_combined() {
    // SAFETY: an invalidation only makes the hardware look a translation up again.
    unsafe { asm!("dsb ishst", "tlbi vmalle1is", "dsb ish", "isb", options(nostack, preserves_flags)) };
}
