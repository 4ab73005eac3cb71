//! Free pages, when asked.

use super::super::features::{FREE_PAGE_HINT, PAGE_POISON};
use super::super::hinting::{DONE, STOP};
use super::*;

const QUEUE: usize = 2;

fn command(rig: &mut Rig, command: u32) {
    let at = rig.driver.filled(&command.to_le_bytes());
    rig.driver.post(QUEUE, &[Part::read(at, 4)]);
}

fn hint(rig: &mut Rig, page: u64) {
    rig.driver.post(QUEUE, &[Part::write(pages(page, 1).start, 4096)]);
}

#[test]
fn a_round_of_hints_begins_with_its_id_and_ends_with_a_stop() {
    for acknowledge in [true, false] {
        let mut rig = Rig::start("hint=on", FREE_PAGE_HINT);
        hint(&mut rig, 0);
        rig.control.hinting_start(acknowledge).unwrap();
        assert_eq!(rig.driver.interrupts(), 1);
        let id = rig.config(8);
        assert!(id > DONE);
        command(&mut rig, id + 1);
        hint(&mut rig, 1);
        command(&mut rig, id);
        hint(&mut rig, 2);
        hint(&mut rig, 3);
        command(&mut rig, STOP);
        hint(&mut rig, 4);
        rig.driver.run();
        assert_eq!(rig.memory.calls(), [Call::Hint(vec![pages(2, 1)]), Call::Hint(vec![pages(3, 1)])]);
        assert_eq!((rig.driver.used(QUEUE).len(), rig.memory.acknowledgements()), (8, 8));
        let status = rig.control.hinting_status().unwrap();
        let shown = if acknowledge { DONE } else { id };
        assert_eq!((status.host_cmd, status.guest_cmd, rig.config(8)), (shown, Some(STOP), shown));
        assert_eq!(rig.driver.get(0x60) & 2, 2);
    }
}

#[test]
fn hints_that_come_after_the_device_said_done_are_not_taken() {
    let mut rig = Rig::start("hint=on", FREE_PAGE_HINT);
    rig.control.hinting_start(false).unwrap();
    let id = rig.config(8);
    command(&mut rig, id);
    rig.driver.run();
    rig.control.hinting_stop().unwrap();
    assert_eq!(rig.config(8), DONE);
    hint(&mut rig, 1);
    rig.driver.run();
    assert_eq!(rig.memory.calls(), []);
    rig.control.hinting_start(false).unwrap();
    assert_ne!(rig.config(8), id);
}

#[test]
fn must_pass_6_pages_that_have_a_value_are_not_touched_by_hints() {
    let mut rig = Rig::new("hint=on");
    rig.driver.negotiate(1 << 32 | FREE_PAGE_HINT | PAGE_POISON);
    rig.set_config(12, 0xaaaa_aaaa);
    rig.driver.handshake(FREE_PAGE_HINT | PAGE_POISON);
    rig.driver.settle();
    rig.control.hinting_start(true).unwrap();
    let id = rig.config(8);
    command(&mut rig, id);
    hint(&mut rig, 1);
    rig.driver.run();
    assert_eq!((rig.memory.calls(), rig.driver.used(QUEUE).len()), (vec![], 2));
}

#[test]
fn must_pass_9_hints_that_make_no_sense_come_back() {
    let mut rig = Rig::start("hint=on", FREE_PAGE_HINT);
    rig.control.hinting_start(true).unwrap();
    let id = rig.config(8);
    command(&mut rig, id);
    let at = rig.driver.buffer(64);
    rig.driver.post(QUEUE, &[Part::read(at, 3)]);
    rig.driver.post(QUEUE, &[Part::read(0x10, 4)]);
    rig.driver.post(QUEUE, &[Part::read(at, 0)]);
    rig.driver.post(QUEUE, &[Part::write(at, 8), Part::read(at, 8)]);
    rig.driver.post(QUEUE, &[Part::write(u64::MAX - 1, u32::MAX)]);
    rig.driver.run();
    assert_eq!(rig.memory.calls(), [Call::Hint(vec![u64::MAX - 1..u64::MAX])]);
    assert_eq!(rig.driver.used(QUEUE).len(), 6);
}
