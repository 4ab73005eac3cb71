//! The serial port: a 16550 with byte-wide registers, by vm-superio.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use vm_superio::Trigger;
use vm_superio::serial::{SerialEvents, SerialState};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::bus::MmioDevice;
use super::console::output::Output;
use super::console::{Console, Source, terminal::RawTerminal};
use crate::lock::lock;

/// Receive and transmit buffer.
const DATA: u64 = 0;
/// Modem control: the loop-back mode is switched here.
const MODEM_CONTROL: u64 = 4;

/// A 16550 between the guest and a [`Console`].
pub struct Serial {
    port: Mutex<Port>,
    output: Output,
    interrupt: Arc<EventFd>,
    room: Arc<Room>,
    first_byte: Arc<OnceLock<Instant>>,
    source: Mutex<Option<Source>>,
    terminal: Mutex<Option<RawTerminal>>,
}

type Port = vm_superio::Serial<Interrupt, Arc<Room>, Transmitter>;

impl Serial {
    /// Bytes of address space.
    pub const SIZE: u64 = 8;

    /// A port at whose other end is `console`. When the guest sends its first byte is noted in
    /// `first_byte`.
    ///
    /// # Errors
    ///
    /// No file descriptor to be had.
    pub fn new(console: Console, first_byte: Arc<OnceLock<Instant>>) -> io::Result<Arc<Self>> {
        let Console { source, output, terminal, .. } = console;
        let interrupt = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let room = Arc::new(Room::new()?);
        let port = port(&interrupt, &room, &output, &first_byte)?;
        Ok(Arc::new(Self {
            port: Mutex::new(port),
            output,
            interrupt,
            room,
            first_byte,
            source: Mutex::new(source),
            terminal: Mutex::new(terminal),
        }))
    }

    /// Written whenever the port wants the guest's attention: an edge.
    pub fn interrupt_event(&self) -> &EventFd {
        &self.interrupt
    }

    /// Puts the port back to what it is at power-on, also after [`Serial::stop`]. What the guest has sent
    /// stays sent.
    pub fn reset(&self) {
        match port(&self.interrupt, &self.room, &self.output, &self.first_byte) {
            Ok(port) => *lock(&self.port) = port,
            Err(error) => tracing::error!(%error, "the serial port could not be reset"),
        }
        self.output.resume();
        self.room.tell();
    }

    /// From now on nobody waits for a terminal that takes nothing: what doesn't fit is dropped. To be
    /// called before vCPU threads are waited for; [`Serial::reset`] takes it back.
    pub fn stop(&self) {
        self.output.stop();
    }

    /// Whether a vCPU that waits for a terminal goes on at once, with the byte that it has: so that it can
    /// be paused. Nothing is dropped.
    pub fn hurry(&self, on: bool) {
        self.output.hurry(on);
    }

    /// Writes out what the guest has sent, for `limit` at most, and gives the terminal back.
    pub fn finish(&self, limit: Duration) {
        self.output.finish(limit);
        drop(lock(&self.terminal).take());
    }

    /// Where input comes from; given once.
    pub(super) fn take_source(&self) -> Option<Source> {
        lock(&self.source).take()
    }

    /// Where to write what is not the guest's.
    pub(super) fn output(&self) -> &Output {
        &self.output
    }

    /// Readable when there is room again after [`Serial::receive`] took less than it was given.
    pub(super) fn room_event(&self) -> &EventFd {
        &self.room.event
    }

    /// Bytes that the receive buffer has room for.
    pub(super) fn capacity(&self) -> usize {
        lock(&self.port).fifo_capacity()
    }

    /// Puts input into the receive buffer; returns how much of it.
    pub(super) fn receive(&self, input: &[u8]) -> usize {
        let mut port = lock(&self.port);
        let taken = match port.enqueue_raw_bytes(input) {
            Ok(taken) => taken,
            Err(vm_superio::serial::Error::FullFifo) => 0,
            Err(error) => {
                // The bytes are in; only the interrupt failed.
                tracing::error!(%error, "the serial port's interrupt could not be raised");
                input.len()
            }
        };
        if taken < input.len() {
            // Under the port's lock: the guest can't have emptied the buffer unnoticed.
            self.room.wanted.store(true, Ordering::Relaxed);
        }
        taken
    }
}

fn port(
    interrupt: &Arc<EventFd>,
    room: &Arc<Room>,
    output: &Output,
    first_byte: &Arc<OnceLock<Instant>>,
) -> io::Result<Port> {
    let transmitter = Transmitter { output: output.clone(), first_byte: first_byte.clone() };
    Port::from_state(&SerialState::default(), Interrupt(interrupt.clone()), room.clone(), transmitter)
        .map_err(|error| io::Error::other(error.to_string()))
}

impl MmioDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let ([byte], Ok(register)) = (data, u8::try_from(offset)) {
            *byte = lock(&self.port).read(register);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (&[byte], Ok(register)) = (data, u8::try_from(offset)) else { return };
        if offset == DATA {
            // Before the lock, which input needs too.
            self.output.wait_for_room();
        }
        if let Err(error) = lock(&self.port).write(register, byte) {
            tracing::debug!(%error, "serial port");
        }
        if offset == MODEM_CONTROL {
            // Input can't enter a port in loop-back mode; it may have been left now.
            self.room.tell();
        }
    }
}

/// The port's interrupt line.
#[derive(Debug)]
struct Interrupt(Arc<EventFd>);

impl Trigger for Interrupt {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        match self.0.write(1) {
            // As many edges as a counter holds are waiting: one more makes no difference.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }
}

/// Tells whoever has input left that there is room for it.
#[derive(Debug)]
struct Room {
    wanted: AtomicBool,
    event: EventFd,
}

impl Room {
    fn new() -> io::Result<Self> {
        Ok(Self { wanted: AtomicBool::new(false), event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)? })
    }

    fn tell(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            // It can only fail by being full, and then it is readable, which is what it is for.
            let _ = self.event.write(1);
        }
    }
}

impl SerialEvents for Room {
    fn buffer_read(&self) {}

    fn out_byte(&self) {}

    fn tx_lost_byte(&self) {}

    fn in_buffer_empty(&self) {
        self.tell();
    }
}

/// The way out: notes when it is first used.
struct Transmitter {
    output: Output,
    first_byte: Arc<OnceLock<Instant>>,
}

impl Write for Transmitter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.first_byte.get_or_init(Instant::now);
        self.output.push(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
