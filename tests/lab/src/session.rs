//! One program in the host, with this process's terminal, pipes and signals.

use std::io::{self, Read, Write};
use std::thread;
use std::time::Duration;

use lab_init::wire::{Exit, Frame, Start};
use signal_hook::consts::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGWINCH};
use signal_hook::iterator::Signals;

use crate::error::{Error, Result, at};
use crate::host::{Host, Wire};
use crate::terminal::{self, Escape, Raw};

/// How long a host may be silent while a signal of ours is on its way, before we go without it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the program and returns how it ended. On a terminal its keys go to the program; otherwise
/// standard input is passed on to its end, and output and error stay apart.
///
/// # Errors
/// Where the program can't be started, or the host dies.
pub(crate) fn run(host: &mut Host, mut start: Start) -> Result<Exit> {
    let interactive = terminal::interactive();
    start.terminal = interactive.then(terminal::size);
    if let Ok(term) = std::env::var("TERM") {
        start.env.push(("TERM".into(), term));
    }
    let wire = host.wire();
    wire.send(&Frame::Start(start));
    let raw = if interactive { Some(Raw::enter().map_err(at("the terminal"))?) } else { None };
    hear_signals(wire.clone(), raw.clone())?;
    let for_input = raw.clone();
    thread::spawn(move || carry_input(&wire, for_input.as_ref()));
    let result = carry_output(host);
    if let Some(raw) = &raw {
        raw.restore();
    }
    result
}

fn carry_output(host: &mut Host) -> Result<Exit> {
    loop {
        match host.next(Duration::from_secs(3600))? {
            Some(Frame::Output(bytes)) => put(&mut io::stdout().lock(), &bytes)?,
            Some(Frame::Error(bytes)) => put(&mut io::stderr().lock(), &bytes)?,
            Some(Frame::Exited(exit)) => return Ok(exit),
            Some(Frame::Refused(why)) => return Err(Error::Refused(why)),
            _ => {}
        }
    }
}

fn put(to: &mut impl Write, bytes: &[u8]) -> Result<()> {
    to.write_all(bytes).and_then(|()| to.flush()).map_err(at("the output"))
}

fn carry_input(wire: &Wire, raw: Option<&Raw>) {
    let mut escape = Escape::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        match io::stdin().lock().read(&mut buffer) {
            Ok(0) | Err(_) => return wire.send(&Frame::InputEnd),
            Ok(length) => {
                let bytes = &buffer[..length];
                if raw.is_some() && escape.seen(bytes) {
                    leave(raw, "the host was left by Ctrl-]", 130);
                }
                wire.send(&Frame::Input(bytes.to_vec()));
            }
        }
    }
}

/// A signal for us is one for the program: it ends in its own order. Where it does not, the
/// second one ends us, and the host with us.
fn hear_signals(wire: Wire, raw: Option<Raw>) -> Result<()> {
    let mut signals =
        Signals::new([SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGWINCH]).map_err(at("the signal handlers"))?;
    thread::spawn(move || {
        let mut asked = false;
        for signal in signals.forever() {
            if signal == SIGWINCH {
                wire.send(&Frame::Resize(terminal::size()));
                continue;
            }
            wire.send(&Frame::Signal(signal));
            if asked {
                leave(raw.as_ref(), "a second signal ends the host", 128 + signal);
            }
            asked = true;
            let raw = raw.clone();
            thread::spawn(move || {
                thread::sleep(PATIENCE);
                leave(raw.as_ref(), "the program did not end on a signal", 128 + signal);
            });
        }
    });
    Ok(())
}

/// Ends this process; the kernel ends QEMU with it.
fn leave(raw: Option<&Raw>, why: &str, code: i32) -> ! {
    if let Some(raw) = raw {
        raw.restore();
    }
    eprintln!("\nlab: {why}");
    std::process::exit(code)
}
