//! A `quire` process: its console, its input, its end.
//!
//! Every wait has a limit, so that a guest that hangs fails its test with what it printed. The
//! limits are far beyond what an emulated host needs; none of them measures anything.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use crate::environment;
use crate::terminal::Terminal;

/// How long anything may take, or a process that has to end be silent, before it counts as hanging.
pub const LIMIT: Duration = Duration::from_secs(180);
/// How long a process that has to end may take, whatever it prints.
const LONGEST: Duration = Duration::from_secs(900);
/// How often a process is asked whether it has ended.
pub(crate) const POLL: Duration = Duration::from_millis(10);
/// After how long a terminal whose program has ended has nothing more to say.
const SILENCE: Duration = Duration::from_millis(500);

/// What was printed to one of a process's outputs.
#[derive(Debug, Default)]
struct Stream {
    text: String,
    /// Up to where somebody has waited for it.
    seen: usize,
    ended: bool,
}

/// What a process printed so far, by output: what goes to one is never in the middle of what goes to
/// another.
#[derive(Debug, Default)]
struct Log {
    streams: Mutex<Vec<Stream>>,
    grew: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Vec<Stream>> {
        // A panic while the lock is held leaves a text that is complete up to there.
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn follow(self: &Arc<Self>, mut from: impl Read + Send + 'static) {
        let index = {
            let mut streams = self.lock();
            streams.push(Stream::default());
            streams.len() - 1
        };
        let log = Arc::clone(self);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            // A terminal whose other end has closed reads as an error, not as the end.
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                log.lock()[index].text.push_str(&String::from_utf8_lossy(&buffer[..count]));
                log.grew.notify_all();
            }
            log.lock()[index].ended = true;
            log.grew.notify_all();
        });
    }

    /// Bytes that have come so far.
    fn size(&self) -> usize {
        self.lock().iter().map(|stream| stream.text.len()).sum()
    }

    /// Everything, one output after the other.
    fn text(&self) -> String {
        all(&self.lock())
    }
}

fn all(streams: &[Stream]) -> String {
    streams.iter().map(|stream| stream.text.as_str()).collect()
}

/// A running `quire`; it is killed when the value is dropped.
#[derive(Debug)]
pub struct Guest {
    child: Child,
    log: Arc<Log>,
    input: Option<File>,
}

impl Guest {
    /// Starts `quire` with `args`, its standard input a pipe, what it prints to either output kept.
    ///
    /// # Panics
    /// Where the program can't be started.
    pub fn start<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        Self::spawn(Command::new(environment::quire()).args(args))
    }

    /// Starts `command` as [`Guest::start`] does `quire`.
    ///
    /// # Panics
    /// Where the program can't be started.
    pub fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {:?}: {error}", command.get_program()));
        let log = Arc::<Log>::default();
        log.follow(child.stdout.take().expect("standard output is a pipe"));
        log.follow(child.stderr.take().expect("standard error is a pipe"));
        let input = child.stdin.take().map(|stdin| File::from(OwnedFd::from(stdin)));
        Self { child, log, input }
    }

    /// Starts `quire run` with `args` and its three standard files on `terminal`.
    ///
    /// # Panics
    /// Where the program can't be started.
    pub fn start_on<A: AsRef<OsStr>>(terminal: &Terminal, args: impl IntoIterator<Item = A>) -> Self {
        let file = || Stdio::from(terminal.user_end());
        let child = Command::new(environment::quire())
            .args(args)
            .stdin(file())
            .stdout(file())
            .stderr(file())
            .spawn()
            .unwrap_or_else(|error| panic!("can't start quire: {error}"));
        let log = Arc::<Log>::default();
        log.follow(terminal.far_end());
        Self { child, log, input: Some(terminal.far_end()) }
    }

    /// Follows what appears in `source` too, such as a pseudo-terminal of the guest's.
    pub fn follow(&self, source: impl Read + Send + 'static) {
        self.log.follow(source);
    }

    /// Waits until `pattern` is printed to one of its outputs behind the last one waited for there, and
    /// returns everything that was printed there since then, up to its end.
    ///
    /// # Panics
    /// Where the process ends without printing it, or [`LIMIT`] is over.
    #[track_caller]
    pub fn wait_for(&mut self, pattern: &str) -> String {
        let deadline = Instant::now() + LIMIT;
        let mut streams = self.log.lock();
        loop {
            for stream in streams.iter_mut() {
                if let Some(at) = stream.text[stream.seen..].find(pattern) {
                    let from = stream.seen;
                    stream.seen += at + pattern.len();
                    return stream.text[from..stream.seen].to_owned();
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let ended = streams.iter().all(|stream| stream.ended);
            if ended {
                let status = self.child.wait().expect("a child can be waited for");
                panic!("it ended without printing {pattern:?}, {status}; it printed:\n{}", all(&streams));
            }
            assert!(!left.is_zero(), "it did not print {pattern:?}; it printed:\n{}", all(&streams));
            let (next, _) = self.log.grew.wait_timeout(streams, left).unwrap_or_else(PoisonError::into_inner);
            streams = next;
        }
    }

    /// What it printed so far, one output after the other.
    pub fn printed(&self) -> String {
        self.log.text()
    }

    /// Types `text`.
    ///
    /// # Panics
    /// Where the process no longer takes input.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        let input = self.input.as_mut().expect("the input has not been closed");
        input.write_all(text.as_bytes()).and_then(|()| input.flush()).expect("quire takes input");
    }

    /// Ends the input, as a closed pipe does.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Sends `signal`.
    ///
    /// # Panics
    /// Where there is no such process any more.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("the process is there");
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Waits for its end, and returns its status with everything that it printed.
    ///
    /// # Panics
    /// Where it has printed nothing for as long as [`LIMIT`], or does not end at all.
    #[track_caller]
    pub fn wait(mut self) -> (ExitStatus, String) {
        self.close_input();
        let latest = Instant::now() + LONGEST;
        let mut deadline = Instant::now() + LIMIT;
        let mut printed = self.log.size();
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if printed < self.log.size() => {
                    printed = self.log.size();
                    deadline = latest.min(Instant::now() + LIMIT);
                }
                None if Instant::now() < deadline => thread::sleep(POLL),
                None => panic!("it did not end; it printed:\n{}", self.log.text()),
            }
        };
        // The readers come to an end of their own, but for one of a terminal, whose user's end this
        // process holds open: what it has to say is said when it is silent.
        let mut streams = self.log.lock();
        while streams.iter().any(|stream| !stream.ended) {
            let (next, silent) =
                self.log.grew.wait_timeout(streams, SILENCE).unwrap_or_else(PoisonError::into_inner);
            streams = next;
            if silent.timed_out() {
                break;
            }
        }
        (status, all(&streams))
    }

    /// Waits for its end, and returns as soon as it has come: for who measures it.
    ///
    /// # Panics
    /// Where [`LIMIT`] is over.
    #[track_caller]
    pub fn wait_until_gone(&mut self) {
        let process = pidfd_open(self.pid(), PidfdFlags::empty()).expect("the process is there");
        let limit = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
        let ended = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&limit));
        assert_eq!(ended, Ok(1), "it did not end; it printed:\n{}", self.log.text());
        self.child.wait().expect("a child can be waited for");
    }

    /// Waits for its end and returns what it printed.
    ///
    /// # Panics
    /// Where it ends with another exit code than `code`, or not at all.
    #[track_caller]
    pub fn expect_exit(self, code: i32) -> String {
        let (status, text) = self.wait();
        assert_eq!(status.code(), Some(code), "{status}; it printed:\n{text}");
        text
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended already.
        let _: io::Result<()> = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `quire` with `args` to its end: its exit code, and what it printed.
///
/// # Panics
/// Where it can't be started, hangs, or is killed by a signal.
#[track_caller]
pub fn run<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> (i32, String) {
    let (status, text) = Guest::start(args).wait();
    (status.code().unwrap_or_else(|| panic!("{status}; it printed:\n{text}")), text)
}

/// Copies a descriptor, for two owners of one open file.
///
/// # Panics
/// Where this process has no descriptor left.
pub(crate) fn duplicate(fd: &impl AsFd) -> OwnedFd {
    fd.as_fd().try_clone_to_owned().expect("this process has descriptors left")
}
