//! What the scenarios and the tests that need arm64 are made of: one build for all of them.
//!
//! One profile, cargo's `dev`, which this workspace optimises, one set of dependencies, and a compiler that has the lints:
//! building is most of what the checks take where two processors are all there is. `--release` has the scenarios run
//! `quire` as users get it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use crate::error::{Error, Result};
use crate::toolchain::Toolchain;
use crate::workspace::{Program, Workspace, cargo};

/// Those of `quire`'s test programs that are worth an emulated host, beside its unit tests: the others have nothing in
/// them that is for arm64 alone.
const WORTH: &str = "cli";

/// What is there to run, and what the compiler had to say.
#[derive(Debug)]
pub(super) struct Parts {
    /// `quire`, which the scenarios run.
    pub(super) quire: PathBuf,
    /// `quire` that does what its tests put wrong, where it is told to.
    pub(super) faults: PathBuf,
    /// The first program of an emulated host.
    pub(super) init: Option<PathBuf>,
    /// The test programs of `quire` and of the scenarios, and what else was built with them.
    pub(super) programs: Vec<Program>,
    /// The monitor's image.
    pub(super) monitor: PathBuf,
    /// What the lints found, each once.
    pub(super) warnings: BTreeSet<String>,
}

/// Builds all of it: for emulated hosts with their toolchain, for this machine without.
///
/// # Errors
/// Where cargo does not build one of the parts, with what the compiler said.
pub(super) fn build(workspace: &Workspace, toolchain: Option<&Toolchain>, release: bool) -> Result<Parts> {
    let mut command = linted(workspace, toolchain, "test");
    command.args(["--no-run", "--package", "quire", "--package", "e2e", "--features", "quire/faults"]);
    command.args(["--lib", "--benches", "--test", WORTH]);
    for (_, scenario) in workspace.targets("test").iter().filter(|(package, _)| package == "e2e") {
        command.args(["--test", scenario]);
    }
    let mut built = workspace.built(&mut command)?;
    let faults = program(&built.programs, "quire")
        .ok_or_else(|| Error::Usage("cargo built no quire with its tests".into()))?;
    let quire = match (release, toolchain) {
        (false, _) => faults.clone(),
        (true, Some(toolchain)) => workspace.quire(toolchain)?,
        (true, None) => workspace.quire_here()?,
    };
    let mut init = None;
    if toolchain.is_some() {
        // Beside the others, so that its dependencies have the same features and are there already.
        let mut command = linted(workspace, toolchain, "build");
        command.args([
            "--package",
            "quire",
            "--package",
            "e2e",
            "--package",
            "lab-init",
            "--bin",
            "lab-init",
        ]);
        init = program(&workspace.built(&mut command)?.programs, "lab-init");
    }
    // What no other linker script than its own can link is only checked.
    if toolchain.is_some() {
        let mut command = linted(workspace, toolchain, "check");
        for package in ["board", "stage2", "stamper", "monitor"] {
            command.args(["--package", package]);
        }
        built.warnings.extend(workspace.built(command.args(["--lib", "--bins"]))?.warnings);
    }
    Ok(Parts {
        quire,
        faults,
        init,
        monitor: built.monitor()?,
        warnings: built.warnings,
        programs: built.programs,
    })
}

/// A cargo command whose compiler is clippy's driver, which is the compiler and its lints in one: what is built need not be
/// checked a second time. Where it builds for this machine, everything was checked already.
fn linted(workspace: &Workspace, toolchain: Option<&Toolchain>, subcommand: &str) -> Command {
    let Some(toolchain) = toolchain else {
        let mut command = cargo();
        command.current_dir(&workspace.root).arg(subcommand);
        return command;
    };
    let mut command = workspace.cargo_arm64(toolchain, subcommand);
    if let Some(driver) = &toolchain.clippy {
        command.env("RUSTC_WORKSPACE_WRAPPER", driver);
    }
    command
}

fn program(programs: &[Program], name: &str) -> Option<PathBuf> {
    let wanted = |program: &&Program| program.name == name && program.kind == "bin" && !program.test;
    programs.iter().find(wanted).map(|program| program.path.clone())
}
