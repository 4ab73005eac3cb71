//! QEMU's control socket: one JSON document a line (docs/interop/qmp-spec.rst).

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use e2e::guest::LIMIT;
use serde_json::{Value, json};

/// A connection, past its greeting.
pub(crate) struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    /// Connects, once QEMU listens.
    pub(crate) fn connect(path: &Path) -> Self {
        let deadline = Instant::now() + LIMIT;
        let stream = loop {
            match UnixStream::connect(path) {
                Ok(stream) => break stream,
                Err(error) => assert!(Instant::now() < deadline, "{}: {error}", path.display()),
            }
            thread::sleep(Duration::from_millis(10));
        };
        stream.set_read_timeout(Some(LIMIT)).expect("a limit can be set");
        let mut qmp = Self { lines: BufReader::new(stream) };
        qmp.line();
        qmp.ask("qmp_capabilities", json!({}));
        qmp
    }

    /// One document.
    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("QEMU answers");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The answer to one command; events before it are passed over.
    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let text = json!({ "execute": command, "arguments": arguments }).to_string() + "\n";
        self.lines.get_mut().write_all(text.as_bytes()).expect("QEMU reads");
        loop {
            let mut answer = self.line();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(answer) = answer.get_mut("return") {
                return answer.take();
            }
        }
    }
}
