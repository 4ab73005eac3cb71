//! One VM from its start to its end.

use std::io::{self, BufRead, BufReader, ErrorKind, PipeReader};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::audit::audit;
use super::canary::Canaries;
use super::hog;
use super::line::{Line, Progress, is_trouble};
use super::options::{Guest, Options};
use super::report::{Failure, VmReport};
use super::schedule::{Action, Schedule};
use crate::config;
use crate::lock::lock;
use crate::machine::control::{Control, Parts};
use crate::machine::timing::Timeline;
use crate::machine::{self, Outcome};
use crate::memory::Host;

/// How long a guest may be silent.
const SILENCE: Duration = Duration::from_secs(180);
/// How long a guest stands still when it is paused.
const PAUSE: Duration = Duration::from_millis(20);
/// What a Linux guest is given between two actions: its driver looks in its own time.
const PACE: Duration = Duration::from_millis(400);
/// How long a Linux guest may take until it drives its balloon: in an emulated host it boots for half a minute.
const BOOT: Duration = Duration::from_secs(180);
/// How long a Linux guest has to give its balloon back in the end.
const FAREWELL: Duration = Duration::from_secs(60);
/// Failures of one VM that are kept; more of them say nothing new.
const KEPT: usize = 16;

/// Why a VM could not even be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its configuration.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// No pipe, thread or descriptor for it.
    #[error("the host has nothing left for one more VM: {0}")]
    Host(#[from] io::Error),
    /// Its host, its memory or a file of it.
    #[error(transparent)]
    Machine(#[from] machine::Error),
}

/// What can be seen of a VM while it storms.
#[derive(Debug, Default)]
pub struct Status {
    /// Steps that it has done.
    pub steps: AtomicU64,
    /// Pages in its balloon.
    pub held: AtomicU64,
    /// Pages that it has checked.
    pub checked: AtomicU64,
    /// What the host did to it.
    pub actions: AtomicU64,
    /// It has failed.
    pub failed: AtomicBool,
    /// It has ended.
    pub ended: AtomicBool,
    control: Mutex<Option<Control>>,
}

impl Status {
    /// Stops it, whatever it does.
    pub fn stop(&self) {
        if let Some(control) = &*lock(&self.control) {
            // One that has ended needs no stop.
            let _ = control.stop();
        }
    }
}

/// A VM that storms.
struct Drive<'a> {
    options: &'a Options,
    status: &'a Status,
    stop: &'a AtomicBool,
    control: Control,
    parts: Option<Parts>,
    /// Of every region.
    canaries: Vec<Canaries>,
    schedule: Schedule,
    host: Host,
    report: VmReport,
    is_done: bool,
}

/// Drives the VM `index` of the storm to its end; `stop` asks for that before its time.
///
/// # Errors
/// [`Error`] where it could not even be made.
pub fn drive(options: &Options, index: u32, status: &Status, stop: &AtomicBool) -> Result<VmReport, Error> {
    let host = Host::live();
    let (reader, writer) = io::pipe()?;
    let console = PathBuf::from(format!("/proc/self/fd/{}", writer.as_raw_fd()));
    let config = options.config(index, &console, host.page_size())?;
    let seed = options.seed_of(index);
    let schedule = Schedule::new(seed, config.memory.size, options.pressure);
    let control = Control::new(config)?;
    *lock(&status.control) = Some(control.clone());

    let lines = listen(reader)?;
    let (looked, has_looked) = mpsc::channel::<()>();
    let machine = {
        let control = control.clone();
        let run = move || {
            let timeline = Arc::new(Timeline::new(Instant::now(), Duration::ZERO));
            let ended = machine::run(&control, &timeline);
            // The listener hears the end when nobody has the console any more.
            drop(writer);
            let ended = ended?;
            // Its memory stays until it has been looked at. An error is a listener that is gone.
            let _ = has_looked.recv();
            let outcome = ended.outcome.as_ref().ok().copied();
            ended.tear_down()?;
            Ok::<_, machine::Error>(outcome)
        };
        thread::Builder::new().name(format!("vm{index}")).spawn(run)?
    };
    let mut drive = Drive {
        options,
        status,
        stop,
        control,
        parts: None,
        canaries: Vec::new(),
        schedule,
        host,
        report: VmReport { seed, ..VmReport::default() },
        is_done: false,
    };
    match options.guest {
        Guest::BuiltIn => drive.follow(&lines),
        Guest::Linux { .. } => drive.lead(&lines),
    }
    // A stop is on its way, or the machine has ended by itself.
    while lines.recv().is_ok() {}
    let was_there = drive.parts.is_some();
    drive.look_back();
    // Whatever is held of its memory is let go first: the teardown wants all of it.
    drive.report.release = drive.parts.take().map(|parts| parts.release.counters());
    drive.canaries.clear();
    drop(looked);
    match machine.join() {
        Ok(Ok(outcome)) => drive.end(outcome),
        Ok(Err(error @ machine::Error::Crash(_))) => drive.fail(chain(&error)),
        // It never was, so nothing can be said of it.
        Ok(Err(error)) if !was_there => return Err(error.into()),
        Ok(Err(error)) => drive.fail(chain(&error)),
        Err(_) => drive.fail("the VM's thread panicked".to_owned()),
    }
    if let Some(first) = drive.report.failures.first() {
        drive.report.again = options.again(seed, first.step);
    }
    status.ended.store(true, Ordering::Relaxed);
    Ok(drive.report)
}

/// Hands out the lines of the console as they come.
fn listen(reader: PipeReader) -> io::Result<mpsc::Receiver<String>> {
    let (sender, lines) = mpsc::channel();
    let listen = move || {
        let mut reader = BufReader::new(reader);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            match reader.read_until(b'\n', &mut bytes) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Nobody listens any more: it is read all the same, so that the guest never waits for a reader.
                Ok(1..) => drop(sender.send(String::from_utf8_lossy(&bytes).into_owned())),
                Ok(0) | Err(_) => return,
            }
        }
    };
    thread::Builder::new().name("listener".into()).spawn(listen)?;
    Ok(lines)
}

impl Drive<'_> {
    /// The built-in guest: acts whenever it reports progress.
    fn follow(&mut self, lines: &mpsc::Receiver<String>) {
        loop {
            match lines.recv_timeout(SILENCE) {
                Ok(line) => self.hear(&line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    self.fail(format!("the guest has said nothing for {} s", SILENCE.as_secs()));
                    let _ = self.control.stop();
                }
            }
        }
    }

    /// The guest has ended, by itself or not.
    fn end(&mut self, outcome: Option<Outcome>) {
        if matches!(outcome, Some(Outcome::Signal(_) | Outcome::Quit)) {
            // Each machine takes signals: whichever does, all of them are meant.
            self.stop.store(true, Ordering::Relaxed);
        }
        let asked = self.stop.load(Ordering::Relaxed);
        if !self.is_done && asked {
            self.report.interrupted = true;
        } else if !self.is_done && self.report.failures.is_empty() {
            self.fail("the guest ended before its storm did".to_owned());
        }
    }

    fn hear(&mut self, line: &str) {
        // A guest that talks is there: what is to be looked at in the end is known from its first word.
        if self.parts.is_none() {
            self.parts();
        }
        match Line::parse(line) {
            Line::Progress(progress) => {
                self.note(progress);
                let action = self.schedule.draw();
                self.act(action);
            }
            Line::Done(progress) => {
                let (held, answers) = (0, self.report.progress.answers);
                self.note(Progress { held, answers, ..progress });
                self.is_done = true;
            }
            Line::Bad { step, text } | Line::Failed { step, text } => self.fail_at(step, text.to_owned()),
            Line::Other(text) => tracing::debug!(text, "the guest"),
            Line::Ok => {}
        }
    }

    fn note(&mut self, progress: Progress) {
        self.report.progress = progress;
        self.status.steps.store(progress.steps, Ordering::Relaxed);
        self.status.held.store(progress.held, Ordering::Relaxed);
        self.status.checked.store(progress.checked, Ordering::Relaxed);
    }

    /// A Linux guest: acts at its own pace, from the moment that its balloon is there.
    fn lead(&mut self, lines: &mpsc::Receiver<String>) {
        let mut end = Instant::now() + BOOT;
        let (mut ended, mut drives) = (false, false);
        while !ended && Instant::now() < end && !self.stop.load(Ordering::Relaxed) {
            ended = self.watch(lines, PACE);
            if !ended && self.balloon().is_some_and(|balloon| balloon.is_active()) {
                // It storms from here on: how long it takes to boot is the host's affair.
                if !std::mem::replace(&mut drives, true) {
                    end = Instant::now() + self.options.length;
                }
                let action = self.schedule.draw();
                self.act(action);
                let steps = self.report.actions;
                let held = self.balloon().map_or(0, |balloon| balloon.actual() / config::BalloonConfig::PAGE);
                self.note(Progress { steps, held, ..Progress::default() });
            }
        }
        if ended {
            return;
        }
        if self.report.actions == 0 && !self.stop.load(Ordering::Relaxed) {
            self.fail(
                "the guest has never driven its balloon: is virtio_balloon in its kernel or initrd?".into(),
            );
        }
        // All of it must come back.
        self.act(Action::Target(0));
        let end = Instant::now() + FAREWELL;
        while self.balloon().is_some_and(|balloon| balloon.is_active() && balloon.actual() > 0) && !ended {
            if Instant::now() > end {
                let left = self.balloon().map_or(0, |balloon| balloon.actual());
                self.fail(format!(
                    "the guest still has {left} bytes in its balloon after {} s",
                    FAREWELL.as_secs()
                ));
                break;
            }
            ended = self.watch(lines, PACE);
        }
        self.act(Action::Check);
        self.is_done = !ended && !self.stop.load(Ordering::Relaxed);
        let _ = self.control.stop();
    }

    /// Reads what a Linux guest says for a while; whether it has ended.
    fn watch(&mut self, lines: &mpsc::Receiver<String>, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if is_trouble(&line) => self.fail(line.trim().to_owned()),
                Ok(line) => tracing::debug!(line = line.trim_end(), "the guest"),
                Err(RecvTimeoutError::Timeout) => return false,
                Err(RecvTimeoutError::Disconnected) => return true,
            }
        }
    }

    fn balloon(&mut self) -> Option<Arc<crate::virtio::balloon::Control>> {
        self.parts()?.balloon
    }

    /// What can be asked of the machine, once it is there; canaries are placed then, too.
    fn parts(&mut self) -> Option<Parts> {
        if self.parts.is_none() {
            let parts = self.control.parts().ok()?;
            let host = parts.ledger.open().host();
            for region in host {
                match Canaries::place(region) {
                    Ok(canaries) => {
                        self.report.canaries += canaries.count();
                        self.canaries.push(canaries);
                    }
                    Err(error) => self.fail(format!("no canary can be placed: {error}")),
                }
            }
            self.parts = Some(parts);
        }
        self.parts.clone()
    }

    fn act(&mut self, action: Action) {
        let Some(parts) = self.parts() else { return };
        tracing::debug!(?action, step = self.report.progress.steps, "the host acts");
        self.report.actions += 1;
        self.status.actions.store(self.report.actions, Ordering::Relaxed);
        let balloon = parts.balloon.clone();
        match action {
            Action::Nothing => {}
            Action::Target(bytes) => {
                if let Some(Err(error)) = balloon.map(|balloon| balloon.set_target(bytes)) {
                    self.fail(chain(&error));
                }
            }
            // A driver that is being taken or lacks the feature has no hints: that is its right.
            Action::Hint(acknowledge) => drop(balloon.map(|balloon| balloon.hinting_start(acknowledge))),
            Action::StopHints => drop(balloon.map(|balloon| balloon.hinting_stop())),
            Action::Settle => {
                if let Err(error) = parts.release.settle() {
                    self.fail(chain(&error));
                }
            }
            Action::Pause => self.still(|_| thread::sleep(PAUSE)),
            Action::Pressure(bytes) => {
                hog::press(&self.host, bytes);
            }
            Action::Check => self.still(|drive| drive.check(&parts)),
        }
    }

    /// Does something while the guest stands still.
    fn still(&mut self, mut act: impl FnMut(&mut Self)) {
        if let Err(error) = self.control.pause() {
            self.cannot(&error);
            return;
        }
        act(self);
        if let Err(error) = self.control.resume() {
            self.cannot(&error);
        }
    }

    /// A guest that has ended meanwhile has every right to.
    fn cannot(&mut self, error: &machine::control::Error) {
        use machine::control::Error;
        if !matches!(error, Error::Ended | Error::Stopping) {
            self.fail(chain(error));
        }
    }

    /// The guest has stopped, and all of its memory is still there: however short its storm was, it is looked at once.
    fn look_back(&mut self) {
        if let Some(parts) = self.parts.clone() {
            self.check(&parts);
        }
    }

    fn check(&mut self, parts: &Parts) {
        match audit(&parts.ledger, &self.canaries, self.options.tolerance()) {
            Ok(audit) => {
                self.report.checks += 1;
                self.report.apart = self.report.apart.max(audit.apart);
                self.report.ledger = Some(audit.summary);
                audit.findings.into_iter().for_each(|finding| self.fail(finding));
            }
            Err(error) => self.fail(chain(&error)),
        }
    }

    fn fail(&mut self, what: String) {
        let steps = self.report.progress.steps;
        self.fail_at((steps > 0).then_some(steps), what);
    }

    fn fail_at(&mut self, step: Option<u64>, what: String) {
        self.status.failed.store(true, Ordering::Relaxed);
        if self.report.failures.len() < KEPT {
            self.report.failures.push(Failure { step, what });
        }
    }
}

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}
