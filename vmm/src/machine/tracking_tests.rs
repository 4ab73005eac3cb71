//! Tracking, with a log that a test writes and memory of this process.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use vm_memory::{Bytes, GuestAddress};

use super::*;
use crate::config::{Backing, BlockSize, MemoryConfig};

const BASE: u64 = 1 << 30;
const MIB: u64 = 1 << 20;

/// A log that says what a test has put in, once; and how many of its kind are on.
#[derive(Debug, Default)]
struct Kvm {
    written: Mutex<Vec<Range<u64>>>,
    on: AtomicUsize,
}

#[derive(Debug)]
struct Log(Arc<Kvm>);

impl DirtyLog for Log {
    fn take(&self, _: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        std::mem::take(&mut *self.0.written.lock().unwrap()).into_iter().for_each(visit);
        Ok(())
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.on.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Kvm {
    /// What the machine hands in for a VM of it.
    fn start(self: &Arc<Self>) -> StartLog {
        let kvm = Arc::clone(self);
        Box::new(move || {
            kvm.on.fetch_add(1, Ordering::SeqCst);
            Ok(Arc::new(Log(Arc::clone(&kvm))))
        })
    }

    fn logs(&self) -> usize {
        self.on.load(Ordering::SeqCst)
    }
}

/// Memory in 4K pages, the first MiB of which holds something.
fn tracking(track: &str, backing: Backing) -> (Result<Tracking, Error>, GuestRam) {
    let config =
        MemoryConfig { size: 16 * MIB, block: BlockSize::Size4K, backing, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let tracking = Tracking::new(track.parse().unwrap(), &ram, Ledger::new(&ram).unwrap());
    write(&ram, BASE, MIB);
    (tracking, ram)
}

fn write(ram: &GuestRam, at: u64, bytes: u64) {
    ram.memory().write_slice(&vec![1; bytes as usize], GuestAddress(at)).unwrap();
}

#[test]
fn without_a_log_nothing_is_collected_and_without_a_vm_there_is_no_log() {
    let (tracking, _ram) = tracking("dirty=off", Backing::Anon);
    let tracking = tracking.unwrap();
    assert!(matches!(tracking.collect(), Err(Error::NotLogged)));
    assert!(matches!(tracking.log(true), Err(Error::NotRunning)));
    assert!(!tracking.state().dirty);
    // What is so already is left so.
    tracking.log(false).unwrap();
}

#[test]
fn what_was_written_is_collected_once() {
    let (tracking, ram) = tracking("dirty=off", Backing::Anon);
    let (tracking, kvm) = (tracking.unwrap(), Arc::new(Kvm::default()));
    tracking.powered_on(kvm.start()).unwrap();
    assert_eq!(kvm.logs(), 0);
    tracking.log(true).unwrap();
    assert_eq!((kvm.logs(), tracking.state().dirty), (1, true));
    assert_eq!(tracking.collect().unwrap(), Collected { dirty: MIB, clean: 0 });
    assert_eq!(tracking.collect().unwrap(), Collected { dirty: 0, clean: MIB });
    kvm.written.lock().unwrap().push(BASE..BASE + MIB / 2);
    assert_eq!(tracking.collect().unwrap(), Collected { dirty: MIB / 2, clean: MIB / 2 });
    // A device, to memory that held nothing.
    write(&ram, BASE + 8 * MIB, MIB);
    assert_eq!(tracking.collect().unwrap(), Collected { dirty: MIB, clean: MIB });
    tracking.log(false).unwrap();
    assert_eq!(kvm.logs(), 0);
    assert!(matches!(tracking.collect(), Err(Error::NotLogged)));
}

#[test]
fn a_reset_makes_everything_dirty_and_the_next_vm_is_logged_as_well() {
    let (tracking, _ram) = tracking("dirty=on", Backing::Anon);
    let (tracking, kvm) = (tracking.unwrap(), Arc::new(Kvm::default()));
    tracking.powered_on(kvm.start()).unwrap();
    assert_eq!(tracking.collect().unwrap().dirty, MIB);
    assert_eq!(tracking.collect().unwrap().dirty, 0);
    tracking.reset().unwrap();
    assert_eq!(kvm.logs(), 0);
    assert!(matches!(tracking.collect(), Err(Error::NotLogged)));
    tracking.powered_on(kvm.start()).unwrap();
    assert_eq!(kvm.logs(), 1);
    assert_eq!(tracking.collect().unwrap(), Collected { dirty: MIB, clean: 0 });
}

#[test]
fn at_the_end_what_was_not_written_is_still_known_to_be_clean() {
    let (tracking, _ram) = tracking("dirty=on", Backing::Anon);
    let (tracking, kvm) = (tracking.unwrap(), Arc::new(Kvm::default()));
    tracking.powered_on(kvm.start()).unwrap();
    tracking.collect().unwrap();
    kvm.written.lock().unwrap().push(BASE..BASE + MIB / 4);
    tracking.end().unwrap();
    assert_eq!(kvm.logs(), 0);
    assert_eq!(tracking.ledger.open().summary().unwrap().dirty, MIB / 4);
}

#[test]
fn a_log_that_can_not_be_turned_on_says_why_and_nothing_is_tracked() {
    let (tracking, _ram) = tracking("dirty=off", Backing::Anon);
    let tracking = tracking.unwrap();
    tracking.powered_on(Box::new(|| Err("no such thing".into()))).unwrap();
    let error = tracking.log(true).unwrap_err();
    assert_eq!(std::error::Error::source(&error).unwrap().to_string(), "no such thing");
    assert!(!tracking.state().dirty);
    assert!(matches!(tracking.collect(), Err(Error::NotLogged)));
}

#[test]
fn what_was_used_is_young_once() {
    let (tracking, ram) = tracking("young=presence", Backing::Memfd);
    let tracking = tracking.unwrap();
    assert_eq!(tracking.state().young, Watch::Presence);
    let aged = |young, old| Aged { known: Answer::Complete, young, old };
    assert_eq!(tracking.age().unwrap(), aged(MIB, 0));
    assert_eq!(tracking.age().unwrap(), aged(0, MIB));
    write(&ram, BASE, MIB / 2);
    assert_eq!(tracking.age().unwrap(), aged(MIB / 2, MIB / 2));
    // Nobody watches: everything counts as used.
    tracking.watch(Watch::Off).unwrap();
    assert_eq!(tracking.age().unwrap(), Aged { known: Answer::Unknown, young: MIB, old: 0 });
}

#[test]
fn a_backing_that_can_not_be_watched_says_which_can() {
    let (refused, _ram) = tracking("young=presence", Backing::Anon);
    let error = refused.unwrap_err();
    let words = std::error::Error::source(&error).unwrap().to_string();
    assert!(words.contains("backing=memfd"), "{words}");
    let (tracking, _ram) = tracking("young=off", Backing::Anon);
    let tracking = tracking.unwrap();
    assert!(tracking.watch(Watch::Presence).is_err());
    assert_eq!(tracking.state().young, Watch::Off);
}

#[test]
fn what_is_refused_changes_nothing() {
    let (tracking, ram) = tracking("young=presence", Backing::Memfd);
    let tracking = tracking.unwrap();
    tracking.age().unwrap();
    tracking.powered_on(Box::new(|| Err("no such thing".into()))).unwrap();
    // The log is refused after the watch has been changed.
    assert!(matches!(tracking.change(Some(true), Some(Watch::Off)), Err(Error::Log(_))));
    assert_eq!(tracking.state(), TrackConfig { dirty: false, young: Watch::Presence });
    write(&ram, BASE, MIB / 4);
    let seen = tracking.age().unwrap();
    assert_eq!((seen.known, seen.young + seen.old), (Answer::Complete, MIB));

    // A watch that this backing does not have, while another one is on.
    let (tracking, _ram) = tracking_of_faults();
    if let Some(tracking) = tracking {
        assert!(matches!(tracking.watch(Watch::Presence), Err(Error::Watch { .. })));
        assert_eq!(tracking.state().young, Watch::Faults);
        assert_ne!(tracking.age().unwrap().known, Answer::Unknown);
    }
}

/// Anonymous memory whose first uses are seen; absent where this user may not.
fn tracking_of_faults() -> (Option<Tracking>, GuestRam) {
    let (tracking, ram) = tracking("young=faults", Backing::Anon);
    (tracking.ok(), ram)
}
