//! What is written and what is used, as the ledger learns of it.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use vm_memory::GuestAddress;

use super::tests::{BASE, BLOCK, SIZE, write};
use super::*;
use crate::config::{Backing, BlockSize, MemoryConfig};
use crate::memory::dirty::DirtyLog;
use crate::memory::young::{self, Source};

type Ranges = Vec<std::ops::Range<u64>>;

/// Says what a test has put in, once: a dirty log, or somebody who watches what is used.
#[derive(Debug, Default)]
struct Says {
    ranges: Mutex<Ranges>,
    fails: AtomicBool,
}

impl Says {
    fn tell(&self, visit: &mut dyn FnMut(std::ops::Range<u64>)) -> io::Result<()> {
        if self.fails.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Other.into());
        }
        std::mem::take(&mut *self.ranges.lock().unwrap()).into_iter().for_each(visit);
        Ok(())
    }
}

impl DirtyLog for Says {
    fn take(
        &self,
        _: &[std::ops::Range<u64>],
        visit: &mut dyn FnMut(std::ops::Range<u64>),
    ) -> io::Result<()> {
        self.tell(visit)
    }
}

/// The same, as a source of what was used.
#[derive(Debug)]
struct Watches(Arc<Says>);

impl Source for Watches {
    fn take(
        &self,
        _: &[std::ops::Range<u64>],
        visit: &mut dyn FnMut(std::ops::Range<u64>),
    ) -> io::Result<young::Answer> {
        self.0.tell(visit).map(|()| young::Answer::Complete)
    }
}

/// Anonymous memory with pages of the host in `written`, each in the ledger.
fn pages(written: &std::ops::Range<u64>) -> (GuestRam, Ledger) {
    // No huge pages: what was written is there, and nothing beside it.
    let block = BlockSize::Size4K;
    let config = MemoryConfig { size: SIZE, backing: Backing::Anon, block, ..MemoryConfig::default() };
    let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
    let ledger = Ledger::new(&ram).unwrap();
    write(&ram, written);
    ledger.open().refresh(std::slice::from_ref(written)).unwrap();
    (ram, ledger)
}

fn dirty(books: &mut Books) -> u64 {
    let mut bytes = 0;
    books.collect_dirty(BASE..BASE + SIZE, |leaf| bytes += leaf.bytes).unwrap();
    bytes
}

fn young(books: &mut Books) -> Ranges {
    let mut ranges = Vec::new();
    books.age(BASE..BASE + SIZE, |leaf| ranges.push(leaf.range())).unwrap();
    ranges
}

#[test]
fn what_the_log_and_the_devices_say_makes_clean_leaves_dirty() {
    let written = BASE..BASE + 2 * BLOCK;
    let (ram, ledger) = pages(&written);
    let log = Arc::new(Says::default());
    let mut books = ledger.open();
    let started: Arc<dyn DirtyLog> = log.clone();
    books.start_log(|| Ok::<_, io::Error>(started)).unwrap();
    assert_eq!(dirty(&mut books), 2 * BLOCK);
    assert_eq!(dirty(&mut books), 0);
    log.ranges.lock().unwrap().push(BASE..BASE + BLOCK);
    assert_eq!(dirty(&mut books), BLOCK);
    // What this process writes, as a device does.
    write(&ram, &(BASE + BLOCK..BASE + BLOCK + 4096));
    assert!((1..=BLOCK).contains(&dirty(&mut books)));
    assert_eq!(dirty(&mut books), 0);

    // A log that fails knows nothing, and neither does one that is off.
    log.fails.store(true, Ordering::Relaxed);
    assert_eq!(dirty(&mut books), 2 * BLOCK);
    log.fails.store(false, Ordering::Relaxed);
    assert_eq!(dirty(&mut books), 0);
    books.stop_log().unwrap();
    assert_eq!(dirty(&mut books), 2 * BLOCK);
}

#[test]
fn what_was_used_is_young_and_where_nobody_watches_everything_is() {
    let written = BASE..BASE + 2 * BLOCK;
    let (_ram, ledger) = pages(&written);
    let mut books = ledger.open();
    let all = [BASE..BASE + SIZE];
    let bytes = |ranges: Ranges| ranges.iter().map(|range| range.end - range.start).sum::<u64>();
    assert_eq!(bytes(young(&mut books)), 2 * BLOCK);
    assert_eq!(young(&mut books), []);
    assert_eq!(books.look(&all).unwrap(), young::Answer::Unknown);
    assert_eq!(bytes(young(&mut books)), 2 * BLOCK);

    let watches = Arc::new(Says::default());
    books.watch(Box::new(Watches(Arc::clone(&watches))));
    assert_eq!(books.look(&all).unwrap(), young::Answer::Complete);
    assert_eq!(young(&mut books), []);
    watches.ranges.lock().unwrap().push(BASE + BLOCK..BASE + 2 * BLOCK);
    assert_eq!(books.look(&all).unwrap(), young::Answer::Complete);
    assert_eq!(bytes(young(&mut books)), BLOCK);
    watches.fails.store(true, Ordering::Relaxed);
    assert_eq!(books.look(&all).unwrap(), young::Answer::Unknown);
    assert_eq!(bytes(young(&mut books)), 2 * BLOCK);
}
