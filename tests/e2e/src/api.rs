//! The API of a `quire` process: requests over its socket, and nothing that a client has to be kind for.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use crate::guest::{LIMIT, POLL};

/// Where one `quire` answers.
#[derive(Debug)]
pub struct Api {
    path: PathBuf,
}

impl Api {
    /// The API at `path`, once somebody answers there.
    ///
    /// # Panics
    /// Where nobody does before [`LIMIT`] is over.
    #[track_caller]
    pub fn at(path: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        while let Err(error) = UnixStream::connect(path) {
            assert!(Instant::now() < deadline, "{}: {error}", path.display());
            thread::sleep(POLL);
        }
        Self { path: path.into() }
    }

    /// A connection.
    ///
    /// # Panics
    /// Where the server takes none.
    #[track_caller]
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).expect("the API takes connections");
        stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
        stream
    }

    /// Sends one request; its status and its body.
    ///
    /// # Panics
    /// Where there is no answer.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = self.connect();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("the API reads");
        stream.write_all(body.as_bytes()).expect("the API reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the API answers");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("an answer has a status"), body.to_owned())
    }

    /// Asks for what has no answer but that it was done.
    ///
    /// # Panics
    /// Where it was not done.
    #[track_caller]
    pub fn order(&self, method: &str, path: &str, body: &str) {
        let (status, answer) = self.ask(method, path, body);
        assert_eq!(status, 204, "{method} {path} {body}: {answer}");
    }

    /// `Paused` or `Resumed`.
    ///
    /// # Panics
    /// Where it is refused.
    #[track_caller]
    pub fn vm(&self, state: &str) {
        self.order("PATCH", "/vm", &format!("{{\"state\": \"{state}\"}}"));
    }
}
