//! A client that says exactly what a test wants it to.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use quire::api::Server;
use quire::config::VmConfig;
use serde_json::Value;
use tempfile::TempDir;

use crate::machine::Machine;

/// Far beyond what any answer takes: a test that waits for it fails.
pub const LIMIT: Duration = Duration::from_secs(60);

/// A machine with its API.
pub struct Api {
    // In the order in which they end.
    server: Option<Server>,
    /// The machine.
    pub machine: Machine,
    /// The API's socket.
    pub path: PathBuf,
    _folder: TempDir,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// HTTP's status code.
    pub status: u16,
    /// The head, with its status line and the empty line at its end.
    pub headers: String,
    /// As many bytes as `Content-Length` says.
    pub body: Vec<u8>,
}

impl Reply {
    /// The body, which has to be JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The message of a 400.
    #[track_caller]
    pub fn fault(&self) -> String {
        assert_eq!(self.status, 400, "{self:?}");
        let body = self.json();
        assert_eq!(body.as_object().unwrap().len(), 1, "{body}");
        body["fault_message"].as_str().unwrap().to_owned()
    }
}

impl Api {
    /// A machine of the default configuration, switched on, and its API.
    pub fn start() -> Self {
        Self::of(VmConfig::default())
    }

    /// A machine of this configuration, switched on, with two vCPUs, and its API.
    pub fn of(config: VmConfig) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("api.sock");
        let machine = Machine::of(config, 2);
        let server = Server::start(&path, machine.control.clone()).unwrap();
        Self { server: Some(server), machine, path, _folder: folder }
    }

    /// A connection that fails rather than waiting longer than [`LIMIT`].
    pub fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(&self.path).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.set_write_timeout(Some(LIMIT)).unwrap();
        stream
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &str) -> Reply {
        let mut stream = self.connect();
        stream.write_all(request(method, path, body).as_bytes()).unwrap();
        read_reply(&mut BufReader::new(stream)).expect("the server answers")
    }

    /// A GET on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, "")
    }

    /// Ends the server, as the end of `quire run` does.
    pub fn close(&mut self) {
        self.server = None;
    }
}

/// A request as it goes over the wire.
pub fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
}

/// Reads one answer; `None` where the connection ends instead.
pub fn read_reply(stream: &mut BufReader<UnixStream>) -> Option<Reply> {
    let mut headers = String::new();
    while !headers.ends_with("\r\n\r\n") {
        if stream.read_line(&mut headers).ok()? == 0 {
            return None;
        }
    }
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    let length = headers
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    Some(Reply { status, headers, body })
}
