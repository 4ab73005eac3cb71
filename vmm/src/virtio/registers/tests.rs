use proptest::prelude::*;

use super::super::driver::{BASE, SIZE, ram};
use super::*;

const OFFERED: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1;

const ACKNOWLEDGED: u32 = 1;
const DRIVER: u32 = 3;
const FEATURES: u32 = 11;
const RUNNING: u32 = 15;

/// Everything that has a name, and some that don't.
fn offsets() -> impl Iterator<Item = u32> {
    (0..0x100).step_by(4)
}

fn negotiate(registers: &mut Registers, memory: &GuestMemory, features: u64) -> Effect {
    for (offset, value) in [
        (reg::VIRTIO_MMIO_STATUS, ACKNOWLEDGED),
        (reg::VIRTIO_MMIO_STATUS, DRIVER),
        (reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0),
        (reg::VIRTIO_MMIO_DRIVER_FEATURES, features as u32),
        (reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1),
        (reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> 32) as u32),
    ] {
        assert_eq!(registers.write(offset, value, memory), Effect::None, "{offset:#x}");
    }
    registers.write(reg::VIRTIO_MMIO_STATUS, FEATURES, memory)
}

/// Size, descriptor table, available ring, used ring; then ready.
fn set_up(registers: &mut Registers, memory: &GuestMemory, queue: (u32, u64, u64, u64)) -> Effect {
    let (size, descriptors, available, used) = queue;
    registers.write(reg::VIRTIO_MMIO_QUEUE_NUM, size, memory);
    for (offset, value) in [
        (reg::VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors),
        (reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, available),
        (reg::VIRTIO_MMIO_QUEUE_USED_LOW, used),
    ] {
        registers.write(offset, value as u32, memory);
        registers.write(offset + 4, (value >> 32) as u32, memory);
    }
    registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 1, memory)
}

const GOOD: (u32, u64, u64, u64) = (16, BASE, BASE + 0x1000, BASE + 0x2000);

fn running(memory: &GuestMemory) -> Registers {
    let mut registers = Registers::new(OFFERED, &[16, 16]);
    assert_eq!(negotiate(&mut registers, memory, OFFERED), Effect::None);
    assert_eq!(set_up(&mut registers, memory, GOOD), Effect::None);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, RUNNING, memory), Effect::Activate);
    registers
}

/// What no write may change while the device runs.
fn frozen(registers: &Registers) -> (u64, u64, Vec<QueueRegisters>) {
    (registers.offered, registers.accepted, registers.queues.clone())
}

#[test]
fn must_pass_13_nothing_but_a_reset_changes_a_running_device() {
    // CVE-2026-5747: queue registers that take effect after DRIVER_OK.
    let memory = ram();
    let before = running(&memory);
    for offset in offsets() {
        for selected in [0, 1, 2, u32::MAX] {
            for value in [1, 2, 8, 15, 16, 0x8000_1000, u32::MAX] {
                let mut registers = before.clone();
                registers.selected = selected;
                let effect = registers.write(offset, value, &memory);
                assert_eq!(frozen(&registers), frozen(&before), "{value:#x} to {offset:#x}");
                assert_ne!(effect, Effect::Activate, "{value:#x} to {offset:#x}");
            }
        }
    }
}

#[test]
fn queue_registers_wait_for_features_ok() {
    let memory = ram();
    for status in [0, ACKNOWLEDGED, DRIVER] {
        let mut registers = Registers::new(OFFERED, &[16]);
        registers.status = status;
        assert_eq!(set_up(&mut registers, &memory, GOOD), Effect::Refused);
        assert_eq!(registers.queues, Registers::new(OFFERED, &[16]).queues);
    }
}

#[test]
fn a_queue_that_is_not_ready_may_be_taken_away_at_any_time() {
    // As Linux does when a driver is unbound: after the reset.
    let memory = ram();
    for status in [0, ACKNOWLEDGED, DRIVER, FEATURES, RUNNING] {
        let mut registers = Registers::new(OFFERED, &[16]);
        registers.status = status;
        let before = registers.clone();
        assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 0, &memory), Effect::None);
        assert_eq!(registers, before);
    }
    let mut registers = running(&memory);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 0, &memory), Effect::Refused);
    registers.selected = 2;
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 0, &memory), Effect::Refused);
}

#[test]
fn a_ready_queue_is_not_described_again() {
    let memory = ram();
    let mut registers = Registers::new(OFFERED, &[16]);
    negotiate(&mut registers, &memory, OFFERED);
    set_up(&mut registers, &memory, GOOD);
    let before = registers.clone();
    for offset in offsets().filter(|offset| *offset >= reg::VIRTIO_MMIO_QUEUE_DESC_LOW) {
        assert_eq!(registers.write(offset, 0x8000_4000, &memory), Effect::Refused);
    }
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_NUM, 8, &memory), Effect::Refused);
    assert_eq!(registers, before);
    // Not ready any more: then it may.
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_READY, 0, &memory), Effect::None);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_QUEUE_NUM, 8, &memory), Effect::None);
}

#[test]
fn impossible_queues_make_the_device_need_a_reset() {
    let memory = ram();
    let end = BASE + SIZE;
    let (size, descriptors, available, used) = GOOD;
    let cases = [
        ("no entries", (0, descriptors, available, used)),
        ("more than offered", (32, descriptors, available, used)),
        ("no power of two", (12, descriptors, available, used)),
        ("beyond 16 bits", (0x1_0010, descriptors, available, used)),
        ("table not aligned", (size, descriptors + 8, available, used)),
        ("available ring not aligned", (size, descriptors, available + 1, used)),
        ("used ring not aligned", (size, descriptors, available, used + 2)),
        ("table before RAM", (size, 0, available, used)),
        ("table across the start", (size, BASE - 16, available, used)),
        ("available ring behind RAM", (size, descriptors, end, used)),
        ("used ring across the end", (size, descriptors, available, end - 16)),
        ("address wraps", (size, u64::MAX - 15, available, used)),
        ("address wraps in the used ring", (size, descriptors, available, u64::MAX - 3)),
        ("rings overlap", (size, descriptors, available, available + 4)),
        ("ring in the table", (size, descriptors, descriptors + 16, used)),
        ("all the same", (size, descriptors, descriptors, descriptors)),
    ];
    for (name, queue) in cases {
        let mut registers = Registers::new(OFFERED, &[16]);
        negotiate(&mut registers, &memory, OFFERED);
        assert_eq!(set_up(&mut registers, &memory, queue), Effect::Broken, "{name}");
        assert_eq!(registers.read(reg::VIRTIO_MMIO_QUEUE_READY), Some(0), "{name}");
        assert_eq!(registers.read(reg::VIRTIO_MMIO_STATUS), Some(FEATURES | 64), "{name}");
        assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, RUNNING, &memory), Effect::Refused, "{name}");
    }
}

#[test]
fn rings_may_touch_and_end_with_ram() {
    let memory = ram();
    let mut registers = Registers::new(OFFERED, &[16]);
    negotiate(&mut registers, &memory, OFFERED);
    let (used, available) = (BASE + SIZE - 136, BASE + SIZE - 136 - 40);
    assert_eq!(set_up(&mut registers, &memory, (16, BASE, available, used + 2)), Effect::Broken);
    registers.reset();
    negotiate(&mut registers, &memory, OFFERED);
    assert_eq!(set_up(&mut registers, &memory, (16, BASE, BASE + 256, used)), Effect::None);
    assert!(registers.queues(&memory)[0].is_some());
}

#[test]
fn features_need_version_1_and_an_offer() {
    let memory = ram();
    for (features, effect) in [
        (OFFERED, Effect::None),
        (1 << VIRTIO_F_VERSION_1, Effect::None),
        (0, Effect::Refused),
        (1, Effect::Refused),
        (OFFERED | 2, Effect::Refused),
        (u64::MAX, Effect::Refused),
    ] {
        let mut registers = Registers::new(OFFERED, &[16]);
        assert_eq!(negotiate(&mut registers, &memory, features), effect, "{features:#x}");
        let status = registers.read(reg::VIRTIO_MMIO_STATUS).unwrap();
        assert_eq!(status & VIRTIO_CONFIG_S_FEATURES_OK != 0, effect == Effect::None);
        // Declined features can be chosen again; taken ones stay.
        registers.write(reg::VIRTIO_MMIO_DRIVER_FEATURES, 0, &memory);
        assert_eq!(registers.accepted != features, features >> 32 != 0 && effect == Effect::Refused);
    }
}

#[test]
fn status_bits_come_in_order_and_are_not_taken_back() {
    let memory = ram();
    let mut registers = Registers::new(OFFERED, &[16]);
    for early in [DRIVER & !1, 4, 8, 12, RUNNING & !2] {
        assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, early & !1, &memory), Effect::Refused);
    }
    assert_eq!(registers.status, 0);
    negotiate(&mut registers, &memory, OFFERED);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, DRIVER, &memory), Effect::Refused);
    assert_eq!(registers.status, FEATURES);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, FEATURES | 128, &memory), Effect::None);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, RUNNING | 128, &memory), Effect::Refused);
    assert_eq!(registers.write(reg::VIRTIO_MMIO_STATUS, 0, &memory), Effect::Reset);
}

proptest! {
    #[test]
    fn must_pass_13_every_write_in_every_state(
        writes in proptest::collection::vec(
            (
                prop_oneof![0u32..0x40, Just(0x1cu32)].prop_map(|register| register * 4),
                prop_oneof![
                    Just(0u32), Just(1), Just(3), Just(11), Just(15), Just(16), Just(0x8000_0000),
                    Just(0x8000_1000), Just(0x8000_2000), Just(u32::MAX), any::<u32>(),
                ],
            ),
            0..400,
        ),
        started in any::<bool>(),
    ) {
        let memory = ram();
        let mut registers =
            if started { running(&memory) } else { Registers::new(OFFERED, &[16, 16]) };
        for (offset, value) in writes {
            let before = registers.clone();
            let effect = registers.write(offset, value, &memory);
            if effect == Effect::Reset {
                prop_assert_eq!(&registers, &before);
                registers.reset();
                prop_assert_eq!(&registers, &Registers::new(OFFERED, &[16, 16]));
                continue;
            }
            // Nothing is taken back but by a reset.
            prop_assert_eq!(registers.status & before.status, before.status);
            if effect == Effect::Refused && offset != reg::VIRTIO_MMIO_STATUS {
                prop_assert_eq!(&registers, &before);
            }
            if before.has(VIRTIO_CONFIG_S_FEATURES_OK) {
                prop_assert_eq!(registers.accepted, before.accepted);
            }
            if before.has(VIRTIO_CONFIG_S_DRIVER_OK) || before.is_lost() {
                prop_assert_eq!(frozen(&registers), frozen(&before));
                prop_assert!(effect != Effect::Activate);
            }
            if registers.has(VIRTIO_CONFIG_S_FEATURES_OK) {
                prop_assert!(registers.features_are_good());
            }
            // What is ready can be used.
            let ready = registers.queues.iter().filter(|queue| queue.ready).count();
            prop_assert_eq!(registers.queues(&memory).iter().flatten().count(), ready);
        }
    }
}
