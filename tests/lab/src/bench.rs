//! `cargo lab bench`: measurements. None of them is a test: they print, and a person judges.

use crate::cli::HostArgs;
use crate::error::{Error, Result};
use crate::kernel::Kind;
use crate::leash::leash;
use crate::run;
use crate::setup::Setup;
use crate::toolchain::Toolchain;
use crate::workspace::{Workspace, cargo};

/// What is measured in a host that counts instructions; the rest are cargo's own benchmarks.
const STARTUP: &str = "startup";

/// Runs one measurement, or all; the exit code.
///
/// # Errors
/// Where there is none of that name, or it can't run.
pub(crate) fn run(setup: &Setup, name: Option<&str>) -> Result<i32> {
    let workspace = Workspace::find()?;
    let mut all = vec![STARTUP.to_owned()];
    all.extend(workspace.targets("bench"));
    let chosen = match name {
        Some(name) if all.iter().any(|have| have == name) => vec![name.to_owned()],
        Some(name) => {
            return Err(Error::Usage(format!(
                "nothing to measure is called {name}: there are {}",
                all.join(", ")
            )));
        }
        None => all,
    };
    let mut worst = 0;
    for name in chosen {
        println!("lab: {name}");
        let code = if name == STARTUP { startup(setup, &workspace)? } else { by_cargo(&workspace, &name)? };
        worst = worst.max(code);
    }
    Ok(worst)
}

/// `quire run --timing` with the built-in guest, in virtual time: the same on every machine.
fn startup(setup: &Setup, workspace: &Workspace) -> Result<i32> {
    let toolchain = Toolchain::set_up(setup)?;
    let quire = workspace.quire(&toolchain)?;
    let host = HostArgs {
        kernel: Kind::New,
        memory: "4G".into(),
        cpus: 1,
        deterministic: true,
        append: String::new(),
    };
    let folder = quire.parent().map(std::path::Path::to_path_buf);
    // The first start reads the program from outside; the later ones show quire itself.
    let script = r#"for i in 1 2 3; do "$0" run --timing || exit; done"#;
    let words: Vec<String> = ["sh", "-c", script].map(str::to_owned).into();
    let words = [words, vec![quire.display().to_string()]].concat();
    run::in_host(setup, workspace, &toolchain, &host, &words, &Vec::from_iter(folder))
}

fn by_cargo(workspace: &Workspace, name: &str) -> Result<i32> {
    let mut command = cargo();
    command.current_dir(&workspace.root).args(["bench", "--workspace", "--bench", name]);
    leash(&mut command);
    let status = command.status().map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
    Ok(status.code().unwrap_or(1))
}
