//! What the guest says about its memory.

use super::super::Statistics;
use super::super::features::STATS_VQ;
use super::*;

const QUEUE: usize = 2;

fn entries(entries: &[(u16, u64)]) -> Vec<u8> {
    entries.iter().flat_map(|(tag, value)| [&tag.to_le_bytes()[..], &value.to_le_bytes()].concat()).collect()
}

/// Posts an answer.
fn answer(rig: &mut Rig, bytes: &[u8]) -> u16 {
    let at = rig.driver.filled(bytes);
    let head = rig.driver.post(QUEUE, &[Part::read(at, bytes.len() as u32)]);
    rig.driver.run();
    head
}

#[test]
fn every_tag_of_virtio_1_3_has_its_field() {
    let mut rig = Rig::start("stats=1", STATS_VQ);
    let all: Vec<_> = (0..16).map(|tag| (tag, 100 + u64::from(tag))).collect();
    answer(&mut rig, &entries(&all));
    let statistics = rig.control.statistics().unwrap();
    assert!(statistics.last_update.is_some());
    let expected = Statistics {
        last_update: statistics.last_update,
        swap_in: Some(100),
        swap_out: Some(101),
        major_faults: Some(102),
        minor_faults: Some(103),
        free_memory: Some(104),
        total_memory: Some(105),
        available_memory: Some(106),
        disk_caches: Some(107),
        hugetlb_allocations: Some(108),
        hugetlb_failures: Some(109),
        oom_kill: Some(110),
        alloc_stall: Some(111),
        async_scan: Some(112),
        direct_scan: Some(113),
        async_reclaim: Some(114),
        direct_reclaim: Some(115),
    };
    assert_eq!(statistics, expected);
}

#[test]
fn an_answer_is_kept_until_the_next_is_wanted() {
    let mut rig = Rig::start("stats=1", STATS_VQ);
    // Nothing to ask with.
    rig.tick();
    let first = answer(&mut rig, &entries(&[(4, 1)]));
    assert_eq!(rig.driver.used(QUEUE), []);
    rig.driver.interrupts();
    rig.tick();
    assert_eq!(rig.driver.used(QUEUE), [(first, 0)]);
    assert_eq!(rig.driver.interrupts(), 1);
    // The guest takes its time.
    rig.tick();
    assert_eq!(rig.driver.used(QUEUE), []);
    assert_eq!(rig.control.statistics().unwrap().free_memory, Some(1));
    // What it doesn't say any more is not made up from what it said before.
    let second = answer(&mut rig, &entries(&[(5, 2)]));
    rig.tick();
    assert_eq!(rig.driver.used(QUEUE), [(second, 0)]);
    let statistics = rig.control.statistics().unwrap();
    assert_eq!((statistics.free_memory, statistics.total_memory), (None, Some(2)));
}

#[test]
fn a_driver_that_answers_before_it_is_asked_or_ready_is_heard() {
    // Linux puts its first answer into the queue before DRIVER_OK.
    let mut rig = Rig::new("stats=1");
    rig.driver.negotiate(1 << 32 | STATS_VQ);
    for queue in 0..3 {
        rig.driver.set_up(queue);
    }
    answer(&mut rig, &entries(&[(4, 9)]));
    assert_eq!(rig.control.statistics().unwrap().free_memory, None);
    rig.driver.set(0x70, 15);
    rig.driver.settle();
    assert_eq!(rig.control.statistics().unwrap().free_memory, Some(9));
}

#[test]
fn must_pass_9_of_several_answers_all_but_the_last_come_back() {
    let mut rig = Rig::start("stats=1", STATS_VQ);
    let heads: Vec<_> = (0..5).map(|value| answer(&mut rig, &entries(&[(4, value)]))).collect();
    let back: Vec<_> = rig.driver.used(QUEUE).into_iter().map(|(head, _)| head).collect();
    assert_eq!(back, heads[..4]);
    rig.tick();
    assert_eq!(rig.driver.used(QUEUE), [(heads[4], 0)]);
    assert_eq!(rig.control.statistics().unwrap().free_memory, Some(4));
}

#[test]
fn must_pass_8_an_answer_of_any_length_is_read_as_far_as_it_makes_sense() {
    let mut rig = Rig::start("stats=1", STATS_VQ);
    let statistics = |rig: &Rig| {
        let statistics = rig.control.statistics().unwrap();
        (statistics.free_memory, statistics.total_memory)
    };
    // Odd lengths, unknown tags, a tag twice.
    answer(&mut rig, &[entries(&[(4, 1), (77, 2), (u16::MAX, 3), (4, 5)]), vec![5, 0, 1]].concat());
    assert_eq!(statistics(&rig), (Some(5), None));
    answer(&mut rig, &[]);
    assert_eq!(statistics(&rig), (None, None));
    // More than anybody has to say.
    let many: Vec<_> = (0..5000).map(|at| (if at == 0 { 5 } else { 4 }, at)).collect();
    answer(&mut rig, &entries(&many));
    assert_eq!(statistics(&rig), (Some(63), Some(0)));
    // Nowhere, and everywhere.
    for (at, len) in [(0x10, 20), (BASE + SIZE - 5, 20), (BASE, u32::MAX), (u64::MAX, u32::MAX)] {
        rig.driver.post(QUEUE, &[Part::read(at, len)]);
        rig.driver.run();
    }
    assert_eq!(rig.driver.used(QUEUE).len(), 6);
    assert_eq!(rig.driver.get(0x70), 15);
}
