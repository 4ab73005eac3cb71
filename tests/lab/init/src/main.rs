//! The first program of the lab's emulated host.
//!
//! As process 1 it brings the host up, starts itself once more as the agent, and collects
//! orphans until the agent ends; then the host is switched off. The agent serves the lab.
//!
//! | module | what |
//! |---|---|
//! | [`host`] | file systems, modules, the loopback device, power-off |
//! | [`agent`] | serves frames: starts programs, carries their input and output |
//! | [`child`] | one started program, on pipes or on a terminal |

mod agent;
mod child;
mod host;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("agent") {
        return match agent::serve() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("lab-init: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if std::process::id() != 1 {
        eprintln!("lab-init is the first program of the lab's emulated host: see `cargo lab`");
        return ExitCode::FAILURE;
    }
    if let Err(error) = first() {
        // The console is what the lab shows when a host dies early.
        eprintln!("lab-init: {error}");
    }
    host::power_off()
}

fn first() -> Result<(), host::Error> {
    let trouble = host::bring_up().err();
    let mut command = Command::new("/proc/self/exe");
    command.arg("agent");
    if let Some(trouble) = &trouble {
        eprintln!("lab-init: {trouble}");
        command.env("LAB_TROUBLE", trouble.to_string());
    }
    let agent =
        command.spawn().map_err(|source| host::Error::File { path: "/proc/self/exe".into(), source })?;
    host::reap_until(agent.id());
    Ok(())
}
