//! The threads that do the devices' work, each an event loop: one for every queue and for console input, and one
//! for the balloon alone, so that no disk waits for memory to be given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle};
use std::{fmt, io};

use event_manager::{EventManager, MutEventSubscriber, RemoteEndpoint, SubscriberOps};

/// A device's share of the work.
pub type Subscriber = Box<dyn MutEventSubscriber + Send>;

/// Why there is no device thread.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The event loop could not be made.
    #[error("can't create an event loop for devices: {0}")]
    Loop(event_manager::Error),
    /// The thread could not be started.
    #[error("can't start a thread for devices: {0}")]
    Thread(io::Error),
}

/// The running thread; it stops when the value is dropped.
pub struct Worker {
    thread: Option<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    remote: RemoteEndpoint<Subscriber>,
}

impl Worker {
    /// Starts a thread of this name, which serves `subscribers` until it is stopped.
    ///
    /// # Errors
    /// [`Error`] says which resource the host refused.
    pub fn start(name: &'static str, subscribers: Vec<Subscriber>) -> Result<Self, Error> {
        let mut events = EventManager::<Subscriber>::new().map_err(Error::Loop)?;
        for subscriber in subscribers {
            events.add_subscriber(subscriber);
        }
        let remote = events.remote_endpoint();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            while !stopped.load(Ordering::Acquire) {
                if let Err(error) = events.run() {
                    // Waiting is all that can fail here, and nothing but the loop can do it.
                    tracing::error!(name, %error, "an event loop failed: its devices stand still");
                    return;
                }
            }
        };
        let thread = Builder::new().name(name.into()).spawn(serve).map_err(Error::Thread)?;
        Ok(Self { thread: Some(thread), stop, remote })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // Without the wake-up the thread would be found only at its next event.
        match self.remote.kick() {
            Ok(()) => {
                if let Some(thread) = self.thread.take() {
                    // A panic in there has been reported where it happened.
                    let _ = thread.join();
                }
            }
            Err(error) => tracing::warn!(%error, "a devices' thread can't be woken to stop"),
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").finish_non_exhaustive()
    }
}
