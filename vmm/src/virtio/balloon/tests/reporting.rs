//! Free pages, unasked.

use std::sync::atomic::Ordering;

use super::super::features::{PAGE_POISON, PAGE_REPORTING};
use super::*;
use crate::lock::lock;

const QUEUE: usize = 2;

/// A driver that fills free pages with `poison`.
fn poisoned(poison: u32) -> Rig {
    let mut rig = Rig::new("report=on");
    let features = PAGE_REPORTING | PAGE_POISON;
    rig.driver.negotiate(1 << 32 | features);
    rig.set_config(12, poison);
    for queue in 0..3 {
        rig.driver.set_up(queue);
    }
    rig.driver.set(0x70, 15);
    rig.driver.settle();
    rig
}

fn report(rig: &mut Rig) -> Vec<u32> {
    rig.driver.post(QUEUE, &[Part::write(pages(8, 1).start, 4096), Part::write(pages(2, 4).start, 0x4000)]);
    rig.driver.run();
    rig.driver.used(QUEUE).into_iter().map(|(_, len)| len).collect()
}

#[test]
fn a_report_is_one_batch_and_is_gone_before_the_guest_is_told() {
    let mut rig = Rig::start("report=on", PAGE_REPORTING);
    assert_eq!(report(&mut rig), [0x5000]);
    assert_eq!(rig.memory.calls(), [Call::Report(vec![pages(8, 1), pages(2, 4)])]);
    assert_eq!(rig.memory.acknowledgements(), 1);
}

#[test]
fn must_pass_6_the_length_counts_only_what_was_cleared() {
    let mut rig = Rig::start("report=on", PAGE_REPORTING);
    for cleared in [0, 1, 0x4fff] {
        *lock(&rig.memory.cleared) = Some(cleared);
        assert_eq!(report(&mut rig), [0]);
    }
    *lock(&rig.memory.cleared) = Some(u64::MAX);
    assert_eq!(report(&mut rig), [0x5000]);
    rig.memory.broken.store(true, Ordering::Relaxed);
    assert_eq!(report(&mut rig), [0]);
}

#[test]
fn must_pass_6_with_poison_pages_become_nothing_else() {
    for poison in [0xaaaa_aaaa, 1, 0x0100_0000] {
        let mut rig = poisoned(poison);
        assert_eq!((report(&mut rig), rig.memory.calls()), (vec![0], vec![]));
        // Once it runs, what it said holds.
        rig.set_config(12, 0);
        assert_eq!((rig.config(12), report(&mut rig), rig.memory.calls()), (poison, vec![0], vec![]));
    }
    let mut rig = poisoned(0);
    assert_eq!(report(&mut rig), [0x5000]);
    assert_eq!(rig.memory.calls().len(), 1);
}

#[test]
fn must_pass_9_reports_that_make_no_sense_come_back() {
    let mut rig = Rig::start("report=on", PAGE_REPORTING);
    let at = rig.driver.buffer(16);
    rig.driver.post(QUEUE, &[Part::read(at, 16)]);
    rig.driver.post(QUEUE, &[Part::write(at, 0)]);
    rig.driver.post(QUEUE, &[Part::write(at, 8), Part::read(at, 8)]);
    rig.driver.post(QUEUE, &[Part::write(u64::MAX - 7, u32::MAX)]);
    rig.driver.run();
    let lens: Vec<_> = rig.driver.used(QUEUE).into_iter().map(|(_, len)| len).collect();
    // The one that leaves the address space names fewer bytes than its length says.
    assert_eq!(lens, [0, 0, 0, 0]);
    assert_eq!(rig.memory.calls(), [Call::Report(vec![u64::MAX - 7..u64::MAX])]);
}
