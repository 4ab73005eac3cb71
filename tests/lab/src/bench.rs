//! `cargo lab bench`: measurements. None of them is a test: they print, and a person judges.
//!
//! What needs a guest is a benchmark of the package `e2e`, and runs in an emulated host that counts
//! instructions: virtual time, the same on every machine. The rest are cargo's own benchmarks.

use crate::cli::HostArgs;
use crate::error::{Error, Result};
use crate::kernel::Kind;
use crate::leash::leash;
use crate::monitor;
use crate::peer;
use crate::run;
use crate::setup::Setup;
use crate::toolchain::Toolchain;
use crate::workspace::{Workspace, cargo};

/// The benchmark that needs neither: it runs at EL2, bare.
const AT_EL2: &str = "monitor";
/// The package whose benchmarks need an arm64 KVM host.
const WITH_GUESTS: &str = "e2e";

/// The benchmark that runs another VMM beside Quire.
const COMPARED: &str = "release";

/// Runs one measurement with `words` on its command line, or all; the exit code.
///
/// # Errors
/// Where there is none of that name, it takes no words, or it can't run.
pub(crate) fn run(setup: &Setup, name: Option<&str>, words: &[String]) -> Result<i32> {
    if !words.is_empty() && (name.is_none() || name == Some(AT_EL2)) {
        let what = name.unwrap_or("every measurement at once");
        return Err(Error::Usage(format!("{what} takes no words behind --: name a measurement that does")));
    }
    let workspace = Workspace::find()?;
    let mut all = workspace.targets("bench");
    all.push((AT_EL2.to_owned(), AT_EL2.to_owned()));
    let chosen: Vec<_> = all.iter().filter(|(_, have)| name.is_none_or(|name| have == name)).collect();
    if let (Some(name), []) = (name, chosen.as_slice()) {
        let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
        let names = names.join(", ");
        return Err(Error::Usage(format!("nothing to measure is called {name}: there are {names}")));
    }
    let mut worst = 0;
    for (package, name) in chosen {
        println!("lab: {name}");
        let guests = package == WITH_GUESTS && !run::native();
        let code = match package.as_str() {
            AT_EL2 => monitor::bench(setup)?,
            _ if guests => in_host(setup, &workspace, name, words)?,
            package => by_cargo(&workspace, package, name, words)?,
        };
        worst = worst.max(code);
    }
    Ok(worst)
}

fn in_host(setup: &Setup, workspace: &Workspace, name: &str, more: &[String]) -> Result<i32> {
    let toolchain = Toolchain::set_up(setup)?;
    let quire = workspace.quire(&toolchain)?;
    // With the profile of releases, which the scenarios have been built with already.
    let mut command = workspace.cargo_arm64(&toolchain, "test");
    command.args(["--release", "--no-run", "--package", WITH_GUESTS, "--bench", name]);
    let programs = workspace.programs(&mut command)?;
    let bench = programs.iter().find(|program| program.name == name && program.kind == "bench");
    let bench = bench.ok_or_else(|| Error::Usage(format!("cargo built no {name}")))?;
    setup.busybox()?;
    crate::kernel::Kernel::set_up(setup, Kind::New)?;
    let host = HostArgs {
        kernel: Kind::New,
        // Room for a guest of 3 GiB; what is not touched costs this machine nothing.
        memory: "6G".into(),
        cpus: 1,
        deterministic: true,
        append: String::new(),
    };
    let mut variables = vec![format!("QUIRE_BIN={}", path(&quire))];
    if name == COMPARED {
        variables.push(format!("QUIRE_PEER_DIR={}", path(&peer::set_up(setup)?)));
        variables.push(format!("QUIRE_REPORT_DIR={}", path(&workspace.target.join("lab"))));
    }
    let program = [path(&bench.path)].into_iter().chain(more.iter().cloned());
    let words: Vec<_> = ["env".to_owned()].into_iter().chain(variables).chain(program).collect();
    run::in_host(setup, workspace, &toolchain, &host, &words, std::slice::from_ref(&workspace.target))
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn by_cargo(workspace: &Workspace, package: &str, name: &str, words: &[String]) -> Result<i32> {
    let mut command = cargo();
    command
        .current_dir(&workspace.root)
        .args(["bench", "--package", package, "--bench", name, "--"])
        .args(words);
    leash(&mut command);
    let status = command.status().map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
    Ok(status.code().unwrap_or(1))
}
