//! `cargo lab`: an arm64 KVM host on any Linux machine, and the runner of every check.
//!
//! Principles: both commands work from a fresh clone; nothing on the machine is changed but the
//! lab's own cache; what is here already is used; console text is never parsed to learn how a
//! program ended; whatever dies says why.
//!
//! | module | what |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`setup`] | finds or brings everything |
//! | [`cache`], [`progress`], [`tool`] | where it is kept, what is being done, this machine's programs |
//! | [`mirror`], [`apt`] | Debian's packages by a private apt state |
//! | [`qemu`], [`kernel`], [`module`], [`toolchain`] | the emulator, kernels and their modules, the cross compiler |
//! | [`workspace`] | this checkout and what cargo builds in it |
//! | [`initramfs`], [`share`], [`host`], [`leash`] | the emulated host |
//! | [`check`] | every check, and the count |
//! | [`monitor`], [`tap`] | the guest that tests `stage2` at EL2, bare, and what it says |
//! | [`fuzz`], [`mod@bench`], [`peer`] | fuzz targets for a bounded time; measurements, and who is compared with |
//! | [`run`], [`session`], [`terminal`] | one program in it, with this terminal |

mod apt;
mod bench;
mod cache;
mod check;
mod cli;
mod error;
mod fuzz;
mod host;
mod initramfs;
mod kernel;
mod leash;
mod mirror;
mod module;
mod monitor;
mod peer;
mod progress;
mod qemu;
mod run;
mod session;
mod setup;
mod share;
mod tap;
mod terminal;
mod tool;
mod toolchain;
mod workspace;

use clap::Parser;

use crate::cli::{Cli, Command};
use crate::error::Result;
use crate::setup::Setup;

fn main() {
    let cli = Cli::parse();
    let code = dispatch(&cli).unwrap_or_else(|error| {
        eprintln!("lab: {error}");
        1
    });
    std::process::exit(code)
}

fn dispatch(cli: &Cli) -> Result<i32> {
    let setup = Setup::open(cli.mirror.as_deref())?;
    match &cli.command {
        Command::Setup { refresh } => {
            if *refresh {
                setup.refresh()?;
            }
            setup.all()?;
            Ok(0)
        }
        Command::Run { host, args } => run::run(&setup, host, args),
        Command::Exec { host, args } => run::exec(&setup, host, args),
        Command::Test { filter, kernel, release } => {
            check::Check::new(&setup, filter.clone(), *kernel, *release)?.run()
        }
        Command::Fuzz { target, seconds } => fuzz::run(target.as_deref(), *seconds),
        Command::Bench { name, words } => bench::run(&setup, name.as_deref(), words),
        Command::Monitor(args) => monitor::run(&setup, args),
        Command::Shell { host } => run::shell(&setup, host),
    }
}
