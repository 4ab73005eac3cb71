//! `run`, `exec` and `shell`: one program in the emulated host.

use std::path::{Path, PathBuf};

use lab_init::wire::Start;

use crate::cli::HostArgs;
use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::progress::Step;
use crate::session;
use crate::setup::Setup;
use crate::share;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// Runs an arm64 program in the host; the exit code is the program's.
pub(crate) fn exec(setup: &Setup, args: &HostArgs, words: &[String]) -> Result<i32> {
    let workspace = Workspace::find()?;
    let toolchain = Toolchain::set_up(setup)?;
    in_host(setup, &workspace, &toolchain, args, words, &[])
}

/// A shell in the host.
pub(crate) fn shell(setup: &Setup, args: &HostArgs) -> Result<i32> {
    let words = ["/bin/sh", "-l"].map(str::to_owned);
    exec(setup, args, &words)
}

/// Boots a host that sees what the words name, and runs them there.
pub(crate) fn in_host(
    setup: &Setup,
    workspace: &Workspace,
    toolchain: &Toolchain,
    args: &HostArgs,
    words: &[String],
    more_folders: &[PathBuf],
) -> Result<i32> {
    let (program, rest) = words.split_first().ok_or_else(|| Error::Usage("no program was named".into()))?;
    let current = std::env::current_dir().map_err(at("the current folder"))?;
    let parts = setup.parts(workspace, toolchain, args.kernel)?;
    let mut folders = share::folders(&current, words)?;
    folders.extend_from_slice(more_folders);
    folders.push(setup.guests());
    let mut host = {
        let _step = Step::new("host", &format!("booting an emulated arm64 KVM host, kernel {}", args.kernel.name()));
        Host::boot(&parts, &args.shape(), &folders)?
    };
    let start = Start {
        program: program_path(&current, program),
        args: rest.to_vec(),
        env: environment(setup),
        folder: current.display().to_string(),
        terminal: None,
    };
    Ok(session::run(&mut host, start)?.code())
}

/// A program of this machine by its path, one of the host by its name.
fn program_path(current: &Path, program: &str) -> String {
    if program.contains('/') { current.join(program).display().to_string() } else { program.to_owned() }
}

/// What the environment passes on: our own variables, and what makes a failure speak.
pub(crate) fn environment(setup: &Setup) -> Vec<(String, String)> {
    let ours = |name: &str| {
        (name.starts_with("QUIRE_") && !name.starts_with("QUIRE_LAB_"))
            || ["RUST_BACKTRACE", "RUST_LOG"].contains(&name)
    };
    let mut env: Vec<(String, String)> = std::env::vars().filter(|(name, _)| ours(name)).collect();
    env.push(("QUIRE_GUEST_DIR".into(), setup.guests().display().to_string()));
    env
}
