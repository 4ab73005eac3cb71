//! Serves the lab: one program at a time, started and fed by frames.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use lab_init::plan;
use lab_init::wire::Frame;

use crate::child::Child;

/// The end of the port that frames go out on: shared by the threads that carry output.
#[derive(Clone)]
pub(crate) struct Port(Arc<Mutex<File>>);

impl Port {
    /// Sends one frame, whole. An error means that the lab has gone: the reading side sees that too
    /// and ends the agent.
    pub(crate) fn send(&self, frame: &Frame) {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frame.write(&mut *file);
    }
}

/// Serves until the lab says so or goes away.
pub(crate) fn serve() -> io::Result<()> {
    let mut from = open_port()?;
    let port = Port(Arc::new(Mutex::new(from.try_clone()?)));
    if let Ok(trouble) = std::env::var("LAB_TROUBLE") {
        port.send(&Frame::Refused(trouble));
        return Ok(());
    }
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    port.send(&Frame::Ready(release));
    let mut child: Option<Child> = None;
    while let Some(frame) = Frame::read(&mut from)? {
        match (frame, child.as_mut()) {
            (Frame::Start(start), _) => match Child::start(&start, &port) {
                Ok(started) => child = Some(started),
                Err(error) => port.send(&Frame::Refused(format!("{}: {error}", start.program))),
            },
            (Frame::Input(bytes), Some(child)) => child.input(bytes),
            (Frame::InputEnd, Some(child)) => child.end_input(),
            (Frame::Resize(size), Some(child)) => child.resize(size),
            (Frame::Signal(signal), Some(child)) => child.signal(signal),
            (Frame::PowerOff, _) => break,
            // Input for a program that has just ended.
            (_, _) => {}
        }
    }
    Ok(())
}

/// The device of the port with the agreed name. The driver is part of the kernel, but the name
/// comes from the machine by a message of its own: it may take a moment.
fn open_port() -> io::Result<File> {
    for _ in 0..500 {
        if let Ok(entries) = fs::read_dir("/sys/class/virtio-ports") {
            for entry in entries.flatten() {
                let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
                if name.trim() == plan::PORT {
                    let device = std::path::Path::new("/dev").join(entry.file_name());
                    return OpenOptions::new().read(true).write(true).open(device);
                }
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    Err(io::Error::new(io::ErrorKind::NotFound, format!("no virtio-serial port is called {}", plan::PORT)))
}
