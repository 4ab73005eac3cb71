//! What may be asked of a running machine from outside: pause, resume, stop.
//!
//! A [`Control`] is a note board between whoever asks (the API, a test, the stress) and the machine's main
//! loop. Asking writes down what is wanted, wakes the loop, and waits for it to be so; the loop looks at
//! the board whenever it is woken ([`Control::attend`]) and says what has become true. It is the loop that
//! owns the vCPUs: a guest that resets or powers off in the middle is seen by nobody else.
//!
//! Devices go on while the guest is paused: what was in their queues is finished, its interrupts wait in
//! the interrupt controller, and nobody puts anything new there.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::gate::Gate;
use super::tracking::Tracking;
use crate::config::VmConfig;
use crate::memory::Ledger;
use crate::memory::release::Release;
use crate::virtio::balloon;

/// How long a pause waits for vCPUs to leave the guest. It takes microseconds; a loaded host may need more.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a machine does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// It is being put together.
    #[serde(rename = "Not started")]
    NotStarted,
    /// Its vCPUs run.
    Running,
    /// None of its vCPUs runs.
    Paused,
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::NotStarted => "not started",
            Self::Running => "running",
            Self::Paused => "paused",
        })
    }
}

/// Why a machine does not do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no guest yet.
    #[error("the guest has not started yet: ask again in a moment")]
    NotStarted,
    /// There is no guest any more.
    #[error("the guest has ended")]
    Ended,
    /// The machine is on its way to its end.
    #[error("the guest is being stopped")]
    Stopping,
    /// Somebody else asked for the opposite meanwhile.
    #[error("another request asked for the opposite meanwhile: the guest is {0}")]
    Overtaken(State),
    /// A vCPU did not leave the guest.
    #[error(
        "the guest did not become {wanted} within {} seconds: it will as soon as the host lets its vCPUs run; \
         ask for the state again",
        PATIENCE.as_secs()
    )]
    TooSlow {
        /// What was asked for.
        wanted: State,
    },
}

/// What the main loop has to do after it looked at the board.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Nothing.
    Nothing,
    /// Kick every vCPU: the gate has been closed.
    Kick,
    /// Let who waits on the console wait again: the gate has been opened.
    GoOn,
    /// Stop the machine.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    Run,
    Pause,
    Stop,
}

/// The handle; clones are the same machine's.
#[derive(Clone, Debug)]
pub struct Control(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: VmConfig,
    board: Mutex<Board>,
    changed: Condvar,
    wake: EventFd,
    parts: Mutex<Option<Parts>>,
}

/// What the machine has that may be asked directly, from the moment it has been put together.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The way of its memory back to the host.
    pub release: Arc<Release>,
    /// What is known of its memory.
    pub ledger: Ledger,
    /// What is tracked of what the guest does with its memory.
    pub tracking: Arc<Tracking>,
    /// Its balloon, where it has one.
    pub balloon: Option<Arc<balloon::Control>>,
}

#[derive(Debug)]
struct Board {
    wanted: Wanted,
    state: State,
    ended: bool,
}

impl Control {
    /// The handle of the machine that `config` describes, before there is one.
    ///
    /// # Errors
    /// No file descriptor to be had.
    pub fn new(config: VmConfig) -> io::Result<Self> {
        let board = Board { wanted: Wanted::Run, state: State::NotStarted, ended: false };
        Ok(Self(Arc::new(Shared {
            config,
            board: Mutex::new(board),
            changed: Condvar::new(),
            wake: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            parts: Mutex::new(None),
        })))
    }

    fn board(&self) -> MutexGuard<'_, Board> {
        // Every step leaves the board readable.
        self.0.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the machine was made from.
    pub fn config(&self) -> &VmConfig {
        &self.0.config
    }

    /// What it does at this moment.
    pub fn state(&self) -> State {
        self.board().state
    }

    /// Takes every vCPU out of the guest: none of them runs between the return of this and a resume. A
    /// machine that is paused stays so.
    ///
    /// # Errors
    /// [`Error`] where there is no guest to pause, or it does not stand still.
    pub fn pause(&self) -> Result<(), Error> {
        self.ask(Wanted::Pause, State::Paused)
    }

    /// Lets the vCPUs go on. A machine that runs goes on running.
    ///
    /// # Errors
    /// [`Error`] where there is no guest to resume.
    pub fn resume(&self) -> Result<(), Error> {
        self.ask(Wanted::Run, State::Running)
    }

    /// Asks the machine to stop in order, as SIGTERM does. It has been asked when this returns; it has
    /// stopped when the process ends.
    ///
    /// # Errors
    /// [`Error::Ended`] where it has ended by itself.
    pub fn stop(&self) -> Result<(), Error> {
        let mut board = self.board();
        if board.ended {
            return Err(Error::Ended);
        }
        board.wanted = Wanted::Stop;
        self.0.changed.notify_all();
        drop(board);
        self.wake();
        Ok(())
    }

    fn ask(&self, wanted: Wanted, state: State) -> Result<(), Error> {
        let mut board = self.board();
        if board.ended {
            return Err(Error::Ended);
        }
        match (board.state, board.wanted) {
            (_, Wanted::Stop) => return Err(Error::Stopping),
            (State::NotStarted, _) => return Err(Error::NotStarted),
            _ => {}
        }
        board.wanted = wanted;
        // Who waits for the opposite has been overtaken.
        self.0.changed.notify_all();
        self.wake();
        let end = Instant::now() + PATIENCE;
        loop {
            if board.ended {
                return Err(Error::Ended);
            }
            match board.wanted {
                now if now == wanted => {}
                Wanted::Stop => return Err(Error::Stopping),
                _ => return Err(Error::Overtaken(board.state)),
            }
            if board.state == state {
                return Ok(());
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::TooSlow { wanted: state });
            }
            board = self.0.changed.wait_timeout(board, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Has the main loop look at the board.
    pub fn wake(&self) {
        // It can only fail by being full, and then it is readable, which is what it is for.
        let _ = self.0.wake.write(1);
    }

    /// Readable when the main loop is to [`Control::attend`].
    pub fn event(&self) -> &EventFd {
        &self.0.wake
    }

    /// What the machine has that may be asked directly.
    ///
    /// # Errors
    /// [`Error::NotStarted`] before it has been put together, [`Error::Ended`] when its memory is going.
    pub fn parts(&self) -> Result<Parts, Error> {
        match &*self.0.parts.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(parts) => Ok(parts.clone()),
            None if self.board().ended => Err(Error::Ended),
            None => Err(Error::NotStarted),
        }
    }

    /// Notes what the machine has.
    pub fn equip(&self, parts: Parts) {
        *self.0.parts.lock().unwrap_or_else(PoisonError::into_inner) = Some(parts);
    }

    /// The gate of a VM of `threads` vCPUs that is about to start: closed where a pause was asked for
    /// before the guest's reset.
    pub fn gate(&self, threads: usize) -> Gate {
        let mut board = self.board();
        let closed = board.wanted == Wanted::Pause;
        if !closed {
            self.note(&mut board, State::Running);
        }
        let waker = self.clone();
        Gate::new(threads, closed, move || waker.wake())
    }

    /// The main loop's look at the board: brings `gate` to what is wanted and notes what has become true.
    pub fn attend(&self, gate: &Gate) -> Order {
        // Empty means that somebody woke the loop for another reason.
        let _ = self.0.wake.read();
        let mut board = self.board();
        match board.wanted {
            Wanted::Stop => Order::Stop,
            Wanted::Pause => {
                let order = if gate.is_closed() {
                    Order::Nothing
                } else {
                    gate.close();
                    Order::Kick
                };
                if gate.is_still() {
                    self.note(&mut board, State::Paused);
                }
                order
            }
            Wanted::Run if gate.is_closed() => {
                // First the word, then the deed: nobody is told Paused while a vCPU runs.
                self.note(&mut board, State::Running);
                gate.open();
                Order::GoOn
            }
            Wanted::Run => {
                self.note(&mut board, State::Running);
                Order::Nothing
            }
        }
    }

    fn note(&self, board: &mut Board, state: State) {
        if board.state != state {
            tracing::info!("the guest is {state}");
            board.state = state;
            self.0.changed.notify_all();
        }
    }

    /// The machine has ended: whoever waits is told.
    pub fn end(&self) {
        self.board().ended = true;
        self.0.changed.notify_all();
        *self.0.parts.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
