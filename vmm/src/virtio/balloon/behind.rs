//! Work that the guest does not wait for, on a thread of its own.
//!
//! With MUST_TELL_HOST the guest has been told by the time its pages are discarded. Its next descriptor must not wait for
//! that either: so the device's thread only says that there is work, and goes on to the next one.

use std::io;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use crate::lock::lock;

use super::memory::{Contract, Failure, Memory, logged};

/// Guest memory whose [`work`](Memory::work) and [`settle`](Memory::settle) return at once, and are done soon after.
/// Everything else is as it is without.
pub struct Behind {
    memory: Arc<dyn Memory>,
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

/// What is wanted of the thread.
#[derive(Debug, Default)]
struct Desk {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    work: bool,
    settle: bool,
    end: bool,
    /// Something that was wanted is being done.
    busy: bool,
}

impl Behind {
    /// Starts the thread.
    ///
    /// # Errors
    /// No thread to be had.
    pub fn start(memory: Arc<dyn Memory>) -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let (theirs, on) = (Arc::clone(&desk), Arc::clone(&memory));
        let thread = Builder::new().name("release".into()).spawn(move || theirs.serve(&*on))?;
        Ok(Self { memory, desk, thread: Some(thread) })
    }
}

impl Desk {
    fn want(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut lock(&self.wanted));
        self.changed.notify_all();
    }

    fn serve(&self, memory: &dyn Memory) {
        let mut reported = false;
        let mut wanted = lock(&self.wanted);
        loop {
            wanted.busy = false;
            // The rest would be done for nobody.
            if wanted.end {
                return;
            }
            if !wanted.work && !wanted.settle {
                wanted = self.changed.wait(wanted).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let now = std::mem::replace(&mut *wanted, Wanted { busy: true, ..Wanted::default() });
            drop(wanted);
            if now.work {
                logged(&mut reported, memory.work());
            }
            if now.settle {
                logged(&mut reported, memory.settle());
            }
            wanted = lock(&self.wanted);
        }
    }
}

impl Memory for Behind {
    fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Failure> {
        self.memory.inflate(ranges, contract)
    }

    fn work(&self) -> Result<(), Failure> {
        self.desk.want(|wanted| wanted.work = true);
        Ok(())
    }

    fn settle(&self) -> Result<(), Failure> {
        self.desk.want(|wanted| wanted.settle = true);
        Ok(())
    }

    fn has_partial(&self) -> bool {
        let Wanted { work, settle, busy, .. } = *lock(&self.desk.wanted);
        // What is left when that is done can't be known before.
        work || settle || busy || self.memory.has_partial()
    }

    fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        self.memory.deflate(ranges)
    }

    fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Failure> {
        self.memory.report(ranges)
    }

    fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        self.memory.hint(ranges)
    }

    fn acknowledged(&self, took: Duration) {
        self.memory.acknowledged(took);
    }

    fn forget(&self) {
        self.memory.forget();
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.desk.want(|wanted| wanted.end = true);
        if let Some(thread) = self.thread.take() {
            // It has said why, if it panicked.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc;

    use super::*;

    /// Memory whose work takes until a test lets it go on.
    struct Slow {
        began: mpsc::SyncSender<&'static str>,
        goes_on: Mutex<mpsc::Receiver<()>>,
        inflated: AtomicBool,
    }

    impl Slow {
        fn takes_long(&self, what: &'static str) -> Result<(), Failure> {
            self.began.send(what)?;
            Ok(self.goes_on.lock().unwrap().recv()?)
        }
    }

    impl Memory for Slow {
        fn inflate(&self, _: &[Range<u64>], _: Contract) -> Result<(), Failure> {
            self.inflated.store(true, Ordering::SeqCst);
            Ok(())
        }

        fn work(&self) -> Result<(), Failure> {
            self.takes_long("work")
        }

        fn settle(&self) -> Result<(), Failure> {
            self.takes_long("settle")
        }

        fn has_partial(&self) -> bool {
            false
        }

        fn deflate(&self, _: &[Range<u64>]) -> Result<(), Failure> {
            Ok(())
        }

        fn report(&self, _: &[Range<u64>]) -> Result<u64, Failure> {
            Ok(0)
        }

        fn hint(&self, _: &[Range<u64>]) -> Result<(), Failure> {
            Ok(())
        }

        fn acknowledged(&self, _: Duration) {}

        fn forget(&self) {}
    }

    #[test]
    fn the_device_goes_on_while_memory_is_discarded() {
        let (began, begins) = mpsc::sync_channel(8);
        let (go_on, goes_on) = mpsc::channel();
        let slow = Slow { began, goes_on: Mutex::new(goes_on), inflated: AtomicBool::new(false) };
        let slow = Arc::new(slow);
        let behind = Behind::start(Arc::clone(&slow) as _).unwrap();
        assert!(!behind.has_partial());
        behind.work().unwrap();
        assert_eq!(begins.recv(), Ok("work"));
        // It is being done, and nobody waits for it.
        assert!(behind.has_partial());
        behind.inflate(&[], Contract::MustTell).unwrap();
        assert!(slow.inflated.load(Ordering::SeqCst));
        // What is wanted meanwhile is done afterwards, once.
        behind.settle().unwrap();
        behind.work().unwrap();
        behind.work().unwrap();
        assert!(begins.try_recv().is_err());
        for next in ["work", "settle"] {
            go_on.send(()).unwrap();
            assert_eq!(begins.recv(), Ok(next));
        }
        go_on.send(()).unwrap();
        drop(behind);
        assert!(begins.try_recv().is_err());
    }

    #[test]
    fn what_fails_does_not_end_the_thread() {
        let (began, begins) = mpsc::sync_channel(8);
        let (go_on, goes_on) = mpsc::channel();
        // Every one fails: nobody is there to let it go on.
        drop(go_on);
        let slow = Slow { began, goes_on: Mutex::new(goes_on), inflated: AtomicBool::new(false) };
        let behind = Behind::start(Arc::new(slow)).unwrap();
        for _ in 0..3 {
            behind.work().unwrap();
            assert_eq!(begins.recv(), Ok("work"));
        }
    }
}
