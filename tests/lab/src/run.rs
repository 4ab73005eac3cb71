//! `run`, `exec` and `shell`: one program in the emulated host.

use std::fs::OpenOptions;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab_init::wire::Start;

use crate::cli::HostArgs;
use crate::error::{Error, Result, at};
use crate::host::Host;
use crate::progress::Step;
use crate::session;
use crate::setup::Setup;
use crate::share;
use crate::toolchain::Toolchain;
use crate::workspace::{Workspace, cargo};

/// Runs quire, on this machine if it can.
pub(crate) fn run(setup: &Setup, args: &HostArgs, words: &[String]) -> Result<i32> {
    let workspace = Workspace::find()?;
    let by_itself = words.is_empty();
    let words = if by_itself { vec!["run".to_owned()] } else { words.to_vec() };
    let (code, place) = if native() {
        (here(&workspace, &words)?, "this machine's KVM".to_owned())
    } else {
        let toolchain = Toolchain::set_up(setup)?;
        let quire = workspace.quire(&toolchain)?;
        let folder = quire.parent().map(Path::to_path_buf);
        let mut command = vec![quire.display().to_string()];
        command.extend_from_slice(&words);
        let code = in_host(setup, &workspace, &toolchain, args, &command, &Vec::from_iter(folder))?;
        (code, format!("KVM of an emulated arm64 host (kernel {})", args.kernel.name()))
    };
    if by_itself {
        eprint!("{}", summary(code, &place));
    } else if is_monitor(&words) {
        eprint!("{}", summary_of_monitor(code, &place));
    }
    Ok(code)
}

/// Whether this machine is an arm64 KVM host that we may use.
pub(crate) fn native() -> bool {
    cfg!(target_arch = "aarch64") && OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok()
}

fn here(workspace: &Workspace, words: &[String]) -> Result<i32> {
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["build", "--release", "--package", "quire", "--bin", "quire"]);
    let quire = workspace.program(&mut command, "quire")?;
    let program = quire.display().to_string();
    let status = Command::new(quire).args(words).status();
    let status = status.map_err(|source| Error::Spawn { program, source })?;
    Ok(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)))
}

/// What a newcomer has just seen.
fn summary(code: i32, place: &str) -> String {
    let end = match code {
        0 => "it checked its memory, switched itself off, and quire ended with 0".to_owned(),
        code => format!("quire ended with {code}: what is above says why"),
    };
    format!(
        "\n  That was `quire run`, with its built-in guest, on {place}:\n  {end}.\n\n  \
         cargo lab run -- doctor                what quire finds on that host\n  \
         cargo lab run -- run --kernel IMAGE    a kernel of yours; paths work as you write them\n  \
         cargo lab shell                        a shell there\n  \
         cargo lab test                         every check\n"
    )
}

/// Whether these arguments of quire start the monitor: a guest at EL2, and no kernel.
fn is_monitor(words: &[String]) -> bool {
    let has = |option: &str| words.iter().any(|word| word.split('=').next() == Some(option));
    words.first().is_some_and(|word| word == "run")
        && has("--el2")
        && !["--kernel", "--config", "--help"].into_iter().any(has)
        && !words.iter().any(|word| word == "--el2=off")
}

/// What the monitor has been doing.
fn summary_of_monitor(code: i32, place: &str) -> String {
    let end = match code {
        0 => "The line `# done` counts what it has found.".to_owned(),
        code => format!("quire ended with {code}: what is above says why."),
    };
    format!(
        "\n  That was `quire run --el2` without a kernel, on {place}: the monitor, a small\n  \
         hypervisor, with tables of `stage2` for its guest. {end} docs/proof.md\n  \
         says what that shows.\n\n  \
         cargo lab monitor                      the same without KVM: an emulated board of its own\n  \
         cargo lab run -- run --el2 --kernel IMAGE\n                                         \
         a kernel of yours that is a hypervisor\n"
    )
}

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
        let _step =
            Step::new("host", &format!("booting an emulated arm64 KVM host, kernel {}", args.kernel.name()));
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

#[cfg(test)]
mod tests {
    use super::is_monitor;

    #[test]
    fn a_guest_at_el2_without_a_kernel_is_the_monitor() {
        let monitor = |line: &str| is_monitor(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert!(monitor("run --el2 --cpus 2") && monitor("run --el2=e2h0"));
        for other in [
            "run --cpus 2",
            "doctor",
            "run --el2=off",
            "run --el2 --kernel Image",
            "run --el2 --kernel=Image",
        ] {
            assert!(!monitor(other), "{other}");
        }
    }
}
