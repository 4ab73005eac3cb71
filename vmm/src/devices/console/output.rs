//! The bounded buffer between the guest's output and the thread that writes it out.
//!
//! Nothing here waits but [`Output::wait_for_room`], which a vCPU calls before it touches the serial
//! port. A push always succeeds; with several vCPUs printing at once the buffer may pass its bound by
//! a byte for each.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};

use crate::lock::lock;

/// Bytes that may wait to be written before a vCPU that prints has to wait too.
const BOUND: usize = 64 << 10;

/// What happens to output that the other end doesn't take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// It waits, and so does who prints.
    Waits,
    /// It is dropped. The file is non-blocking.
    Drops,
}

/// The way out of the serial port. Clones share it.
#[derive(Clone)]
pub struct Output(Option<Arc<Pusher>>);

/// What the clones share; the thread has the rest of it only.
struct Pusher(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// There is something to write, or nobody is left to push more.
    filled: Condvar,
    /// Something was written, or there is no more waiting.
    drained: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// The thread is writing what it took out of the buffer.
    writing: bool,
    /// Nobody waits.
    stopped: bool,
    /// Nobody waits for the moment, and nothing is dropped for it.
    hurried: bool,
    /// The other end is gone for good.
    broken: bool,
    /// Nobody is left to push.
    closed: bool,
    dropped: u64,
}

impl Output {
    /// An output that drops everything.
    pub fn null() -> Self {
        Self(None)
    }

    /// An output to `file`, written by a thread. `keep` is kept open for as long.
    ///
    /// # Errors
    ///
    /// No thread to be had.
    pub fn start(file: File, full: Full, keep: Option<OwnedFd>) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { state: Mutex::default(), filled: Condvar::new(), drained: Condvar::new() });
        let theirs = shared.clone();
        thread::Builder::new().name("console".into()).spawn(move || {
            theirs.write_out(file, full);
            drop(keep);
        })?;
        Ok(Self(Some(Arc::new(Pusher(shared)))))
    }

    fn shared(&self) -> Option<&Shared> {
        self.0.as_ref().map(|pusher| &*pusher.0)
    }

    /// Takes bytes without waiting.
    pub fn push(&self, bytes: &[u8]) {
        let Some(shared) = self.shared() else { return };
        let mut state = lock(&shared.state);
        let full = state.stopped && state.buffer.len() >= BOUND;
        if state.broken || full {
            state.dropped += bytes.len() as u64;
            return;
        }
        state.buffer.extend_from_slice(bytes);
        shared.filled.notify_one();
    }

    /// Waits until less than the bound is in the buffer, or there is no use in waiting.
    pub fn wait_for_room(&self) {
        let Some(shared) = self.shared() else { return };
        let state = lock(&shared.state);
        let full = |state: &mut State| {
            state.buffer.len() >= BOUND && !state.stopped && !state.hurried && !state.broken
        };
        drop(shared.drained.wait_while(state, full));
    }

    /// Ends all waiting, now and until [`Output::resume`].
    pub fn stop(&self) {
        let Some(shared) = self.shared() else { return };
        lock(&shared.state).stopped = true;
        shared.drained.notify_all();
    }

    /// Has who prints wait again, after [`Output::stop`] or [`Output::hurry`].
    pub fn resume(&self) {
        let Some(shared) = self.shared() else { return };
        let mut state = lock(&shared.state);
        state.stopped = false;
        state.hurried = false;
    }

    /// Whether who waits goes on at once with the byte that it has, which goes over the bound. Each vCPU adds
    /// one at most, since it is stopped before it comes back.
    pub fn hurry(&self, on: bool) {
        let Some(shared) = self.shared() else { return };
        lock(&shared.state).hurried = on;
        shared.drained.notify_all();
    }

    /// Waits until all is written out, for `limit` at most.
    pub fn finish(&self, limit: Duration) {
        let Some(shared) = self.shared() else { return };
        let end = Instant::now() + limit;
        let mut state = lock(&shared.state);
        while (!state.buffer.is_empty() || state.writing) && !state.broken {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                tracing::warn!(bytes = state.buffer.len(), "the console took too long: output is lost");
                return;
            }
            state = match shared.drained.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Bytes that could not be delivered.
    pub fn dropped(&self) -> u64 {
        self.shared().map_or(0, |shared| lock(&shared.state).dropped)
    }
}

impl Drop for Pusher {
    fn drop(&mut self) {
        lock(&self.0.state).closed = true;
        self.0.filled.notify_one();
    }
}

impl Shared {
    fn write_out(&self, mut file: File, full: Full) {
        let mut bytes = Vec::new();
        loop {
            {
                let mut state = lock(&self.state);
                state.writing = false;
                self.drained.notify_all();
                while state.buffer.is_empty() && !state.closed {
                    state = match self.filled.wait(state) {
                        Ok(state) => state,
                        Err(poisoned) => poisoned.into_inner(),
                    };
                }
                if state.buffer.is_empty() {
                    return;
                }
                // The two buffers take turns, so that neither is allocated again.
                std::mem::swap(&mut bytes, &mut state.buffer);
                state.writing = true;
                // There is room from here on, not only when all is written.
                self.drained.notify_all();
            }
            let lost = write_all(&mut file, &bytes, full);
            bytes.clear();
            match lost {
                Ok(0) => {}
                Ok(lost) => lock(&self.state).dropped += lost,
                Err(error) => {
                    tracing::warn!(%error, "the console's other end is gone: output is dropped");
                    let mut state = lock(&self.state);
                    state.broken = true;
                    state.buffer = Vec::new();
                }
            }
        }
    }
}

/// Writes all of it; returns how much was dropped.
fn write_all(file: &mut File, mut bytes: &[u8], full: Full) -> io::Result<u64> {
    while !bytes.is_empty() {
        match file.write(bytes) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                if full == Full::Drops {
                    return Ok(bytes.len() as u64);
                }
                // Somebody who shares this file made it non-blocking.
                let _ = poll(&mut [PollFd::new(file, PollFlags::OUT)], None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::sync::atomic::{AtomicBool, Ordering};

    const LONG: Duration = Duration::from_secs(60);

    fn pipe() -> (io::PipeReader, File) {
        let (reader, writer) = io::pipe().unwrap();
        (reader, File::from(OwnedFd::from(writer)))
    }

    /// An output whose thread is stuck in a write and whose buffer is full.
    fn stuck() -> (io::PipeReader, Output, usize) {
        let (reader, writer) = pipe();
        let output = Output::start(writer, Full::Waits, None).unwrap();
        // More than a pipe holds. Once the thread has taken it, it stays in that write.
        let long = 1 << 20;
        output.push(&vec![b'x'; long]);
        while !lock(&output.shared().unwrap().state).buffer.is_empty() {
            thread::yield_now();
        }
        output.push(&[b'x'; BOUND]);
        (reader, output, long + BOUND)
    }

    #[test]
    fn everything_arrives_in_order() {
        let (mut reader, writer) = pipe();
        let output = Output::start(writer, Full::Waits, None).unwrap();
        let expected: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
        let sent = expected.clone();
        let sender = thread::spawn(move || {
            for chunk in sent.chunks(7) {
                output.wait_for_room();
                output.push(chunk);
            }
        });
        let mut seen = Vec::new();
        // The pipe ends when the last clone of the output has gone.
        reader.read_to_end(&mut seen).unwrap();
        sender.join().unwrap();
        assert_eq!(seen, expected);
    }

    #[test]
    fn who_prints_faster_than_the_reader_waits_and_pushing_never_does() {
        let (mut reader, output, len) = stuck();
        let passed = Arc::new(AtomicBool::new(false));
        let (theirs, theirs_passed) = (output.clone(), passed.clone());
        let waiter = thread::spawn(move || {
            theirs.wait_for_room();
            theirs_passed.store(true, Ordering::SeqCst);
        });
        output.push(b"!");
        assert!(!passed.load(Ordering::SeqCst));
        let mut seen = vec![0; len + 1];
        reader.read_exact(&mut seen).unwrap();
        waiter.join().unwrap();
        output.finish(LONG);
        assert_eq!((seen.last(), output.dropped()), (Some(&b'!'), 0));
    }

    #[test]
    fn stopping_ends_the_wait_for_a_reader_that_never_comes() {
        let (_reader, output, _) = stuck();
        let theirs = output.clone();
        let waiter = thread::spawn(move || theirs.wait_for_room());
        output.stop();
        waiter.join().unwrap();
        output.push(b"too late");
        assert_eq!(output.dropped(), 8);
        output.finish(Duration::ZERO);
    }

    #[test]
    fn hurrying_ends_the_wait_and_drops_nothing() {
        let (mut reader, output, len) = stuck();
        let theirs = output.clone();
        let waiter = thread::spawn(move || {
            theirs.wait_for_room();
            theirs.push(b"!");
        });
        output.hurry(true);
        waiter.join().unwrap();
        output.hurry(false);
        let mut seen = vec![0; len + 1];
        reader.read_exact(&mut seen).unwrap();
        assert_eq!((seen.last(), output.dropped()), (Some(&b'!'), 0));
    }

    #[test]
    fn a_reader_that_went_away_blocks_nobody() {
        let (reader, writer) = pipe();
        drop(reader);
        let output = Output::start(writer, Full::Waits, None).unwrap();
        output.push(b"x");
        output.finish(LONG);
        output.push(&[0; 2 * BOUND]);
        output.wait_for_room();
        assert!(output.dropped() >= 2 * BOUND as u64);
    }
}
