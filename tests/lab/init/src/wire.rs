//! Frames between the lab and the emulated host.
//!
//! A frame is a kind (one byte), the payload's length in bytes (four bytes, little endian) and the
//! payload: raw bytes for data, JSON for the rest. Both ends are of one build, so there is no
//! version; a kind or a length that does not exist ends the session.

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// The longest payload: data is sent in smaller pieces, and no command line comes near.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// A terminal's size, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// What to start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The program: an absolute path, or a name looked up in PATH.
    pub program: String,
    /// Its arguments, without the program's name.
    pub args: Vec<String>,
    /// Variables added to the host's few.
    pub env: Vec<(String, String)>,
    /// Where it runs.
    pub folder: String,
    /// A terminal of this size, or pipes.
    pub terminal: Option<Size>,
}

/// How a program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    /// It returned this code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Exit {
    /// The code that a shell would report.
    pub fn code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// The host is up; this is its kernel's release.
    Ready(String),
    /// The host could not do what was asked, and why.
    Refused(String),
    /// Start a program.
    Start(Start),
    /// Bytes for its standard input.
    Input(Vec<u8>),
    /// Its standard input ends here.
    InputEnd,
    /// Bytes from its standard output, or its terminal.
    Output(Vec<u8>),
    /// Bytes from its standard error.
    Error(Vec<u8>),
    /// The terminal changed its size.
    Resize(Size),
    /// Send this signal to the program and what it started.
    Signal(i32),
    /// The program ended, and all its output has been sent.
    Exited(Exit),
    /// Switch the host off.
    PowerOff,
}

impl Frame {
    fn parts(&self) -> io::Result<(u8, Vec<u8>)> {
        Ok(match self {
            Frame::Ready(release) => (1, release.clone().into_bytes()),
            Frame::Refused(why) => (2, why.clone().into_bytes()),
            Frame::Start(start) => (3, serde_json::to_vec(start)?),
            Frame::Input(bytes) => (4, bytes.clone()),
            Frame::InputEnd => (5, Vec::new()),
            Frame::Output(bytes) => (6, bytes.clone()),
            Frame::Error(bytes) => (7, bytes.clone()),
            Frame::Resize(size) => (8, serde_json::to_vec(size)?),
            Frame::Signal(signal) => (9, serde_json::to_vec(signal)?),
            Frame::Exited(exit) => (10, serde_json::to_vec(exit)?),
            Frame::PowerOff => (11, Vec::new()),
        })
    }

    /// Writes the frame in one piece.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let (kind, payload) = self.parts()?;
        if payload.len() > MAX_PAYLOAD {
            return Err(invalid(format!("a frame of {} bytes is too long", payload.len())));
        }
        let mut bytes = Vec::with_capacity(5 + payload.len());
        bytes.push(kind);
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&payload);
        to.write_all(&bytes)?;
        to.flush()
    }

    /// Reads the next frame; `None` where the other end closed between two frames.
    ///
    /// # Errors
    /// Those of the reader, and `InvalidData` for a frame that can't be.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Frame>> {
        let mut kind = [0];
        loop {
            match from.read(&mut kind) {
                Ok(0) => return Ok(None),
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_PAYLOAD {
            return Err(invalid(format!("a frame claims {length} bytes, more than {MAX_PAYLOAD}")));
        }
        let mut payload = vec![0; length];
        from.read_exact(&mut payload)?;
        Ok(Some(match kind[0] {
            1 => Frame::Ready(text(payload)?),
            2 => Frame::Refused(text(payload)?),
            3 => Frame::Start(json(&payload)?),
            4 => Frame::Input(payload),
            5 => Frame::InputEnd,
            6 => Frame::Output(payload),
            7 => Frame::Error(payload),
            8 => Frame::Resize(json(&payload)?),
            9 => Frame::Signal(json(&payload)?),
            10 => Frame::Exited(json(&payload)?),
            11 => Frame::PowerOff,
            kind => return Err(invalid(format!("no frame has the kind {kind}"))),
        }))
    }
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn text(payload: Vec<u8>) -> io::Result<String> {
    String::from_utf8(payload).map_err(|error| invalid(error.to_string()))
}

fn json<T: DeserializeOwned>(payload: &[u8]) -> io::Result<T> {
    serde_json::from_slice(payload).map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_comes_back_as_it_was_sent() {
        let start = Start {
            program: "/bin/true".into(),
            args: vec!["a b".into(), "\"".into()],
            env: vec![("K".into(), "V=1".into())],
            folder: "/".into(),
            terminal: Some(Size { columns: 80, rows: 25 }),
        };
        let frames = [
            Frame::Ready("7.3".into()),
            Frame::Refused("no".into()),
            Frame::Start(start),
            Frame::Input(vec![0, 255, 10]),
            Frame::InputEnd,
            Frame::Output(vec![]),
            Frame::Error(vec![1; 70_000]),
            Frame::Resize(Size { columns: 1, rows: 2 }),
            Frame::Signal(15),
            Frame::Exited(Exit::Signal(9)),
            Frame::PowerOff,
        ];
        let mut bytes = Vec::new();
        for frame in &frames {
            frame.write(&mut bytes).unwrap();
        }
        let mut from = bytes.as_slice();
        for frame in &frames {
            assert_eq!(Frame::read(&mut from).unwrap().as_ref(), Some(frame));
        }
        assert_eq!(Frame::read(&mut from).unwrap(), None);
    }

    #[test]
    fn a_frame_that_cannot_be_is_refused() {
        let kind = Frame::read(&mut [99, 0, 0, 0, 0].as_slice()).unwrap_err();
        assert!(kind.to_string().contains("99"), "{kind}");
        let long = Frame::read(&mut [6, 255, 255, 255, 255].as_slice()).unwrap_err();
        assert!(long.to_string().contains("4294967295"), "{long}");
        let cut = Frame::read(&mut [6, 4, 0, 0, 0, 1].as_slice()).unwrap_err();
        assert_eq!(cut.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_signal_is_reported_as_a_shell_does() {
        assert_eq!(Exit::Signal(9).code(), 137);
        assert_eq!(Exit::Code(3).code(), 3);
    }
}
