//! Pause, resume and stop, and a guest that does things of its own meanwhile.

use std::sync::atomic::Ordering;
use std::thread;

use quire::config::VmConfig;
use quire::machine::control::{Control, Error, State};

use api::machine::{ClockEvent, End, Machine};

/// Looks, for a while, at vCPUs that must not run.
fn assert_nobody_runs(machine: &Machine) {
    machine.world.must_stand.store(true, Ordering::SeqCst);
    let before = machine.world.steps.load(Ordering::SeqCst);
    for _ in 0..200 {
        thread::yield_now();
    }
    assert_eq!(machine.world.steps.load(Ordering::SeqCst), before);
    machine.world.must_stand.store(false, Ordering::SeqCst);
    assert_eq!(machine.world.violations.load(Ordering::SeqCst), 0);
}

#[test]
fn no_vcpu_runs_between_paused_and_resumed() {
    let machine = Machine::start(4);
    for _ in 0..200 {
        machine.control.pause().unwrap();
        assert_eq!(machine.control.state(), State::Paused);
        assert_nobody_runs(&machine);
        machine.control.resume().unwrap();
        assert_eq!(machine.control.state(), State::Running);
        machine.wait_for_steps();
    }
}

#[test]
fn the_counter_stands_still_from_the_last_stop_to_the_first_start() {
    let machine = Machine::start(3);
    for _ in 0..50 {
        machine.control.pause().unwrap();
        let stood_at = machine.world.steps.load(Ordering::SeqCst);
        machine.control.resume().unwrap();
        machine.wait_for_steps();
        let events = std::mem::take(&mut *machine.world.clock.lock().unwrap());
        assert_eq!(events, [ClockEvent::Read(stood_at), ClockEvent::Set(stood_at)]);
    }
}

#[test]
fn what_is_so_already_stays_so() {
    let machine = Machine::start(2);
    machine.control.resume().unwrap();
    machine.control.pause().unwrap();
    machine.control.pause().unwrap();
    assert_nobody_runs(&machine);
    machine.control.resume().unwrap();
    machine.control.resume().unwrap();
    machine.wait_for_steps();
}

#[test]
fn a_reset_that_races_with_a_pause_ends_paused() {
    let machine = Machine::start(3);
    for round in 1..=100 {
        machine.wish(End::Reset);
        machine.control.pause().unwrap();
        // The reset may have come first, and then it waits; or last, and then the new VM stands.
        assert_eq!(machine.control.state(), State::Paused);
        machine.control.resume().unwrap();
        while machine.world.power_ons.load(Ordering::SeqCst) <= round {
            thread::yield_now();
        }
        machine.wait_for_steps();
        assert_eq!(machine.control.state(), State::Running);
    }
}

#[test]
fn a_machine_that_powers_off_while_it_is_asked_to_pause_says_so() {
    for _ in 0..50 {
        let machine = Machine::start(1);
        machine.wish(End::PowerOff);
        // Either was first.
        match machine.control.pause() {
            Ok(()) => machine.control.resume().unwrap_or(()),
            Err(error) => assert_eq!(error, Error::Ended),
        }
        let control = machine.control.clone();
        assert_eq!(machine.join(), "power-off");
        assert_eq!(control.pause(), Err(Error::Ended));
        assert_eq!(control.resume(), Err(Error::Ended));
        assert_eq!(control.stop(), Err(Error::Ended));
    }
}

#[test]
fn a_paused_machine_stops() {
    let machine = Machine::start(4);
    machine.control.pause().unwrap();
    machine.control.stop().unwrap();
    assert_eq!(machine.join(), "asked");
}

#[test]
fn a_machine_that_stops_takes_no_pause() {
    let control = Control::new(VmConfig::default()).unwrap();
    let gate = control.gate(1);
    control.stop().unwrap();
    assert_eq!(control.pause(), Err(Error::Stopping));
    drop(gate);
}

#[test]
fn there_is_nothing_to_pause_before_the_guest_has_started() {
    let control = Control::new(VmConfig::default()).unwrap();
    assert_eq!(control.state(), State::NotStarted);
    assert_eq!(control.pause(), Err(Error::NotStarted));
    assert_eq!(control.resume(), Err(Error::NotStarted));
}

#[test]
fn a_pause_that_is_taken_back_meanwhile_is_told() {
    let control = Control::new(VmConfig::default()).unwrap();
    // One vCPU that never comes to the gate.
    let gate = control.gate(1);
    thread::scope(|scope| {
        let pausing = scope.spawn(|| control.pause());
        while !gate.is_closed() {
            control.attend(&gate);
            thread::yield_now();
        }
        let resuming = scope.spawn(|| control.resume());
        while gate.is_closed() {
            control.attend(&gate);
            thread::yield_now();
        }
        assert_eq!(resuming.join().unwrap(), Ok(()));
        assert_eq!(pausing.join().unwrap(), Err(Error::Overtaken(State::Running)));
    });
}

#[test]
fn many_who_ask_at_once_all_get_an_answer() {
    let machine = Machine::start(2);
    thread::scope(|scope| {
        for asker in 0..8 {
            let control = machine.control.clone();
            scope.spawn(move || {
                for _ in 0..100 {
                    let answer = if asker % 2 == 0 { control.pause() } else { control.resume() };
                    assert!(matches!(answer, Ok(()) | Err(Error::Overtaken(_))), "{answer:?}");
                }
            });
        }
    });
    machine.control.resume().unwrap();
    machine.wait_for_steps();
}
