//! This checkout, and what cargo builds in it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::error::{Error, Result};
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

impl Program {
    /// Whether it holds tests; a benchmark that was built with them does not.
    pub(crate) fn has_tests(&self) -> bool {
        self.test && self.kind != "bench"
    }
}

/// What a cargo command built.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// The programs.
    pub(crate) programs: Vec<Program>,
    /// What the compiler warned of, each once.
    pub(crate) warnings: BTreeSet<String>,
    /// Where quire's build script has put the guests' images.
    images: Option<PathBuf>,
}

impl Built {
    /// The monitor's image, which `quire` holds.
    ///
    /// # Errors
    /// Where `quire` was not built.
    pub(crate) fn monitor(&self) -> Result<PathBuf> {
        self.images.as_ref().map(|folder| folder.join("monitor.image")).ok_or_else(|| {
            Error::Usage("cargo does not say where quire's build script has put the monitor".into())
        })
    }
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

    /// Runs a cargo command that builds, and lists the programs that it built. What the compiler says is printed.
    pub(crate) fn programs(&self, command: &mut Command) -> Result<Vec<Program>> {
        let (built, messages) = messages(command.arg("--message-format=json-render-diagnostics"))?;
        if built { Ok(parse(&messages).programs) } else { Err(cargo_failed(String::new())) }
    }

    /// Runs a cargo command that builds. What the compiler warns of is kept; where it finds an error, so does the caller.
    pub(crate) fn built(&self, command: &mut Command) -> Result<Built> {
        let (built, messages) = messages(command.args(["--quiet", "--message-format=json"]))?;
        if built { Ok(parse(&messages)) } else { Err(cargo_failed(errors(&messages))) }
    }

    /// Builds `quire` for arm64, as users get it.
    pub(crate) fn quire(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        self.quire_by(self.cargo_arm64(toolchain, "build"))
    }

    /// Builds `quire` for this machine, as users get it.
    pub(crate) fn quire_here(&self) -> Result<PathBuf> {
        let mut command = cargo();
        command.current_dir(&self.root).arg("build");
        self.quire_by(command)
    }

    fn quire_by(&self, mut build: Command) -> Result<PathBuf> {
        self.program(build.args(["--release", "--package", "quire", "--bin", "quire"]), "quire")
    }

    /// Builds the monitor's image, which is done before `quire`, who holds it, is compiled: a check of `quire` is enough.
    ///
    /// # Errors
    /// Where cargo does not build it.
    pub(crate) fn monitor(&self, toolchain: &Toolchain) -> Result<PathBuf> {
        let mut command = self.cargo_arm64(toolchain, "check");
        self.built(command.args(["--package", "quire", "--lib"]))?.monitor()
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

/// What a cargo command that builds says for programs, and whether it built.
fn messages(command: &mut Command) -> Result<(bool, String)> {
    command.stdin(Stdio::null()).stderr(Stdio::inherit());
    // A build that nobody waits for would hold its lock against the next one.
    leash(command);
    let output = command.output().map_err(|source| Error::Spawn { program: "cargo".into(), source })?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

fn cargo_failed(output: String) -> Error {
    Error::Failed { program: "cargo".into(), status: "it says why".into(), output }
}

fn lines(messages: &str) -> impl Iterator<Item = Value> {
    messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok())
}

/// What cargo's messages say was built.
fn parse(messages: &str) -> Built {
    let mut built = Built::default();
    for message in lines(messages) {
        match message["reason"].as_str() {
            Some("compiler-artifact") => built.programs.extend(program(&message)),
            Some("compiler-message") => built.warnings.extend(diagnostic(&message, "warning")),
            Some("build-script-executed")
                if message["package_id"].as_str().map(package_name).as_deref() == Some("quire") =>
            {
                built.images = message["out_dir"].as_str().map(PathBuf::from);
            }
            _ => {}
        }
    }
    built
}

/// The compiler's errors among cargo's messages.
fn errors(messages: &str) -> String {
    lines(messages)
        .filter_map(|message| diagnostic(&message, "error"))
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// What the compiler says at this level, as people read it; not how often it did.
fn diagnostic(message: &Value, level: &str) -> Option<String> {
    let said = &message["message"];
    let counts = said["message"].as_str()?.ends_with(" emitted") && said["spans"].as_array()?.is_empty();
    (said["level"] == level && !counts).then(|| said["rendered"].as_str().map(str::to_owned)).flatten()
}

/// The program that a message is about; a library is none.
fn program(message: &Value) -> Option<Program> {
    let manifest = Path::new(message["manifest_path"].as_str()?);
    Some(Program {
        package: package_name(message["package_id"].as_str()?),
        name: message["target"]["name"].as_str()?.to_owned(),
        kind: message["target"]["kind"][0].as_str()?.to_owned(),
        test: message["profile"]["test"].as_bool()?,
        path: message["executable"].as_str()?.into(),
        folder: manifest.parent()?.to_path_buf(),
    })
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
    fn the_monitor_is_found_among_cargos_messages() {
        let text = r#"{"reason":"build-script-executed","package_id":"registry+https://x#libc@0.2.1","out_dir":"/t/libc/out"}
{"reason":"build-script-executed","package_id":"path+file:///x/vmm#quire@0.1.0","out_dir":"/t/quire/out"}"#;
        assert_eq!(parse(text).monitor().unwrap(), Path::new("/t/quire/out/monitor.image"));
        assert!(parse("").monitor().is_err());
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
        assert_eq!(parse(text).programs, [program]);
    }

    #[test]
    fn what_the_compiler_says_is_kept_by_its_level_and_once() {
        let text = r#"{"reason":"compiler-message","message":{"level":"warning","message":"unused","spans":[{}],"rendered":"warning: unused\n"}}
{"reason":"compiler-message","message":{"level":"warning","message":"unused","spans":[{}],"rendered":"warning: unused\n"}}
{"reason":"compiler-message","message":{"level":"warning","message":"2 warnings emitted","spans":[],"rendered":"warning: 2 warnings emitted\n"}}
{"reason":"compiler-message","message":{"level":"error","message":"no such name","spans":[{}],"rendered":"error: no such name\n"}}"#;
        assert_eq!(parse(text).warnings, ["warning: unused\n".to_owned()].into());
        assert_eq!(errors(text), "error: no such name\n");
    }
}
