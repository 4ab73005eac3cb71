use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use event_manager::{EventManager, SubscriberOps};

use crate::config::ConsoleConfig;
use crate::devices::bus::MmioDevice;
use crate::devices::console::Console;

use super::*;

/// A device thread's event manager with nothing on it but a console's input.
struct Bench {
    serial: Arc<Serial>,
    manager: EventManager<SerialInput>,
    quit: EventFd,
}

impl Bench {
    fn new(file: File, is_terminal: bool) -> Self {
        let mut console = Console::open(&ConsoleConfig::Null).unwrap();
        console.source = Some(Source { file, is_terminal });
        let serial = Serial::new(console, Arc::default()).unwrap();
        let (input, quit) = SerialInput::new(serial.clone()).unwrap();
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(input);
        Self { serial, manager, quit }
    }

    fn piped(is_terminal: bool) -> (Self, File) {
        let (reader, writer) = io::pipe().unwrap();
        (Self::new(OwnedFd::from(reader).into(), is_terminal), File::from(OwnedFd::from(writer)))
    }

    /// Handles what is there; returns how many events there were.
    fn run(&mut self) -> usize {
        let mut count = 0;
        // More rounds than any test needs: where they don't suffice, it is a busy loop.
        for _ in 0..100 {
            match self.manager.run_with_timeout(0).unwrap() {
                0 => return count,
                events => count += events,
            }
        }
        panic!("events without end");
    }

    /// What the guest reads until the port has no more, the device thread running in between.
    fn guest_reads(&mut self) -> Vec<u8> {
        let mut seen = Vec::new();
        loop {
            self.run();
            let mut status = [0];
            self.serial.read(5, &mut status);
            if status[0] & 1 == 0 {
                return seen;
            }
            let mut byte = [0];
            self.serial.read(0, &mut byte);
            seen.push(byte[0]);
        }
    }
}

#[test]
fn more_input_than_the_port_holds_arrives_whole_and_in_order() {
    let (mut bench, mut writer) = Bench::piped(false);
    let sent: Vec<u8> = (0..1000u32).map(|n| n as u8).collect();
    writer.write_all(&sent).unwrap();
    assert_eq!(bench.guest_reads(), sent);
}

#[test]
fn a_full_port_does_not_keep_the_device_thread_busy() {
    let (mut bench, mut writer) = Bench::piped(false);
    writer.write_all(&[b'x'; 500]).unwrap();
    bench.run();
    assert_eq!(bench.run(), 0);
    // Not even when the other end hangs up, which epoll reports to whoever watches.
    drop(writer);
    assert_eq!(bench.run(), 0);
    assert_eq!(bench.guest_reads(), vec![b'x'; 500]);
    assert_eq!(bench.run(), 0);
}

#[test]
fn the_end_of_a_pipe_ends_input_and_nothing_else() {
    let (mut bench, mut writer) = Bench::piped(false);
    writer.write_all(b"last").unwrap();
    drop(writer);
    assert_eq!(bench.guest_reads(), b"last");
    assert_eq!(bench.run(), 0);
    assert!(bench.quit.read().is_err());
}

#[test]
fn a_regular_file_is_read_though_epoll_does_not_take_it() {
    let mut file = vmm_sys_util::tempfile::TempFile::new().unwrap().into_file();
    let sent: Vec<u8> = (0..300u32).map(|n| n as u8).collect();
    file.write_all(&sent).unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let mut bench = Bench::new(file, false);
    assert_eq!(bench.guest_reads(), sent);
    assert_eq!(bench.run(), 0);
    let mut bench = Bench::new(File::open("/dev/null").unwrap(), false);
    assert_eq!(bench.guest_reads(), b"");
}

#[test]
fn ctrl_a_x_quits_where_a_person_types() {
    let (mut bench, mut writer) = Bench::piped(true);
    writer.write_all(b"ls\x01").unwrap();
    assert_eq!(bench.guest_reads(), b"ls");
    assert!(bench.quit.read().is_err());
    writer.write_all(b"x").unwrap();
    assert_eq!(bench.guest_reads(), b"");
    assert_eq!(bench.quit.read().unwrap(), 1);
}

#[test]
fn ctrl_a_is_a_byte_like_any_other_in_a_pipe() {
    let (mut bench, mut writer) = Bench::piped(false);
    writer.write_all(b"\x01x").unwrap();
    assert_eq!(bench.guest_reads(), b"\x01x");
    assert!(bench.quit.read().is_err());
}

#[test]
fn ctrl_a_x_quits_though_the_guest_reads_nothing() {
    let (mut bench, mut writer) = Bench::piped(true);
    let typed = [b'?'; 1000];
    writer.write_all(&typed).unwrap();
    writer.write_all(b"\x01x").unwrap();
    bench.run();
    assert_eq!(bench.quit.read().unwrap(), 1);
    assert_eq!(bench.guest_reads(), typed);
}

#[test]
fn what_is_typed_ahead_has_a_limit_and_loses_nothing() {
    let (mut bench, mut writer) = Bench::piped(true);
    // As much as is read ahead, then some that stays in the pipe.
    let typed: Vec<u8> = (0..AHEAD + AHEAD / 2).map(|n| n as u8 | 2).collect();
    let (ahead, behind) = typed.split_at(AHEAD);
    for part in [ahead, behind] {
        writer.write_all(part).unwrap();
        bench.run();
    }
    writer.write_all(b"\x01x").unwrap();
    assert_eq!(bench.run(), 0);
    assert!(bench.quit.read().is_err());
    assert_eq!(bench.guest_reads(), typed);
    assert_eq!(bench.quit.read().unwrap(), 1);
}
