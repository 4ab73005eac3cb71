//! `cargo lab fuzz`: every fuzz target for a bounded time.

use std::path::Path;
use std::process::Command;

use crate::error::{Error, Result, at};
use crate::leash::leash;
use crate::tool;
use crate::workspace::Workspace;

/// Runs one target, or all; the exit code.
///
/// # Errors
/// Where a tool is missing, or there is no such target.
pub(crate) fn run(target: Option<&str>, seconds: u32) -> Result<i32> {
    let workspace = Workspace::find()?;
    let folder = workspace.root.join("fuzz");
    if !folder.join("Cargo.toml").is_file() {
        return Err(Error::Usage(format!(
            "this checkout has no fuzz targets: {} is missing",
            folder.display()
        )));
    }
    tools()?;
    let targets = Workspace::at(&folder.join("Cargo.toml"))?.targets("bin");
    let all: Vec<String> = targets.into_iter().map(|(_, name)| name).collect();
    let chosen: Vec<String> = match target {
        Some(name) if all.iter().any(|have| have == name) => vec![name.to_owned()],
        Some(name) => {
            return Err(Error::Usage(format!(
                "no fuzz target is called {name}: there are {}",
                all.join(", ")
            )));
        }
        None => all,
    };
    let mut failed = Vec::new();
    for name in &chosen {
        println!("lab: fuzzing {name} for {seconds} s");
        if !fuzz(&folder, name, seconds)? {
            failed.push(name.clone());
        }
    }
    for name in &failed {
        println!(
            "failed: {name}: its input is in {}; moved to {}, every test run replays it",
            folder.join("artifacts").join(name).display(),
            folder.join("corpus").join(name).display()
        );
    }
    println!("{} passed, {} failed", chosen.len() - failed.len(), failed.len());
    Ok(i32::from(!failed.is_empty() || chosen.is_empty()))
}

/// Names everything that is missing at once.
fn tools() -> Result<()> {
    let mut missing = Vec::new();
    let mut remedies = Vec::new();
    let nightly = tool::output(Command::new("rustup").args(["run", "nightly", "rustc", "--version"]));
    if nightly.is_err() {
        missing.push("a nightly toolchain");
        remedies.push("rustup toolchain install nightly");
    }
    if tool::find("cargo-fuzz").is_none() {
        missing.push("cargo-fuzz");
        remedies.push("cargo install cargo-fuzz");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let what = format!("fuzzing needs {}, which this machine does not have", missing.join(" and "));
    Err(Error::Missing { what, remedy: remedies.join("; ") })
}

fn fuzz(folder: &Path, name: &str, seconds: u32) -> Result<bool> {
    // libFuzzer writes what it finds to the first corpus and reads all: the kept one stays small.
    let found = folder.join("target/corpus").join(name);
    std::fs::create_dir_all(&found).map_err(at(&found))?;
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--fuzz-dir"]).arg(folder);
    // Safe code only: a sanitizer would halve the speed and find nothing.
    command.args(["--sanitizer", "none"]).arg(name).arg(&found).arg(folder.join("corpus").join(name));
    // Operations come in sequences: libFuzzer's habit of growing inputs slowly finds nothing.
    command.args(["--", "-len_control=0", "-max_len=512", &format!("-max_total_time={seconds}")]);
    command.env_remove("CARGO").env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
    leash(&mut command);
    let status = command.status().map_err(|source| Error::Spawn { program: "rustup".into(), source })?;
    Ok(status.success())
}
