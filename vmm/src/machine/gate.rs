//! Where vCPUs stand while the machine is paused, and what makes them leave the guest for it.
//!
//! Each vCPU thread passes the gate before it enters the guest. While it is open that costs one load.
//! Who closes it kicks every vCPU afterwards: a thread that looked before the gate closed is kept from
//! entering by the kick, which stays pending, and one that looks later stands still by itself.
//!
//! The guest's virtual counter stands still with the vCPUs: whoever arrives last, when none of the others
//! runs any more, reads it, and whoever leaves first puts it back. A guest that was paused for an hour
//! finds none of its timers an hour late, and its watchdogs silent.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The guest's clock, as one vCPU reaches it for all of them.
pub trait Clock {
    /// The virtual counter; `None` where it can't be read, and then it runs on.
    fn read(&self) -> Option<u64>;

    /// Lets the virtual counter go on from `count`.
    fn set(&self, count: u64);
}

/// What a vCPU thread does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// It enters the guest.
    Enter,
    /// It ends.
    Stop,
}

/// The gate of one VM's vCPU threads.
pub struct Gate {
    /// Whether anything but the way into the guest is to be found behind the lock.
    attention: AtomicBool,
    inner: Mutex<Inner>,
    moved: Condvar,
    /// Called when the last vCPU has arrived at the closed gate.
    still: Box<dyn Fn() + Send + Sync>,
}

struct Inner {
    /// vCPU threads that have not ended.
    threads: usize,
    /// Those of them that stand here.
    standing: usize,
    closed: bool,
    stopped: bool,
    /// The virtual counter, while all stand still.
    count: Option<u64>,
}

impl Inner {
    fn is_still(&self) -> bool {
        self.closed && self.threads > 0 && self.standing == self.threads
    }
}

impl Gate {
    /// A gate for `threads` vCPU threads, `closed` from the start or not. `still` is called, by a vCPU
    /// thread, whenever the last of them has come to stand at the closed gate.
    pub fn new(threads: usize, closed: bool, still: impl Fn() + Send + Sync + 'static) -> Self {
        let inner = Inner { threads, standing: 0, closed, stopped: false, count: None };
        Self {
            attention: AtomicBool::new(closed),
            inner: Mutex::new(inner),
            moved: Condvar::new(),
            still: Box::new(still),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every step leaves the counts as they are meant.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a vCPU thread, or has it stand here for as long as the gate is closed.
    #[inline]
    pub fn pass(&self, clock: &dyn Clock) -> Pass {
        // Pairs with the stores of `close` and `stop`, which a kick follows.
        if self.attention.load(Ordering::Acquire) { self.stand(clock) } else { Pass::Enter }
    }

    #[cold]
    fn stand(&self, clock: &dyn Clock) -> Pass {
        let mut inner = self.lock();
        if inner.closed && !inner.stopped {
            inner.standing += 1;
            if inner.is_still() {
                inner.count = clock.read();
                (self.still)();
            }
            while inner.closed && !inner.stopped {
                inner = self.moved.wait(inner).unwrap_or_else(PoisonError::into_inner);
            }
            inner.standing -= 1;
            // Still under the lock: nobody enters before the counter is right.
            if let (false, Some(count)) = (inner.stopped, inner.count.take()) {
                clock.set(count);
            }
        }
        if inner.stopped { Pass::Stop } else { Pass::Enter }
    }

    /// Takes a thread that has ended out of the count.
    pub fn leave(&self) {
        let mut inner = self.lock();
        inner.threads = inner.threads.saturating_sub(1);
        if inner.is_still() {
            (self.still)();
        }
    }

    /// Closes the gate. The caller kicks every vCPU afterwards.
    pub fn close(&self) {
        let mut inner = self.lock();
        inner.closed = true;
        self.attention.store(true, Ordering::Release);
    }

    /// Whether every vCPU stands at the closed gate.
    pub fn is_still(&self) -> bool {
        self.lock().is_still()
    }

    /// Whether the gate is closed.
    pub fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Opens the gate.
    pub fn open(&self) {
        let mut inner = self.lock();
        inner.closed = false;
        self.attention.store(inner.stopped, Ordering::Release);
        self.moved.notify_all();
    }

    /// Has every thread end that comes by or stands here. The caller kicks every vCPU afterwards.
    pub fn stop(&self) {
        let mut inner = self.lock();
        inner.stopped = true;
        self.attention.store(true, Ordering::Release);
        self.moved.notify_all();
    }
}

impl std::fmt::Debug for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let inner = self.lock();
        f.debug_struct("Gate")
            .field("threads", &inner.threads)
            .field("standing", &inner.standing)
            .field("closed", &inner.closed)
            .field("stopped", &inner.stopped)
            .finish()
    }
}
