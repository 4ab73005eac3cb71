//! Each fault is caught, and nothing is where there is none.

use super::dry::Dry;
use crate::config::Backing;
use crate::faults::{Fault, during};
use crate::memory::release::Contract::{self, Free, MustTell};

const PAGES: u64 = 512;
const STEPS: u64 = 160;

fn storm(backing: Backing, contract: Contract) -> Result<(), String> {
    (1..4).try_for_each(|seed| Dry::new(backing.clone(), contract, PAGES).storm(seed, STEPS))
}

#[track_caller]
fn is_caught(fault: Fault, backing: Backing, contract: Contract) -> String {
    during(fault, || storm(backing, contract)).expect_err("it went unnoticed")
}

#[test]
fn a_storm_without_a_fault_finds_none() {
    for backing in [Backing::Anon, Backing::Memfd] {
        for contract in [Free, MustTell] {
            assert_eq!(storm(backing.clone(), contract), Ok(()), "{backing:?} {contract:?}");
        }
    }
}

#[test]
fn rounding_a_discard_up_is_caught() {
    for contract in [Free, MustTell] {
        let what = is_caught(Fault::RoundUp, Backing::Anon, contract);
        // A neighbour has lost its bytes, or more was cleared than was named.
        assert!(what.contains("does not hold Stamp") || what.contains("reported as cleared"), "{what}");
    }
}

#[test]
fn a_deflate_that_is_forgotten_is_caught() {
    let what = is_caught(Fault::ForgetDeflate, Backing::Anon, MustTell);
    assert!(what.contains("does not hold Stamp"), "{what}");
}

#[test]
fn a_dirty_bit_that_is_dropped_is_caught() {
    for contract in [Free, MustTell] {
        let what = is_caught(Fault::DropDirty, Backing::Memfd, contract);
        assert!(what.contains("released as clean"), "{what}");
    }
}

#[test]
fn a_discard_that_frees_nothing_is_caught() {
    let what = is_caught(Fault::DontNeedShared, Backing::Memfd, Free);
    assert!(what.contains("not cleared") || what.contains("cleared, "), "{what}");
    // With MUST_TELL_HOST nobody looks into the balloon but the audit.
    let what = is_caught(Fault::DontNeedShared, Backing::Memfd, MustTell);
    assert!(what.contains("cleared") || what.contains("it is not zero"), "{what}");
}

#[test]
fn a_release_that_is_not_noted_is_caught() {
    for contract in [Free, MustTell] {
        let what = is_caught(Fault::ForgetRelease, Backing::Anon, contract);
        assert!(what.contains("the host holds nothing there"), "{what}");
    }
}

#[test]
fn a_report_that_clears_nothing_is_caught() {
    let what = is_caught(Fault::ReportNothing, Backing::Anon, Free);
    assert!(what.contains("bytes reported as cleared"), "{what}");
}

#[test]
fn every_fault_has_a_name_of_its_own() {
    let mut names = Fault::ALL.map(Fault::name);
    names.sort_unstable();
    assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{names:?}");
}
