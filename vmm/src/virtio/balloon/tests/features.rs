//! Every subset of the features.

use super::super::features::{FREE_PAGE_HINT, PAGE_POISON, PAGE_REPORTING, STATS_VQ};
use super::*;

#[test]
fn features_are_offered_as_configured() {
    for (config, expected) in [
        ("", 0b000001),
        ("must-tell-host=off", 0),
        ("stats=5", 0b000011),
        ("deflate-on-oom=on", 0b000101),
        // Poison comes with what it means something for.
        ("hint=on", 0b011001),
        ("report=on", 0b110001),
        (ALL, 0b111111),
    ] {
        let rig = Rig::new(config);
        assert_eq!(rig.driver.get(0x10) & 0x0fff_ffff, expected, "{config}");
        assert_eq!(rig.driver.get(8), 5);
    }
}

/// A driver with these features and queues gets the right answer on each of them.
fn every_queue_is_what_it_should_be(features: u64, hint: usize, report: usize, statistics: usize) {
    let mut rig = Rig::new(ALL);
    let mut queues = vec![INFLATE, DEFLATE];
    let optional = [(statistics, STATS_VQ), (hint, FREE_PAGE_HINT), (report, PAGE_REPORTING)];
    queues.extend(optional.iter().filter(|(_, bit)| features & bit != 0).map(|(queue, _)| queue));
    rig.driver.handshake_with(features, queues);
    rig.driver.settle();
    rig.memory.calls();
    let (at, len) = rig.numbers(&[FIRST]);
    rig.driver.post(INFLATE, &[Part::read(at, len)]);
    rig.driver.post(DEFLATE, &[Part::read(at, len)]);
    if features & STATS_VQ != 0 {
        let at = rig.driver.filled(&[5, 0, 1, 2, 0, 0, 0, 0, 0, 0]);
        rig.driver.post(statistics, &[Part::read(at, 10)]);
    }
    if features & FREE_PAGE_HINT != 0 {
        rig.control.hinting_start(false).unwrap();
        let command = rig.driver.filled(&rig.config(8).to_le_bytes());
        rig.driver.post(hint, &[Part::read(command, 4)]);
        rig.driver.post(hint, &[Part::write(pages(20, 1).start, 4096)]);
    }
    if features & PAGE_REPORTING != 0 {
        rig.driver.post(report, &[Part::write(pages(30, 1).start, 4096)]);
    }
    rig.driver.run();
    let calls = rig.memory.calls();
    let has = |call: &dyn Fn(&Call) -> bool| calls.iter().any(call);
    assert!(has(&|call| matches!(call, Call::Inflate(..))), "{features:#b}");
    assert!(has(&|call| matches!(call, Call::Deflate(..))), "{features:#b}");
    assert_eq!(has(&|call| *call == Call::Hint(vec![pages(20, 1)])), features & FREE_PAGE_HINT != 0);
    assert_eq!(has(&|call| *call == Call::Report(vec![pages(30, 1)])), features & PAGE_REPORTING != 0);
    let total = rig.control.statistics().unwrap().total_memory;
    assert_eq!(total, (features & STATS_VQ != 0).then_some(0x201), "{features:#b}");
}

#[test]
fn must_pass_10_every_subset_of_features_finds_its_queues() {
    for features in 0..64u64 {
        let after = |bits: u64| 2 + (features & bits).count_ones() as usize;
        every_queue_is_what_it_should_be(
            features,
            after(STATS_VQ),
            after(STATS_VQ | FREE_PAGE_HINT),
            after(0),
        );
        // The numbers as they stand in the specification.
        every_queue_is_what_it_should_be(features, 3, 4, 2);
    }
}

#[test]
fn without_the_feature_nothing_is_poisoned() {
    let mut rig = Rig::new(ALL);
    rig.set_config(12, 0xaaaa_aaaa);
    rig.handshake(PAGE_REPORTING);
    rig.driver.post(2, &[Part::write(BASE, 4096)]);
    rig.driver.run();
    assert_eq!(rig.memory.calls(), [Call::Report(vec![pages(0, 1)])]);
    assert_eq!(PAGE_POISON, 16);
}
