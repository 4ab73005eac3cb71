//! One started program.
#![expect(unsafe_code, reason = "a terminal is made the controlling one between fork and exec")]

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use lab_init::wire::{Exit, Frame, Size, Start};
use rustix::process::{Pid, Signal};
use rustix::pty::{OpenptFlags, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::agent::Port;

/// How long output may still come from what a program left behind, once it has ended itself.
const LINGER: Duration = Duration::from_secs(1);

/// A running program.
pub(crate) struct Child {
    group: Option<Pid>,
    /// Fed to standard input by a thread of its own: a program that does not read must not keep
    /// a signal or a new size waiting. `None` once it has ended.
    input: Option<Sender<Vec<u8>>>,
    terminal: Option<OwnedFd>,
}

impl Child {
    /// Starts it; its output and its end are sent to the port by threads.
    pub(crate) fn start(start: &Start, port: &Port) -> io::Result<Child> {
        let mut command = Command::new(&start.program);
        command.args(&start.args).env_clear();
        command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("HOME", "/root");
        command.envs(start.env.iter().map(|(name, value)| (name, value)));
        command.current_dir(&start.folder);
        match start.terminal {
            Some(size) => Self::on_terminal(command, size, port),
            None => Self::on_pipes(command, port),
        }
    }

    fn on_pipes(mut command: Command, port: &Port) -> io::Result<Child> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (done, finished) = channel();
        if let Some(output) = child.stdout.take() {
            carry(output, port.clone(), Frame::Output, done.clone());
        }
        if let Some(error) = child.stderr.take() {
            carry(error, port.clone(), Frame::Error, done);
        }
        let input = child.stdin.take().map(feed);
        let group = Pid::from_raw(child.id() as i32);
        watch(child, finished, port.clone());
        Ok(Child { group, input, terminal: None })
    }

    fn on_terminal(mut command: Command, size: Size, port: &Port) -> io::Result<Child> {
        let main = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        unlockpt(&main)?;
        let name = ptsname(&main, Vec::new())?;
        tcsetwinsize(&main, window(size))?;
        let path = name.to_str().map_err(io::Error::other)?.to_owned();
        let side = OpenOptions::new().read(true).write(true).open(path)?;
        command.stdin(side.try_clone()?).stdout(side.try_clone()?).stderr(side);
        // SAFETY: between fork and exec only two system calls are made, both async-signal-safe;
        // nothing is allocated and no lock is taken.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn()?;
        // The command holds this side's descriptors: the terminal ends when the program's do.
        drop(command);
        let (done, finished) = channel();
        carry(File::from(main.try_clone()?), port.clone(), Frame::Output, done);
        let input = Some(feed(File::from(main.try_clone()?)));
        let group = Pid::from_raw(child.id() as i32);
        watch(child, finished, port.clone());
        Ok(Child { group, input, terminal: Some(main) })
    }

    /// Bytes for its standard input.
    pub(crate) fn input(&mut self, bytes: Vec<u8>) {
        if let Some(input) = &self.input {
            // The feeder is gone once the program has closed its input: as with a broken pipe.
            let _ = input.send(bytes);
        }
    }

    /// The end of its standard input.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// A new size for its terminal.
    pub(crate) fn resize(&mut self, size: Size) {
        if let Some(terminal) = &self.terminal {
            let _ = tcsetwinsize(terminal, window(size));
        }
    }

    /// A signal for the program and what it started. One that has ended is no error.
    pub(crate) fn signal(&mut self, signal: i32) {
        if let (Some(group), Some(signal)) = (self.group, Signal::from_named_raw(signal)) {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }
}

fn window(size: Size) -> Winsize {
    Winsize { ws_col: size.columns, ws_row: size.rows, ws_xpixel: 0, ws_ypixel: 0 }
}

/// Writes what comes through the channel, until it closes or the program stops reading.
fn feed(mut to: impl Write + Send + 'static) -> Sender<Vec<u8>> {
    let (input, pieces) = channel::<Vec<u8>>();
    thread::spawn(move || {
        while let Ok(piece) = pieces.recv() {
            if to.write_all(&piece).is_err() {
                return;
            }
        }
    });
    input
}

/// Carries output to the port until it ends.
fn carry(mut from: impl Read + Send + 'static, port: Port, frame: fn(Vec<u8>) -> Frame, done: Sender<()>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 32 << 10];
        loop {
            match from.read(&mut buffer) {
                // A terminal whose other side is closed reads as EIO.
                Ok(0) | Err(_) => break,
                Ok(length) => port.send(&frame(buffer[..length].to_vec())),
            }
        }
        // The watcher may have stopped waiting.
        let _ = done.send(());
    });
}

/// Reports the end, after the output.
fn watch(mut child: std::process::Child, finished: Receiver<()>, port: Port) {
    thread::spawn(move || {
        let exit = match child.wait() {
            Ok(status) => match status.signal() {
                Some(signal) => Exit::Signal(signal),
                None => Exit::Code(status.code().unwrap_or(1)),
            },
            Err(_) => Exit::Code(1),
        };
        // Either all ends of the output are closed, or something left behind still holds one.
        while finished.recv_timeout(LINGER).is_ok() {}
        // What was written through a mapping of a shared file has to be outside by now.
        rustix::fs::sync();
        port.send(&Frame::Exited(exit));
    });
}
