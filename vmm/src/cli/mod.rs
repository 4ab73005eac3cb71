//! The command line of `quire`: one file per subcommand.
//!
//! Principles: a subcommand turns words into values of the floors below and prints what comes back,
//! nothing more; an error is one line that says what was wrong, its causes indented below it; standard
//! output belongs to the guest or to the answer, everything else goes to standard error.
//!
//! # Exit codes
//!
//! | code | meaning |
//! |---|---|
//! | 0 | the guest powered itself off, or was asked to stop and did; `doctor`: a guest can run here; `stress`: nothing was wrong |
//! | 1 | the host, a file or the guest itself kept it from running or from going on; `doctor`: no guest can run here; `ctl`: it was not done, or `check` does not hold; `stress`: something was wrong |
//! | 2 | the command line or the configuration is wrong; nothing was started |
//! | 101 | a bug in `quire` |
//!
//! | module | noun |
//! |---|---|
//! | [`run`] | `quire run` |
//! | [`ctl`] | `quire ctl` |
//! | [`map`] | `quire map` |
//! | [`doctor`] | `quire doctor` |
//! | [`stress`] | `quire stress` |
//! | `log` | what goes to standard error while the program works |
//! | `failure` | an error and its causes, as they are printed |
//! | `panic` | the terminal is restored whatever happens |
//! | `print` | an answer on standard output |

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub mod ctl;
pub mod doctor;
mod failure;
mod log;
pub mod map;
mod panic;
mod print;
pub mod run;
pub mod stress;

/// The help's last words.
const EXIT_CODES: &str = "\
Exit codes:
  0    the guest powered itself off, or was asked to stop and did; doctor: a guest can run here;
       stress: nothing was wrong
  1    the host, a file or the guest itself kept it from running; doctor: no guest can run here;
       ctl: it was not done, or the check does not hold; stress: something was wrong
  2    the command line or the configuration is wrong; nothing was started
  101  a bug in quire";

/// A small VMM for arm64 KVM hosts that manages guest memory in blocks and contiguous groups.
#[derive(Debug, Parser)]
#[command(name = "quire", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: log::LogArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a guest until it powers off.
    Run(Box<run::RunArgs>),
    /// Ask a running VM over its API socket: state, pause, balloon, map …
    Ctl(ctl::CtlArgs),
    /// Show how a guest's memory is made up.
    Map(map::MapArgs),
    /// Tell what this host offers, and what to do about what it does not.
    Doctor(doctor::DoctorArgs),
    /// Storm guests, and check that nothing is lost.
    Stress(Box<stress::StressArgs>),
}

/// The whole program.
pub fn main() -> ExitCode {
    let start = run::Start::now();
    panic::install();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    cli.log.install();
    match cli.command {
        Command::Run(args) => failure::report(args.run(start)),
        Command::Ctl(args) => failure::report(args.run()),
        Command::Map(args) => failure::report(args.run()),
        Command::Doctor(args) => failure::report(args.run()),
        Command::Stress(args) => failure::report(args.run()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
