//! Guests that mean no good.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{Bytes, GuestAddress};

use super::super::memory::Contract::Free;
use super::*;
use crate::devices::MmioDevice;

#[test]
fn must_pass_7_page_numbers_outside_memory_hurt_nobody() {
    let mut rig = Rig::start("", 0);
    let numbers = [0, 1, FIRST - 1, FIRST + 256, u32::MAX, u32::MAX - 1, FIRST];
    let (at, len) = rig.numbers(&numbers);
    for queue in [INFLATE, DEFLATE] {
        rig.driver.post(queue, &[Part::read(at, len)]);
    }
    rig.driver.run();
    let ranges = vec![
        0..0x2000,
        BASE - 0x1000..BASE,
        BASE + SIZE..BASE + SIZE + 0x1000,
        0xfff_ffff_e000..0x1000_0000_0000,
        pages(0, 1),
    ];
    assert_eq!(rig.memory.calls(), [Call::Inflate(ranges.clone(), Free), Call::Deflate(ranges)]);
    assert_eq!((rig.driver.used(INFLATE).len(), rig.driver.used(DEFLATE).len()), (1, 1));
    assert_eq!(rig.driver.get(0x70), 15);
}

#[test]
fn must_pass_7_an_actual_size_that_is_none_is_no_underflow() {
    let rig = Rig::start("size=64K", 0);
    for actual in [0, 15, 17, 0x8000_0000, u32::MAX] {
        rig.set_config(4, actual);
        assert_eq!(rig.control.actual(), (u64::from(actual) * 4096).min(SIZE));
        assert_eq!(rig.config(4), actual);
    }
    rig.control.set_target(0).unwrap();
    assert_eq!(rig.control.target(), 0);
}

#[test]
fn must_pass_7_config_accesses_of_any_place_and_length_stay_within() {
    let rig = Rig::start(ALL, 0x3f);
    let before = [0, 4, 8, 12].map(|offset| rig.config(offset));
    let config = |offset: u64| 0x100u64.wrapping_add(offset);
    for offset in (0..32).chain([0xf8, u64::MAX - 0x110, u64::MAX - 0x100]) {
        for len in [1, 2, 3, 4, 5, 8, 16, 300] {
            if (offset, len) != (4, 4) {
                rig.driver.transport.write(config(offset), &vec![0xff; len]);
            }
            let mut data = vec![0xee; len];
            rig.driver.transport.read(config(offset), &mut data);
        }
    }
    assert_eq!([0, 4, 8, 12].map(|offset| rig.config(offset)), before);
}

#[test]
fn must_pass_8_a_list_without_end_is_read_as_far_as_there_can_be_pages() {
    let mut rig = Rig::start("", 0);
    // 256 descriptors that each name all of RAM as page numbers: 64 Mi of them.
    let whole = vec![Part::read(BASE, SIZE as u32); 256];
    rig.driver.post(INFLATE, &whole);
    rig.driver.run();
    assert_eq!(rig.driver.used(INFLATE).len(), 1);
    let named: u64 = rig
        .memory
        .calls()
        .iter()
        .map(|call| match call {
            Call::Inflate(ranges, _) => ranges.iter().map(|range| range.end - range.start).sum(),
            _ => 0,
        })
        .sum();
    assert_eq!(named, SIZE);
    // Not in memory, or not all of it.
    for (at, len) in [(BASE, u32::MAX), (0, 4096), (u64::MAX, 4), (BASE + SIZE - 4, 8)] {
        rig.driver.post(INFLATE, &[Part::read(at, len)]);
        rig.driver.run();
        assert_eq!(rig.driver.used(INFLATE).len(), 1);
    }
}

#[test]
fn must_pass_9_chains_that_are_none_come_back_and_do_nothing() {
    let mut rig = Rig::start(ALL, 0x3f);
    let at = rig.driver.buffer(0x1000);
    for queue in 0..5 {
        let endless = Part { flags: 1, ..Part::read(at, 8) };
        rig.driver.describe(queue, 255, endless, 255);
        rig.driver.offer(queue, 255);
        rig.driver.post(queue, &[Part::indirect(at, 17)]);
        rig.driver.post(queue, &[Part::write(at, 4096), Part::read(at, 4096)]);
    }
    rig.driver.run();
    assert_eq!(rig.memory.calls(), []);
    for queue in [0, 1, 3, 4] {
        let heads: Vec<_> = rig.driver.used(queue).into_iter().map(|(head, _)| head).collect();
        assert_eq!(heads, [255, 0, 1], "queue {queue}");
    }
    // One is an answer, if one without statistics: the last is kept.
    assert_eq!(rig.driver.used(2).len(), 2);
}

#[test]
fn must_pass_8_an_available_index_beyond_the_queue_costs_the_device_and_its_balloon() {
    for queue in 0..5 {
        let mut rig = Rig::start(ALL, 0x3f);
        let (_, available, _) = rig.driver.rings(queue);
        rig.driver.memory.write_obj(257u16, GuestAddress(available + 2)).unwrap();
        rig.driver.run();
        assert_eq!(rig.driver.get(0x70), 15 | 64, "queue {queue}");
        assert_eq!(rig.memory.calls().last(), Some(&Call::Forget));
        assert!(!rig.control.is_active());
        rig.tick();
        // A reset is all it takes.
        rig.driver.set(0x70, 0);
        rig.handshake(0x3f);
        let (at, len) = rig.numbers(&[FIRST]);
        rig.driver.post(INFLATE, &[Part::read(at, len)]);
        rig.driver.run();
        assert_eq!(rig.driver.used(INFLATE).len(), 1);
    }
}

#[test]
fn the_ring_going_bad_while_statistics_are_kept_costs_the_device_at_the_next_question() {
    let mut rig = Rig::start(ALL, 0x3f);
    let at = rig.driver.buffer(16);
    rig.driver.post(2, &[Part::read(at, 10)]);
    rig.driver.run();
    rig.driver.set(0x70, 0);
    // The kept head went with its driver: the next driver gets nothing that it didn't send.
    rig.handshake(0x3f);
    rig.tick();
    assert_eq!(rig.driver.used(2), []);
    assert_eq!(Arc::strong_count(&rig.memory), 2);
}

proptest! {
    #[test]
    fn must_pass_9_whatever_is_posted_comes_back_once(
        chains in proptest::collection::vec(
            (
                0usize..5,
                proptest::collection::vec(
                    (
                        prop_oneof![0..SIZE, Just(SIZE - 2), any::<u64>()],
                        prop_oneof![0u32..64, Just(4096), any::<u32>()],
                        any::<bool>(),
                    ),
                    1..6,
                ),
            ),
            0..40,
        ),
        content in proptest::collection::vec(any::<u8>(), 256),
    ) {
        let mut rig = Rig::start(ALL, 0x3f);
        rig.control.hinting_start(true).unwrap();
        rig.driver.filled(&content);
        let mut posted = [0; 5];
        for (queue, parts) in chains {
            let part = |(at, len, write): (u64, u32, bool)| {
                let at = if at <= SIZE { 0x8002_0000 + at } else { at };
                if write { Part::write(at, len) } else { Part::read(at, len) }
            };
            rig.driver.post(queue, &parts.into_iter().map(part).collect::<Vec<_>>());
            posted[queue] += 1;
        }
        rig.driver.run();
        // One answer is kept.
        rig.tick();
        for (queue, posted) in posted.into_iter().enumerate() {
            prop_assert_eq!(rig.driver.used(queue).len(), posted, "queue {}", queue);
        }
        prop_assert_eq!(rig.driver.get(0x70), 15);
    }
}
