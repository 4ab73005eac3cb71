//! A child that does not outlive us.
#![expect(unsafe_code, reason = "a process asks for its parent's death signal between fork and exec")]

use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// Makes the kernel kill the child when the thread that starts it ends, however it ends.
pub(crate) fn leash(command: &mut Command) {
    let us = rustix::process::getpid();
    // SAFETY: between fork and exec only system calls are made, all async-signal-safe; nothing is
    // allocated and no lock is taken.
    unsafe {
        command.pre_exec(move || {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            // We may have died before the line above.
            if getppid() != Some(us) {
                return Err(std::io::ErrorKind::BrokenPipe.into());
            }
            Ok(())
        });
    }
}
