//! A program on this machine, watched.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};

use super::tally::End;
use crate::error::{Error, Result, at};
use crate::host::Stream;
use crate::leash::leash;

/// Runs a command without input; gives its output and its complaints away piece by piece, and
/// kills it, with what it started, once it has been silent for `silence`.
///
/// # Errors
/// Where it can't be started.
pub(crate) fn run(
    command: &mut Command,
    silence: Duration,
    output: &mut dyn FnMut(Stream, &[u8]),
) -> Result<End> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    leash(command);
    let program = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().map_err(|source| Error::Spawn { program, source })?;
    let (to, pieces) = channel();
    if let Some(stdout) = child.stdout.take() {
        carry(stdout, Stream::Output, to.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        carry(stderr, Stream::Error, to);
    }
    loop {
        match pieces.recv_timeout(silence) {
            Ok((stream, piece)) => output(stream, &piece),
            Err(RecvTimeoutError::Timeout) => {
                kill(&mut child);
                while let Ok((stream, piece)) = pieces.recv_timeout(Duration::from_secs(1)) {
                    output(stream, &piece);
                }
                return Ok(End::Silent(silence));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    let status = child.wait().map_err(at("a program's end"))?;
    Ok(End::Code(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))))
}

fn kill(child: &mut Child) {
    if let Some(group) = Pid::from_raw(child.id() as i32) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
}

fn carry(mut from: impl Read + Send + 'static, stream: Stream, to: Sender<(Stream, Vec<u8>)>) {
    thread::spawn(move || {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if to.send((stream, buffer[..length].to_vec())).is_err() {
                return;
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, silence: u64) -> (End, String) {
        let mut text = Vec::new();
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let end =
            run(&mut command, Duration::from_secs(silence), &mut |_, piece| text.extend_from_slice(piece))
                .unwrap();
        (end, String::from_utf8(text).unwrap())
    }

    #[test]
    fn output_and_code_come_back() {
        assert_eq!(shell("echo out; exit 3", 60), (End::Code(3), "out\n".into()));
        assert_eq!(shell("kill -9 $$", 60).0, End::Code(137));
    }

    #[test]
    fn what_is_silent_is_killed_with_what_it_started() {
        let (end, text) = shell("echo before; sleep 1000 & sleep 1000", 1);
        assert_eq!((end, text.as_str()), (End::Silent(Duration::from_secs(1)), "before\n"));
    }
}
