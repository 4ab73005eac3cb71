//! The life of a machine: power-on, resets in place, and an orderly end.

use std::sync::{Arc, mpsc};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Error;
use super::control::Control;
use super::heap;
use super::machine::{Machine, Peripherals, PoweredOn};
use super::running::{Running, Stop};
use super::timing::Timeline;
use super::vcpu::Crash;
use super::worker::Worker;
use crate::config::El2;
use crate::memory::release::Release;
use crate::memory::{GuestRam, Ledger, teardown};

/// How long the end of a guest waits for a reader that takes no console output.
const CONSOLE_PATIENCE: Duration = Duration::from_secs(1);

/// A machine that has stopped: nothing runs, nothing waits for it any more, and its memory is still there.
#[must_use = "a guest's memory is complete in its file only after the teardown"]
pub struct Ended {
    /// How it ended, or what took the guest down.
    pub outcome: Result<Outcome, Crash>,
    ram: GuestRam,
    ledger: Ledger,
    release: Arc<Release>,
    /// Whether KVM has made tables for guests of the guest.
    nested: bool,
    closing: Closing,
}

impl Ended {
    /// Gives its memory back, and writes back what outlives it. How long each step took goes to the log.
    ///
    /// # Errors
    /// [`Error::Crash`] where that is how it ended; [`Error::Teardown`]: what is on disk may be incomplete.
    pub fn tear_down(mut self) -> Result<(), Error> {
        let started = Instant::now();
        if self.nested {
            // For every piece of memory that goes, KVM would empty each set of tables of the guest's guests, by a walk over
            // all of the host's physical address space.
            self.closing.wait();
        } else {
            self.closing.wait_until_begun();
        }
        let before = started.elapsed();
        let report = teardown::tear_down(self.ram, &self.ledger, &self.release);
        let started = Instant::now();
        self.closing.wait();
        let closing = before + started.elapsed();
        // What took the guest down comes first: it may be why the rest failed, too.
        self.outcome?;
        let report = report?;
        tracing::info!(
            harvested = report.harvest.bytes,
            dirty = report.harvest.dirty,
            harvesting = ?report.harvesting,
            writing_back = ?report.writing_back,
            releasing = ?report.releasing,
            ?closing,
            "gave the guest's memory back"
        );
        Ok(())
    }
}

/// How a machine came to an orderly end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The guest powered it off.
    PowerOff,
    /// A signal asked for it.
    Signal(Signal),
    /// Ctrl-A x on the console.
    Quit,
    /// Somebody asked for it through the machine's [`Control`].
    Asked,
}

/// Runs the machine that `control`'s configuration describes until the guest powers it off, something asks it to
/// stop, or it can't go on. A reset reboots the guest in place.
///
/// # Errors
/// [`Error`] says what keeps it from starting.
pub fn run(control: &Control, timeline: &Arc<Timeline>) -> Result<Ended, Error> {
    let ended = live(control, timeline);
    control.end();
    ended
}

fn live(control: &Control, timeline: &Arc<Timeline>) -> Result<Ended, Error> {
    let (machine, Peripherals { subscribers, balloon, quit, signals }) =
        Machine::assemble(control.config(), Arc::clone(timeline))?;
    control.equip(machine.parts());
    let worker = Worker::start("devices", subscribers)?;
    let balloon = balloon.map(|balloon| Worker::start("balloon", vec![balloon])).transpose()?;
    let (outcome, on) = loop {
        let mut on = machine.power_on(control)?;
        let running = Running::start(std::mem::take(&mut on.vcpus), &on.shared).map_err(Error::Threads)?;
        machine.started();
        heap::trim();
        let stop = running.wait(&signals, &quit, control, machine.serial()).map_err(Error::Wait)?;
        // A vCPU may be waiting for a terminal that takes nothing: it could not be stopped, and who waits
        // for its thread takes no signal.
        machine.serial().stop();
        drop(running);
        let outcome = match stop {
            Stop::Reset => {
                tracing::info!("the guest asked for a reset");
                machine.tracking().reset()?;
                drop(on);
                machine.reset();
                continue;
            }
            Stop::PowerOff => Ok(Outcome::PowerOff),
            Stop::Signal(signal) => Ok(Outcome::Signal(signal)),
            Stop::Quit => Ok(Outcome::Quit),
            Stop::Asked => Ok(Outcome::Asked),
            Stop::Crash(crash) => Err(crash),
        };
        break (outcome, on);
    };
    // The devices' threads would first carry out what is left in the queues, which nobody waits for any
    // more: they leave after the system call that they are in.
    machine.reset();
    drop((worker, balloon));
    // Nobody writes any more: what was written is read while KVM still knows it.
    if let Err(error) = machine.tracking().end() {
        tracing::warn!(%error, "what was written last counts as dirty, all of it");
    }
    machine.serial().finish(CONSOLE_PATIENCE);
    let (ram, ledger, release) = machine.into_memory();
    // The VM's tables go before the memory, so that giving that back invalidates nothing at stage 2. The last thing here: from
    // now on this thread waits for nothing until it has been said that the guest has stopped, and so has the processor first.
    let closing = Closing::start(on);
    let nested = control.config().el2 != El2::Off;
    Ok(Ended { outcome, ram, ledger, release, nested, closing })
}

/// A VM that no vCPU runs any more, closed by a thread of its own: KVM detaches its tables first and then waits for grace
/// periods of the kernel's, milliseconds that need no processor. Guest memory is given back meanwhile; what goes before
/// the tables have been detached costs an invalidation, and nothing else, but for a guest that has guests.
struct Closing {
    thread: Option<JoinHandle<()>>,
    begun: mpsc::Receiver<()>,
}

impl Closing {
    fn start(on: PoweredOn) -> Self {
        let (begins, begun) = mpsc::channel();
        let close = move || {
            // Nobody listens where there is no memory to give back.
            let _ = begins.send(());
            drop(on);
        };
        // Where there is no thread to be had, the VM goes with what the thread would have done.
        Self { thread: Builder::new().name("closing".into()).spawn(close).ok(), begun }
    }

    /// Waits until the VM is about to go. With one processor it would otherwise come last.
    fn wait_until_begun(&self) {
        // An error is a thread that never was.
        let _ = self.begun.recv();
    }

    /// Waits until it has gone.
    fn wait(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic in there has been reported where it happened.
            let _ = thread.join();
        }
    }
}
