//! What may be done to a page, and when.

use std::sync::atomic::Ordering;

use super::super::features::MUST_TELL_HOST;
use super::super::memory::Contract::{Free, MustTell};
use super::*;

#[test]
fn pages_are_named_in_units_of_4k_and_neighbours_are_joined() {
    let mut rig = Rig::start("", 0);
    let (at, len) = rig.numbers(&[FIRST + 1, FIRST + 2, FIRST + 9, FIRST]);
    rig.driver.post(INFLATE, &[Part::read(at, len)]);
    rig.driver.post(DEFLATE, &[Part::read(at + 8, 4), Part::read(at, 4)]);
    rig.driver.run();
    assert_eq!(
        rig.memory.calls(),
        [
            Call::Inflate(vec![pages(1, 2), pages(9, 1), pages(0, 1)], Free),
            Call::Deflate(vec![pages(9, 1), pages(1, 1)]),
        ]
    );
    assert_eq!(rig.driver.used(INFLATE), [(0, 0)]);
    assert_eq!(rig.driver.used(DEFLATE), [(0, 0)]);
    assert_eq!(rig.memory.acknowledgements(), 2);
}

#[test]
fn without_must_tell_host_the_memory_is_gone_before_the_guest_is_told() {
    for (config, features) in [("", 0), ("must-tell-host=off", 0)] {
        let mut rig = Rig::start(config, features);
        let (at, len) = rig.numbers(&[FIRST]);
        for _ in 0..3 {
            rig.driver.post(INFLATE, &[Part::read(at, len)]);
        }
        rig.driver.run();
        let expected = |returned| (Call::Inflate(vec![pages(0, 1)], Free), returned);
        assert_eq!(rig.memory.timed(), [expected(0), expected(1), expected(2)]);
    }
}

#[test]
fn with_must_tell_host_the_guest_is_told_before_the_work_is_done() {
    let mut rig = Rig::start("", MUST_TELL_HOST);
    let (at, len) = rig.numbers(&[FIRST]);
    for _ in 0..3 {
        rig.driver.post(INFLATE, &[Part::read(at, len)]);
    }
    rig.driver.run();
    let expected = |returned| (Call::Inflate(vec![pages(0, 1)], MustTell), returned);
    assert_eq!(rig.memory.timed(), [expected(0), expected(1), expected(2), (Call::Work, 3)]);
    assert_eq!(rig.memory.acknowledgements(), 3, "each has its latency");
}

#[test]
fn a_page_is_out_of_the_balloon_before_the_guest_is_told() {
    let mut rig = Rig::start("", MUST_TELL_HOST);
    let (at, len) = rig.numbers(&[FIRST + 3]);
    rig.driver.post(DEFLATE, &[Part::read(at, len)]);
    rig.memory.broken.store(true, Ordering::Relaxed);
    rig.driver.run();
    // A failure of the host's is not the guest's affair: its memory is there.
    assert_eq!(rig.memory.timed(), [(Call::Deflate(vec![pages(3, 1)]), 0)]);
    assert_eq!(rig.driver.used(DEFLATE).len(), 1);
    assert_eq!(rig.driver.get(0x70), 15);
}

#[test]
fn parts_of_blocks_are_settled_when_the_target_is_reached() {
    let mut rig = Rig::start("size=8K", MUST_TELL_HOST);
    let (at, len) = rig.numbers(&[FIRST]);
    rig.driver.post(INFLATE, &[Part::read(at, len)]);
    rig.memory.partial.store(true, Ordering::Relaxed);
    rig.driver.run();
    rig.set_config(4, 1);
    rig.driver.settle();
    assert_eq!(rig.memory.calls(), [Call::Inflate(vec![pages(0, 1)], MustTell), Call::Work]);
    rig.set_config(4, 2);
    rig.driver.settle();
    assert_eq!(rig.memory.calls(), [Call::Settle]);
    // A target that has been reached already.
    rig.control.set_target(4096).unwrap();
    rig.driver.settle();
    assert_eq!(rig.memory.calls(), []);
    rig.set_config(4, 1);
    rig.driver.settle();
    assert_eq!(rig.memory.calls(), [Call::Settle]);
}

#[test]
fn parts_of_blocks_are_settled_when_the_guest_is_quiet() {
    let mut rig = Rig::start("", MUST_TELL_HOST);
    let (at, len) = rig.numbers(&[FIRST]);
    rig.memory.partial.store(true, Ordering::Relaxed);
    rig.driver.post(INFLATE, &[Part::read(at, len)]);
    rig.driver.run();
    rig.memory.calls();
    // However long that takes.
    rig.driver.wait();
    assert_eq!(rig.memory.calls(), [Call::Settle]);
}

#[test]
fn a_reset_empties_the_balloon() {
    let mut rig = Rig::start(ALL, 0x3f);
    rig.control.set_target(64 << 10).unwrap();
    rig.set_config(4, 16);
    rig.driver.set(0x70, 0);
    assert_eq!(rig.memory.calls(), [Call::Forget]);
    assert_eq!((rig.control.actual(), rig.control.is_active()), (0, false));
    // What is wanted of the guest outlives it.
    assert_eq!(rig.control.target(), 64 << 10);
    assert_eq!([0, 4, 8, 12].map(|offset| rig.config(offset)), [16, 0, 0, 0]);
    rig.driver.settle();
    assert_eq!(rig.memory.calls(), []);
    rig.handshake(0x3f);
    assert!(rig.control.is_active());
}

#[test]
fn telling_the_guest_first_would_be_seen() {
    crate::faults::during(crate::faults::Fault::TellFirst, || {
        let mut rig = Rig::start("", 0);
        let (at, len) = rig.numbers(&[FIRST]);
        rig.driver.post(INFLATE, &[Part::read(at, len)]);
        rig.driver.run();
        assert_ne!(rig.memory.timed(), [(Call::Inflate(vec![pages(0, 1)], Free), 0)]);
    });
}

#[test]
fn a_chain_that_is_given_back_twice_would_be_seen() {
    crate::faults::during(crate::faults::Fault::ReturnTwice, || {
        let mut rig = Rig::start("", MUST_TELL_HOST);
        let (at, len) = rig.numbers(&[FIRST]);
        rig.driver.post(INFLATE, &[Part::read(at, len)]);
        rig.driver.run();
        assert_ne!(rig.driver.used(INFLATE), [(0, 0)]);
    });
}
