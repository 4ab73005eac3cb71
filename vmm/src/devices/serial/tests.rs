use std::fs;

use proptest::prelude::*;
use vmm_sys_util::tempdir::TempDir;

use crate::config::ConsoleConfig;
use crate::devices::console::output::Full;

use super::*;

const INTERRUPT_ENABLE: u64 = 1;
const LINE_STATUS: u64 = 5;

fn null() -> Arc<Serial> {
    Serial::new(Console::open(&ConsoleConfig::Null).unwrap(), Arc::default()).unwrap()
}

fn read(serial: &Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

#[test]
fn sent_bytes_reach_the_console_and_the_first_is_noted() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("log");
    let first = Arc::new(OnceLock::new());
    let serial =
        Serial::new(Console::open(&ConsoleConfig::File(path.clone())).unwrap(), first.clone()).unwrap();
    assert!(first.get().is_none());
    for byte in *b"hello" {
        serial.write(DATA, &[byte]);
    }
    let noted = *first.get().unwrap();
    serial.write(DATA, b"!");
    assert_eq!(first.get(), Some(&noted));
    serial.finish(Duration::from_secs(60));
    assert_eq!(fs::read(&path).unwrap(), b"hello!");
}

#[test]
fn received_bytes_raise_the_interrupt_and_are_read_in_order() {
    let serial = null();
    serial.write(INTERRUPT_ENABLE, &[1]);
    assert!(serial.interrupt_event().read().is_err());
    assert_eq!(serial.receive(b"ab"), 2);
    assert_eq!(serial.interrupt_event().read().unwrap(), 1);
    assert_eq!(read(&serial, LINE_STATUS) & 1, 1);
    assert_eq!([read(&serial, DATA), read(&serial, DATA)], *b"ab");
    assert_eq!(read(&serial, LINE_STATUS) & 1, 0);
}

#[test]
fn a_full_port_takes_no_more_and_says_when_it_is_empty() {
    let serial = null();
    assert_eq!(serial.receive(&[b'x'; 100]), 64);
    assert_eq!(serial.receive(b"y"), 0);
    for _ in 0..64 {
        assert!(serial.room_event().read().is_err());
        assert_eq!(read(&serial, DATA), b'x');
    }
    assert_eq!(serial.room_event().read().unwrap(), 1);
    assert_eq!(serial.capacity(), 64);
}

#[test]
fn input_waits_while_the_port_loops_back() {
    let serial = null();
    serial.write(MODEM_CONTROL, &[0x10]);
    assert_eq!(serial.receive(b"typed"), 0);
    serial.write(MODEM_CONTROL, &[0]);
    assert_eq!(serial.room_event().read().unwrap(), 1);
    assert_eq!(serial.receive(b"typed"), 5);
}

#[test]
fn reset_empties_the_port_and_its_registers() {
    let serial = null();
    serial.write(INTERRUPT_ENABLE, &[3]);
    serial.write(7, &[0x5a]);
    assert_eq!(serial.receive(&[b'x'; 65]), 64);
    serial.reset();
    assert_eq!([read(&serial, INTERRUPT_ENABLE), read(&serial, 7), read(&serial, DATA)], [0; 3]);
    assert_eq!(serial.room_event().read().unwrap(), 1);
}

#[test]
fn who_prints_waits_again_after_a_reset() {
    let (reader, writer) = io::pipe().unwrap();
    let mut console = Console::open(&ConsoleConfig::Null).unwrap();
    console.output = Output::start(std::os::fd::OwnedFd::from(writer).into(), Full::Waits, None).unwrap();
    let serial = Serial::new(console, Arc::default()).unwrap();
    // More than a pipe and the buffer hold, with nobody to read it.
    serial.stop();
    for _ in 0..1 << 18 {
        serial.write(DATA, b"x");
    }
    assert!(serial.output().dropped() > 0);
    serial.reset();
    let before = serial.output().dropped();
    let printer = serial.clone();
    let waits = std::thread::spawn(move || printer.write(DATA, b"!"));
    // It is let go because there is a reader now, and nothing is dropped.
    let drain = std::thread::spawn(move || io::copy(&mut { reader }, &mut io::sink()));
    waits.join().unwrap();
    serial.finish(Duration::from_secs(60));
    assert_eq!(serial.output().dropped(), before);
    drop(serial);
    drain.join().unwrap().unwrap();
}

proptest! {
    #[test]
    fn no_access_panics_and_wide_ones_do_nothing(
        accesses in proptest::collection::vec((0u64..300, 1usize..9, any::<[u8; 8]>(), any::<bool>()), 0..200),
    ) {
        let serial = null();
        for (offset, len, bytes, typed) in accesses {
            serial.write(offset, &bytes[..len]);
            if typed {
                serial.receive(&bytes[..len]);
            }
            let mut data = vec![0; len];
            serial.read(offset, &mut data);
            if len > 1 {
                prop_assert_eq!(data, vec![0; len]);
            }
        }
    }
}
