//! Raw mode, and the way back from it: on drop, on exit, on a panic and on fatal signals.
#![expect(unsafe_code, reason = "installs signal handlers and an exit handler")]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, raise, sigaction};
use rustix::io::Errno;
use rustix::process::getpgrp;
use rustix::stdio::stdin;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// What the terminal was like. Written once, before any handler can read it; reading it is an atomic
/// load, which a signal handler may do.
static ORIGINAL: OnceLock<Termios> = OnceLock::new();

/// The terminal is raw at the moment.
static RAW: AtomicBool = AtomicBool::new(false);

/// Signals that end the program, and what was installed for each before us.
static FATAL: [(Signal, OnceLock<SigAction>); 16] = [
    (Signal::SIGSEGV, OnceLock::new()),
    (Signal::SIGBUS, OnceLock::new()),
    (Signal::SIGILL, OnceLock::new()),
    (Signal::SIGFPE, OnceLock::new()),
    (Signal::SIGTRAP, OnceLock::new()),
    (Signal::SIGABRT, OnceLock::new()),
    (Signal::SIGSYS, OnceLock::new()),
    (Signal::SIGQUIT, OnceLock::new()),
    (Signal::SIGTERM, OnceLock::new()),
    (Signal::SIGINT, OnceLock::new()),
    (Signal::SIGHUP, OnceLock::new()),
    (Signal::SIGUSR1, OnceLock::new()),
    (Signal::SIGUSR2, OnceLock::new()),
    (Signal::SIGALRM, OnceLock::new()),
    // Resource limits: of processor time, and of the size of a file, which a disk may pass.
    (Signal::SIGXCPU, OnceLock::new()),
    (Signal::SIGXFSZ, OnceLock::new()),
];

/// Raised by an instruction, and so raised again when a handler returns to it.
fn is_synchronous(signal: Signal) -> bool {
    matches!(signal, Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGILL | Signal::SIGFPE | Signal::SIGTRAP)
}

/// The terminal on standard input, raw for as long as this lives.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Switches the terminal to raw mode. Output is still processed, so that our own messages look as
    /// they should. `None` where we run in the background: the terminal is not ours then, and touching
    /// it would stop us.
    ///
    /// # Errors
    ///
    /// Standard input is no terminal, or refuses.
    pub fn enter() -> io::Result<Option<Self>> {
        match tcgetpgrp(stdin()) {
            Ok(foreground) if foreground != getpgrp() => return Ok(None),
            // It is not the terminal that controls us, so there is no background.
            Ok(_) | Err(Errno::NOTTY) => {}
            Err(error) => return Err(error.into()),
        }
        let now = tcgetattr(stdin())?;
        let original = ORIGINAL.get_or_init(|| now);
        install();
        let mut raw = original.clone();
        raw.make_raw();
        raw.output_modes = original.output_modes;
        RAW.store(true, Ordering::SeqCst);
        tcsetattr(stdin(), OptionalActions::Now, &raw)?;
        Ok(Some(Self(())))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back if it is raw. Async-signal-safe: two atomics and an ioctl.
pub fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some(original) = ORIGINAL.get()
    {
        // There is nobody left to tell.
        let _ = tcsetattr(stdin(), OptionalActions::Now, original);
    }
}

fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            earlier(panic);
        }));
        // SAFETY: the function is safe to call at any time, and stays loaded.
        if unsafe { libc::atexit(at_exit) } != 0 {
            tracing::warn!("the terminal may stay raw when the program exits");
        }
        for (signal, before) in &FATAL {
            let flags = SaFlags::SA_SIGINFO | SaFlags::SA_ONSTACK;
            let ours = SigAction::new(SigHandler::SigAction(on_fatal), flags, SigSet::empty());
            // SAFETY: `on_fatal` does what a signal handler may do.
            let Ok(found) = (unsafe { sigaction(*signal, &ours) }) else { continue };
            // SIGABRT and SIGSYS kill whatever their handler does.
            let deadly = is_synchronous(*signal) || matches!(signal, Signal::SIGABRT | Signal::SIGSYS);
            if !deadly && !matches!(found.handler(), SigHandler::SigDfl) {
                // Somebody handles it in order, or ignores it: not fatal.
                // SAFETY: it was installed before.
                let _ = unsafe { sigaction(*signal, &found) };
            } else {
                let _ = before.set(found);
            }
        }
    });
}

extern "C" fn at_exit() {
    restore();
}

/// Restores the terminal, then lets the signal do what it would have done without us.
extern "C" fn on_fatal(number: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    restore();
    let Some((signal, before)) = FATAL.iter().find(|(signal, _)| *signal as libc::c_int == number) else {
        return;
    };
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    // SAFETY: what was installed before us, or the default, is valid; sigaction is async-signal-safe.
    let _ = unsafe { sigaction(*signal, before.get().unwrap_or(&default)) };
    // SAFETY: with SA_SIGINFO the kernel passes a valid pointer.
    let code = unsafe { (*info).si_code };
    // A fault of our own happens again when this returns, with its address, which the earlier handler
    // wants to see. Anything else has to be raised again; it is delivered when this returns.
    if !(is_synchronous(*signal) && code > 0) {
        let _ = raise(*signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::process::{Command, ExitStatus, Stdio};

    use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
    use rustix::termios::LocalModes;

    const WAY: &str = "QUIRE_TEST_TERMINAL_END";

    /// The other half of the tests below: a process with a terminal on its standard input, which it
    /// makes raw, says so, and ends as it is told. On its own it has nothing to do.
    #[test]
    fn child() {
        let Ok(way) = std::env::var(WAY) else { return };
        let terminal = RawTerminal::enter().unwrap().unwrap();
        let raw = tcgetattr(stdin()).unwrap();
        assert!(!raw.local_modes.intersects(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG));
        match way.as_str() {
            "drop" => drop(terminal),
            "exit" => std::process::exit(7),
            "panic" => panic!("as told"),
            "abort" => std::process::abort(),
            "fault" => {
                // SAFETY: none; it is meant to be caught by the kernel.
                unsafe { std::ptr::without_provenance_mut::<u8>(8).write_volatile(1) };
            }
            "terminate" => raise(Signal::SIGTERM).unwrap(),
            "file size" => raise(Signal::SIGXFSZ).unwrap(),
            other => panic!("{other}"),
        }
    }

    fn ends(way: &str) -> ExitStatus {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY;
        let master = openpt(flags).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave: OwnedFd = ioctl_tiocgptpeer(&master, flags).unwrap();
        let before = tcgetattr(&slave).unwrap();
        assert!(before.local_modes.contains(LocalModes::ECHO | LocalModes::ICANON));
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "devices::console::terminal::tests::child", "--nocapture"])
            .env(WAY, way)
            .stdin(Stdio::from(slave.try_clone().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .unwrap();
        let after = tcgetattr(&slave).unwrap();
        assert_eq!(after.local_modes, before.local_modes, "{way}");
        assert_eq!(after.input_modes, before.input_modes, "{way}");
        assert_eq!(after.control_modes, before.control_modes, "{way}");
        status
    }

    #[test]
    fn terminal_comes_back_on_drop_exit_and_panic() {
        assert!(ends("drop").success());
        assert_eq!(ends("exit").code(), Some(7));
        assert_eq!(ends("panic").code(), Some(101));
    }

    #[test]
    fn terminal_comes_back_on_fatal_signals_which_still_kill() {
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(ends("abort").signal(), Some(libc::SIGABRT));
        assert_eq!(ends("fault").signal(), Some(libc::SIGSEGV));
        assert_eq!(ends("terminate").signal(), Some(libc::SIGTERM));
        assert_eq!(ends("file size").signal(), Some(libc::SIGXFSZ));
    }
}
