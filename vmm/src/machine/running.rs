//! A VM whose vCPU threads run, from power-on to the first of them that ends.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};

use nix::sys::signal::Signal;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::control::{Control, Order};
use super::gate::Gate;
use super::signals::Signals;
use super::vcpu::{Cause, Crash, End, Shared, State, Vcpu};
use crate::devices::Serial;
use crate::kvm::kick::{self, kick};

/// What the main thread waits for, as epoll names it.
const SIGNAL: u64 = 0;
const QUIT: u64 = 1;
const ENDED: u64 = 2;
const CONTROL: u64 = 3;

/// Why the machine stopped running.
#[derive(Debug)]
pub enum Stop {
    /// The guest powered it off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest can't go on.
    Crash(Crash),
    /// A signal asked for it.
    Signal(Signal),
    /// Ctrl-A x on the console.
    Quit,
    /// Somebody asked for it through the machine's [`Control`].
    Asked,
}

/// The vCPU threads of one VM.
#[derive(Debug)]
pub struct Running {
    threads: Vec<JoinHandle<()>>,
    gate: Arc<Gate>,
    ends: mpsc::Receiver<End>,
    ended: Arc<EventFd>,
}

/// What a vCPU thread owes whoever waits for it: a word on its end, even where it panics.
struct Report {
    index: u32,
    ends: mpsc::Sender<End>,
    // One descriptor for all: 512 vCPUs take half of what a process usually may have.
    ended: Arc<EventFd>,
    gate: Arc<Gate>,
    end: Option<End>,
}

impl Drop for Report {
    fn drop(&mut self) {
        let end = self.end.take().unwrap_or_else(|| {
            End::Crash(Crash { index: self.index, cause: Cause::Panic, state: State::default() })
        });
        // Nobody listens any more once the machine is being stopped.
        let _ = self.ends.send(end);
        let _ = self.ended.write(1);
        // Only now: whoever finds that nobody runs any more finds the reason too.
        self.gate.leave();
    }
}

impl Running {
    /// Starts a thread for each of `vcpus`.
    ///
    /// # Errors
    /// The kernel's, where it has no thread to give; those already started are stopped.
    pub fn start(vcpus: Vec<Vcpu>, shared: &Shared) -> io::Result<Self> {
        kick::install()?;
        let (sender, ends) = mpsc::channel();
        let ended = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let gate = Arc::clone(&shared.gate);
        let mut running = Self { threads: Vec::with_capacity(vcpus.len()), gate, ends, ended };
        for vcpu in vcpus {
            let report = Report {
                index: vcpu.index,
                ends: sender.clone(),
                ended: Arc::clone(&running.ended),
                gate: Arc::clone(&running.gate),
                end: None,
            };
            let shared = shared.clone();
            let name = format!("vcpu{}", vcpu.index);
            let run = move || {
                // The whole of it: a closure would capture the one field that it names, and the report
                // would be made on this side.
                let mut report = report;
                report.end = Some(vcpu.run(&shared));
            };
            let thread = Builder::new().name(name).spawn(run)?;
            running.threads.push(thread);
        }
        Ok(running)
    }

    /// Waits until the guest ends, a signal comes in, `quit` becomes readable or `control` asks to stop, and
    /// pauses and resumes the guest meanwhile as `control` asks for it. `serial` is where a vCPU may wait for
    /// a terminal that takes nothing.
    ///
    /// # Errors
    /// The kernel's, where waiting fails.
    pub fn wait(
        &self,
        signals: &Signals,
        quit: &EventFd,
        control: &Control,
        serial: &Serial,
    ) -> io::Result<Stop> {
        let epoll = Epoll::new()?;
        for (fd, data) in [
            (signals.as_raw_fd(), SIGNAL),
            (quit.as_raw_fd(), QUIT),
            (self.ended.as_raw_fd(), ENDED),
            (control.event().as_raw_fd(), CONTROL),
        ] {
            epoll.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))?;
        }
        loop {
            let mut ready = [EpollEvent::default(); 4];
            let count = match epoll.wait(-1, &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let is_ready = |data| ready[..count].iter().any(|event| event.data() == data);
            if let Ok(end) = self.ends.try_recv() {
                match end {
                    End::PowerOff => return Ok(Stop::PowerOff),
                    End::Reset => return Ok(Stop::Reset),
                    End::Crash(crash) => return Ok(Stop::Crash(crash)),
                    End::Stopped => {}
                }
            }
            if let Some(signal) = signals.take()? {
                return Ok(Stop::Signal(signal));
            }
            if is_ready(QUIT) {
                return Ok(Stop::Quit);
            }
            if is_ready(CONTROL) {
                match control.attend(&self.gate) {
                    Order::Nothing => {}
                    Order::Kick => {
                        serial.hurry(true);
                        self.kick();
                    }
                    Order::GoOn => serial.hurry(false),
                    Order::Stop => return Ok(Stop::Asked),
                }
            }
        }
    }

    fn kick(&self) {
        for thread in &self.threads {
            if let Err(error) = kick(thread) {
                tracing::warn!(%error, "a vCPU thread can't be kicked");
            }
        }
    }
}

impl Drop for Running {
    /// Stops every vCPU and waits for its thread.
    fn drop(&mut self) {
        self.gate.stop();
        self.kick();
        for thread in self.threads.drain(..) {
            // A panic in there has been reported where it happened.
            let _ = thread.join();
        }
    }
}
