//! What is typed, on its way to the serial port: read only when the port has room for it, but for what
//! a person types, which is read ahead: Ctrl-A x has to work with a guest that reads nothing.

use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use event_manager::{EventOps, Events, MutEventSubscriber};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::console::Source;
use super::console::escape::{Command, Escape};
use super::serial::Serial;

/// As much as a 16550 of vm-superio holds: more is never read at once.
const CHUNK: usize = 64;

/// Bytes that may wait for the port where a person types: more than anybody pastes.
const AHEAD: usize = 64 << 10;

/// Feeds a [`Serial`] from its console. It belongs on the device thread's event manager.
pub struct SerialInput {
    serial: Arc<Serial>,
    /// `None` once it has ended, or from the start.
    source: Option<Source>,
    watch: Watch,
    /// Present where a person types.
    escape: Option<Escape>,
    /// Read, but not yet in the port.
    pending: Vec<u8>,
    quit: EventFd,
}

/// How it is known that there is something to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// By epoll, which watches at the moment.
    Watched,
    /// By epoll, which doesn't watch now: the port is full. Removed altogether, because a hang-up is
    /// reported whether one asks for it or not.
    Paused,
    /// Always: a regular file or /dev/null, which epoll doesn't take.
    Always,
}

impl SerialInput {
    /// Takes over the input of `serial`'s console. The event becomes readable when somebody asks to
    /// quit.
    ///
    /// # Errors
    ///
    /// No file descriptor to be had.
    pub fn new(serial: Arc<Serial>) -> io::Result<(Self, EventFd)> {
        let quit = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let source = serial.take_source();
        let escape = source.as_ref().filter(|source| source.is_terminal).map(|_| Escape::default());
        let told = quit.try_clone()?;
        Ok((Self { serial, source, watch: Watch::Paused, escape, pending: Vec::new(), quit }, told))
    }

    /// Starts to watch the source, or finds that it can't be watched.
    fn watch(&mut self, ops: &mut EventOps<'_>) {
        let Some(source) = &self.source else { return };
        if self.watch != Watch::Paused {
            return;
        }
        self.watch = match ops.add(Events::new(&source.file, EventSet::IN)) {
            Ok(()) => Watch::Watched,
            Err(event_manager::Error::Epoll(error)) if error.errno() == libc::EPERM => Watch::Always,
            Err(error) => {
                tracing::warn!(%error, "console input can't be watched: there will be none");
                self.source = None;
                return;
            }
        };
    }

    fn pause(&mut self, ops: &mut EventOps<'_>) {
        if let (Some(source), Watch::Watched) = (&self.source, self.watch) {
            if let Err(error) = ops.remove(Events::empty(&source.file)) {
                tracing::warn!(%error, "console input can't be paused");
            }
            self.watch = Watch::Paused;
        }
    }

    fn end(&mut self, ops: &mut EventOps<'_>) {
        self.pause(ops);
        self.source = None;
    }

    /// Moves input into the port until either has no more.
    fn pump(&mut self, ops: &mut EventOps<'_>) {
        loop {
            let taken = self.serial.receive(&self.pending);
            self.pending.drain(..taken);
            let most = if self.escape.is_some() { AHEAD } else { 1 };
            if self.pending.len() >= most {
                // The port says when it has room.
                return self.pause(ops);
            }
            self.watch(ops);
            // A full port is asked for at least one byte more, which then waits in `pending`.
            let room = if self.escape.is_some() { CHUNK } else { self.serial.capacity().clamp(1, CHUNK) };
            let Some(source) = &mut self.source else { return };
            let mut chunk = [0; CHUNK];
            let ready = self.watch == Watch::Always || readable(source);
            if !ready {
                return;
            }
            match source.file.read(&mut chunk[..room]) {
                Ok(0) => return self.end(ops),
                Ok(count) => self.take(&chunk[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    tracing::debug!(%error, "console input ended");
                    return self.end(ops);
                }
            }
        }
    }

    /// Takes what was typed for the guest or for us.
    fn take(&mut self, typed: &[u8]) {
        let Some(escape) = &mut self.escape else {
            self.pending.extend_from_slice(typed);
            return;
        };
        for &byte in typed {
            match escape.feed(byte) {
                None => {}
                Some(Command::Send(byte)) => self.pending.push(byte),
                Some(Command::SendBoth(bytes)) => self.pending.extend_from_slice(&bytes),
                Some(Command::Help) => self.serial.output().push(Escape::HELP.as_bytes()),
                Some(Command::Quit) => {
                    // Full means that it was asked for before.
                    let _ = self.quit.write(1);
                }
            }
        }
    }
}

/// Whether a read will find something: the descriptor may be shared with others who read, so it can't
/// be made non-blocking, and the device thread must not wait.
fn readable(source: &Source) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut fds = [PollFd::new(&source.file, PollFlags::IN)];
    matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
}

impl MutEventSubscriber for SerialInput {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let room = Events::new(self.serial.room_event(), EventSet::IN);
        if let Err(error) = ops.add(room) {
            tracing::error!(%error, "console input can't be throttled: there will be none");
            self.source = None;
        }
        self.pump(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        if events.fd() == self.serial.room_event().as_raw_fd() {
            // Empty means that somebody else took the news: the port is asked either way.
            let _ = self.serial.room_event().read();
        }
        self.pump(ops);
    }
}

#[cfg(test)]
mod tests;
