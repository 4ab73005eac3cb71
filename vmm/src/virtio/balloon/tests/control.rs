//! The balloon from outside.

use super::super::{Error, HintingStatus, Statistics};
use super::*;

#[test]
fn a_new_target_is_shown_and_announced() {
    let mut rig = Rig::start("size=64K", 0);
    assert_eq!((rig.config(0), rig.control.target()), (16, 64 << 10));
    rig.control.set_target(1 << 20).unwrap();
    assert_eq!((rig.config(0), rig.driver.interrupts()), (256, 1));
    assert_eq!(rig.driver.get(0x60), 2);
    rig.set_config(4, 200);
    rig.driver.settle();
    assert_eq!((rig.control.actual(), rig.config(4)), (200 * 4096, 200));
    let config = rig.control.config();
    assert_eq!((config.size, config.must_tell_host), (1 << 20, true));
}

#[test]
fn a_target_that_is_none_is_refused_and_named() {
    let rig = Rig::start("", 0);
    let refusal = |bytes| rig.control.set_target(bytes).unwrap_err();
    assert_eq!(refusal(SIZE + 4096), Error::TooLarge { bytes: SIZE + 4096, memory: SIZE });
    assert_eq!(
        refusal(SIZE + 4096).to_string(),
        "a balloon of 1028K is larger than the guest's memory of 1M"
    );
    assert_eq!(refusal(u64::MAX), Error::TooLarge { bytes: u64::MAX, memory: SIZE });
    assert_eq!(refusal(4097), Error::NotPages { bytes: 4097 });
    assert_eq!((rig.control.target(), rig.driver.interrupts()), (0, 0));
}

#[test]
fn a_driver_that_comes_later_finds_what_was_asked_before() {
    let mut rig = Rig::new("");
    rig.control.set_target(8192).unwrap();
    assert_eq!(rig.driver.interrupts(), 0);
    rig.driver.handshake(0);
    rig.driver.settle();
    // It may have looked before the last change: it is told to look again.
    assert_eq!((rig.config(0), rig.driver.interrupts()), (2, 1));
}

#[test]
fn must_pass_11_a_guest_without_a_driver_hangs_nobody() {
    let mut rig = Rig::new(ALL);
    let control = rig.control.clone();
    for _ in 0..2 {
        control.set_target(4096).unwrap();
        assert_eq!((control.actual(), control.is_active()), (0, false));
        assert_eq!(control.statistics().unwrap(), Statistics::default());
        control.set_statistics_interval(7).unwrap();
        assert_eq!(control.statistics_interval(), 7);
        assert_eq!(control.hinting_start(true), Err(Error::NoDriver));
        assert_eq!(control.hinting_stop(), Err(Error::NoDriver));
        assert_eq!(control.hinting_status().unwrap(), HintingStatus::default());
        // Nor do the device's own events find anything to wait for.
        rig.tick();
        // Half way through, and no further.
        rig.driver.negotiate(1 << 32);
        rig.driver.settle();
    }
    assert_eq!(rig.memory.calls(), []);
    rig.driver.transport.reset();
}

#[test]
fn what_the_device_does_not_offer_is_an_error_that_says_so() {
    let rig = Rig::start("", 0);
    assert_eq!(rig.control.statistics(), Err(Error::NoStatistics));
    assert_eq!(rig.control.set_statistics_interval(5), Err(Error::StatisticsSwitch { now: 0, asked: 5 }));
    for refused in [rig.control.hinting_start(true), rig.control.hinting_stop()] {
        assert_eq!(refused, Err(Error::NoHinting));
    }
    assert_eq!(rig.control.hinting_status(), Err(Error::NoHinting));
    let rig = Rig::start(ALL, 0);
    assert_eq!(rig.control.hinting_start(true), Err(Error::DriverLacksHinting));
    assert_eq!(rig.control.set_statistics_interval(0), Err(Error::StatisticsSwitch { now: 1, asked: 0 }));
    assert_eq!(rig.control.set_statistics_interval(65536), Err(Error::TooSeldom { seconds: 65536 }));
}
