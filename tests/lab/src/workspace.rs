//! This checkout, and what cargo builds in it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, Result, at};
use crate::leash::leash;
use crate::tool;
use crate::toolchain::{TARGET, Toolchain};

/// The checkout.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    /// Its root folder.
    pub(crate) root: PathBuf,
    /// Where cargo puts what it builds.
    pub(crate) target: PathBuf,
    metadata: Value,
}

/// One program that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// The package that it belongs to.
    pub(crate) package: String,
    /// The name of the library, program or test file.
    pub(crate) name: String,
    /// `lib`, `bin`, `test`, ...
    pub(crate) kind: String,
    /// Whether it is a test program.
    pub(crate) test: bool,
    /// The file.
    pub(crate) path: PathBuf,
    /// The package's folder: where cargo would run its tests.
    pub(crate) folder: PathBuf,
}

impl Workspace {
    /// The checkout that this program was built from.
    pub(crate) fn find() -> Result<Workspace> {
        Workspace::at(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
    }

    /// The workspace that a manifest belongs to.
    pub(crate) fn at(manifest: &Path) -> Result<Workspace> {
        let mut command = cargo();
        command.args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"]).arg(manifest);
        let text = tool::output(&mut command)?;
        let metadata: Value = serde_json::from_str(&text).unwrap_or_default();
        let path = |key: &str| metadata[key].as_str().map(PathBuf::from);
        match (path("workspace_root"), path("target_directory")) {
            (Some(root), Some(target)) => Ok(Workspace { root, target, metadata }),
            _ => Err(Error::Usage("cargo metadata does not say where the workspace is".into())),
        }
    }

    /// Package and name of all targets of a kind (`bin`, `bench`).
    pub(crate) fn targets(&self, kind: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for package in self.metadata["packages"].as_array().into_iter().flatten() {
            for target in package["targets"].as_array().into_iter().flatten() {
                if let (true, Some(package), Some(name)) =
                    (target["kind"][0] == kind, package["name"].as_str(), target["name"].as_str())
                {
                    found.push((package.to_owned(), name.to_owned()));
                }
            }
        }
        found
    }

    /// A list that a package's manifest holds for us, under `[package.metadata.lab]`.
    pub(crate) fn list(&self, package: &str, key: &str) -> Option<Vec<String>> {
        let packages = self.metadata["packages"].as_array()?;
        let package = packages.iter().find(|have| have["name"] == package)?;
        let list = package["metadata"]["lab"][key].as_array()?;
        Some(list.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect())
    }

    /// cargo for arm64, in a target folder of its own: another compiler must not push what the
    /// machine's own has built out of the other.
    pub(crate) fn cargo_arm64(&self, toolchain: &Toolchain, subcommand: &str) -> Command {
        let mut command = cargo();
        command.current_dir(&self.root).arg(subcommand).args(["--target", TARGET]);
        command.env("CARGO_TARGET_DIR", self.target.join("lab"));
        command.envs(toolchain.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Runs a cargo command that builds, and lists the programs that it built.
    pub(crate) fn programs(&self, command: &mut Command) -> Result<Vec<Program>> {
        Ok(parse_messages(&messages(command)?))
    }

    /// Builds `quire` for arm64, as users get it.
    pub(crate) fn quire(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        let mut command = self.cargo_arm64(toolchain, "build");
        self.program(command.args(["--release", "--package", "quire", "--bin", "quire"]), "quire")
    }

    /// Builds `quire` for arm64, and with it the monitor: the image's path.
    ///
    /// # Errors
    /// Where cargo does not build it.
    pub(crate) fn monitor(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        let mut command = self.cargo_arm64(toolchain, "build");
        let messages = messages(command.args(["--release", "--package", "quire", "--bin", "quire"]))?;
        let folder = build_folder(&messages, "quire");
        folder.map(|folder| folder.join("monitor.image")).ok_or_else(|| {
            Error::Usage("cargo does not say where quire's build script has put the monitor".into())
        })
    }

    /// Builds `quire` by `command`, with what its tests put wrong in it. Cargo puts both programs in one place, so this one
    /// is moved away: to be asked for before the other.
    pub(crate) fn quire_with_faults(&self, mut command: Command) -> Result<PathBuf> {
        command.args(["--release", "--package", "quire", "--bin", "quire", "--features", "faults"]);
        let built = self.program(&mut command, "quire")?;
        let kept = self.target.join("quire-with-faults");
        std::fs::copy(&built, &kept).map_err(at(&kept))?;
        Ok(kept)
    }

    /// Builds the first program of the emulated host: small and soon, not fast.
    pub(crate) fn init(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        let mut command = self.cargo_arm64(toolchain, "build");
        for (name, value) in [("LTO", "off"), ("DEBUG", "false"), ("STRIP", "true"), ("OPT_LEVEL", "1")] {
            command.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
        }
        // Another profile: it must not push out what the other has built.
        command.env("CARGO_TARGET_DIR", self.target.join("lab/init"));
        self.program(
            command.args(["--quiet", "--release", "--package", "lab-init", "--bin", "lab-init"]),
            "lab-init",
        )
    }

    /// Builds one program.
    ///
    /// # Errors
    /// Where cargo does not build it.
    pub(crate) fn program(&self, command: &mut Command, name: &str) -> Result<PathBuf> {
        let programs = self.programs(command)?;
        let program = programs.into_iter().find(|program| program.name == name && program.kind == "bin");
        program.map(|program| program.path).ok_or_else(|| Error::Usage(format!("cargo built no {name}")))
    }
}

/// The cargo that runs us, without what it told us about ourselves.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") || text == "LD_LIBRARY_PATH"
        {
            command.env_remove(&name);
        }
    }
    command
}

/// What a cargo command that builds says for programs.
fn messages(command: &mut Command) -> Result<String> {
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    // A build that nobody waits for would hold its lock against the next one.
    leash(command);
    let output = command.output().map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
    if !output.status.success() {
        let status = output.status.to_string();
        return Err(Error::Failed { program: "cargo".into(), status, output: String::new() });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The folder that a package's build script writes to.
fn build_folder(messages: &str, package: &str) -> Option<PathBuf> {
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut scripts = messages.filter(|message| message["reason"] == "build-script-executed");
    let script =
        scripts.find(|script| script["package_id"].as_str().is_some_and(|id| package_name(id) == package))?;
    script["out_dir"].as_str().map(PathBuf::from)
}

fn parse_messages(text: &str) -> Vec<Program> {
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|message| message["reason"] == "compiler-artifact")
        .filter_map(|message| {
            let manifest = Path::new(message["manifest_path"].as_str()?);
            Some(Program {
                package: package_name(message["package_id"].as_str()?),
                name: message["target"]["name"].as_str()?.to_owned(),
                kind: message["target"]["kind"][0].as_str()?.to_owned(),
                test: message["profile"]["test"].as_bool()?,
                path: message["executable"].as_str()?.into(),
                folder: manifest.parent()?.to_path_buf(),
            })
        })
        .collect()
}

/// `path+file:///x/stage2#0.1.0` is stage2; `path+file:///x/vmm#quire@0.1.0` is quire.
fn package_name(id: &str) -> String {
    let (place, version) = id.rsplit_once('#').unwrap_or((id, ""));
    match version.split_once('@') {
        Some((name, _)) => name.to_owned(),
        None => place.rsplit('/').next().unwrap_or_default().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packages_name_is_read_from_its_id() {
        assert_eq!(package_name("path+file:///x/stage2#0.1.0"), "stage2");
        assert_eq!(package_name("path+file:///x/vmm#quire@0.1.0"), "quire");
    }

    #[test]
    fn a_build_scripts_folder_is_found_among_cargos_messages() {
        let text = r#"{"reason":"build-script-executed","package_id":"registry+https://x#libc@0.2.1","out_dir":"/t/libc/out"}
{"reason":"build-script-executed","package_id":"path+file:///x/vmm#quire@0.1.0","out_dir":"/t/quire/out"}"#;
        assert_eq!(build_folder(text, "quire"), Some("/t/quire/out".into()));
        assert_eq!(build_folder(text, "stage2"), None);
    }

    #[test]
    fn programs_are_found_among_cargos_messages() {
        let text = r#"{"reason":"compiler-artifact","package_id":"path+file:///x/vmm#quire@0.1.0","manifest_path":"/x/vmm/Cargo.toml","target":{"kind":["bin"],"name":"quire"},"profile":{"test":true},"executable":"/t/quire-1"}
{"reason":"compiler-artifact","package_id":"x","manifest_path":"/x/y/Cargo.toml","target":{"kind":["lib"],"name":"y"},"profile":{"test":false},"executable":null}
not json
{"reason":"build-finished","success":true}"#;
        let program = Program {
            package: "quire".into(),
            name: "quire".into(),
            kind: "bin".into(),
            test: true,
            path: "/t/quire-1".into(),
            folder: "/x/vmm".into(),
        };
        assert_eq!(parse_messages(text), [program]);
    }
}
