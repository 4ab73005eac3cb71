//! Debian's packages, by way of the machine's apt-get but not of its apt configuration.
//!
//! Each suite has a state of its own in the cache: sources, lists, archives and an empty package
//! database, so that a whole closure resolves whatever is installed here. Nothing is installed, no
//! root is needed, and everything is verified with Debian's own keyring.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cache::Cache;
use crate::error::{Error, Result, at};
use crate::mirror::Mirror;
use crate::tool;

/// Where the machine keeps Debian's keys.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Suite {
    /// Debian 12 with its security updates: the cross toolchain.
    Bookworm,
    /// Debian 13: QEMU, busybox, the long-term kernel.
    Trixie,
    /// Its backports: the newest kernel.
    Backports,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Suite::Bookworm => "bookworm",
            Suite::Trixie => "trixie",
            Suite::Backports => "trixie-backports",
        }
    }

    fn sources(self, mirror: &Mirror, keyring: &str) -> String {
        let mut lines = format!("deb [signed-by={keyring}] {} {} main\n", mirror.main, self.name());
        if self == Suite::Bookworm {
            lines += &format!("deb [signed-by={keyring}] {} bookworm-security main\n", mirror.security);
        }
        lines
    }
}

/// apt-get and apt-cache on one suite's private state.
pub(crate) struct Apt {
    config: PathBuf,
    /// Two set-ups on one state would trip over apt's own lock files.
    _lock: fs::File,
}

impl Apt {
    /// Opens the suite's state and brings its lists up to date.
    ///
    /// # Errors
    /// Where apt-get, the keyring or a mirror is missing or unreachable.
    pub(crate) fn open(cache: &Cache, mirror: &Mirror, suite: Suite) -> Result<Apt> {
        if !available() {
            return Err(Error::Missing {
                what:
                    "apt-get and dpkg-deb are not here, and the lab brings what is missing as Debian packages"
                        .into(),
                remedy: crate::setup::WITHOUT_APT.into(),
            });
        }
        if !Path::new(KEYRING).is_file() {
            return Err(Error::Missing {
                what: format!("{KEYRING} is missing: packages could not be verified"),
                remedy: "as root: apt-get install debian-archive-keyring".into(),
            });
        }
        let name = format!("apt/{}", suite.name());
        let root = cache.path(&name);
        for folder in ["lists/partial", "archives/partial"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let lock = cache.lock(&name)?;
        let write = |file: &str, text: &str| {
            let path = root.join(file);
            fs::write(&path, text).map_err(at(&path))
        };
        write("sources.list", &suite.sources(mirror, KEYRING))?;
        write("status", "")?;
        write("apt.conf", &config(&root, machine_architecture(), &acquire_settings()))?;
        let apt = Apt { config: root.join("apt.conf"), _lock: lock };
        tool::output(apt.command("apt-get").args(["-q", "update", "-o", "APT::Update::Error-Mode=any"]))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", &self.config).env("LC_ALL", "C");
        command
    }

    /// Downloads these packages and everything that they depend on into a folder.
    ///
    /// # Errors
    /// Where they do not resolve or can't be fetched.
    pub(crate) fn closure(&self, packages: &[&str], into: &Path) -> Result<()> {
        let partial = into.join("partial");
        fs::create_dir_all(&partial).map_err(at(&partial))?;
        let archives = format!("Dir::Cache::archives={}", into.display());
        let mut command = self.command("apt-get");
        command.args(["-q", "-y", "install", "--download-only", "--no-install-recommends", "-o", &archives]);
        tool::output(command.args(packages))?;
        Ok(())
    }

    /// Downloads exactly these packages into a folder.
    ///
    /// # Errors
    /// Where one is unknown or can't be fetched.
    pub(crate) fn download(&self, packages: &[String], into: &Path) -> Result<()> {
        fs::create_dir_all(into).map_err(at(into))?;
        tool::output(self.command("apt-get").args(["-q", "download"]).args(packages).current_dir(into))?;
        Ok(())
    }

    /// The names that a package depends on.
    ///
    /// # Errors
    /// Where it is unknown.
    pub(crate) fn depends(&self, package: &str) -> Result<Vec<String>> {
        let command = &mut self.command("apt-cache");
        Ok(parse_depends(&tool::output(command.args(["depends", "--important", package]))?))
    }
}

/// Whether this machine has what unpacks packages.
pub(crate) fn available() -> bool {
    tool::find("apt-get").is_some() && tool::find("apt-cache").is_some() && tool::find("dpkg-deb").is_some()
}

/// Debian's name for this machine's architecture.
pub(crate) fn machine_architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

/// Unpacks every package of a folder into a prefix, in the order of their names.
///
/// # Errors
/// Those of dpkg-deb.
pub(crate) fn unpack(archives: &Path, leave_out: &[&str], prefix: &Path) -> Result<()> {
    let mut packages = Vec::new();
    for entry in fs::read_dir(archives).map_err(at(archives))? {
        let path = entry.map_err(at(archives))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let package = name.split('_').next().unwrap_or_default();
        if name.ends_with(".deb") && !leave_out.contains(&package) {
            packages.push(path);
        }
    }
    packages.sort();
    fs::create_dir_all(prefix).map_err(at(prefix))?;
    for package in packages {
        tool::output(Command::new("dpkg-deb").arg("-x").arg(package).arg(prefix))?;
    }
    Ok(())
}

/// How this machine reaches its mirrors: proxies, certificates, retries. Not what it downloads.
fn acquire_settings() -> String {
    let dump = tool::output(Command::new("apt-config").args(["dump", "Acquire"])).unwrap_or_default();
    dump.lines()
        .filter(|line| !line.starts_with("Acquire::IndexTargets") && !line.starts_with("Acquire::Languages"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// apt reads the file that APT_CONFIG names before all others: it can switch the others off.
fn config(root: &Path, architecture: &str, acquire: &str) -> String {
    let other = if architecture == "arm64" { "amd64" } else { "arm64" };
    let root = root.display();
    format!(
        r#"{acquire}Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::parts "-";
Dir::Etc::main "-";
Dir::Etc::preferences "-";
Dir::Etc::preferencesparts "-";
Dir::Etc::sourcelist "{root}/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "{root}";
Dir::State::lists "{root}/lists";
Dir::State::status "{root}/status";
Dir::Cache "{root}";
Dir::Cache::archives "{root}/archives";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; "{other}"; }};
APT::Sandbox::User "root";
"#
    )
}

fn parse_depends(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.trim().trim_start_matches('|').split_once("Depends: "))
        .map(|(_, name)| name.trim_matches(['<', '>']).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_configuration_is_switched_off() {
        let text = config(Path::new("/c/apt/trixie"), "amd64", "Acquire::http::Proxy \"p\";\n");
        assert!(text.starts_with("Acquire::http::Proxy \"p\";\n"));
        for line in [
            "Dir::Etc::parts \"-\";",
            "Dir::Etc::sourceparts \"-\";",
            "Dir::State::status \"/c/apt/trixie/status\";",
            "APT::Architectures { \"amd64\"; \"arm64\"; };",
        ] {
            assert!(text.lines().any(|have| have == line), "{line} is missing from\n{text}");
        }
    }

    #[test]
    fn security_updates_come_from_their_own_archive() {
        let mirror = Mirror { main: "http://m/debian".into(), security: "http://s/sec".into() };
        let lines = Suite::Bookworm.sources(&mirror, "/k.gpg");
        assert_eq!(
            lines,
            "deb [signed-by=/k.gpg] http://m/debian bookworm main\n\
             deb [signed-by=/k.gpg] http://s/sec bookworm-security main\n"
        );
        assert_eq!(Suite::Trixie.sources(&mirror, "/k.gpg").lines().count(), 1);
    }

    #[test]
    fn depends_are_read_whatever_their_kind() {
        let text = "linux-image-7\n  PreDepends: linux-base\n |Depends: dracut\n  Depends: <virtual>\n    \
                    dracut\n  Breaks: x\n  Depends: linux-binary-7\n";
        assert_eq!(parse_depends(text), ["linux-base", "dracut", "virtual", "linux-binary-7"]);
    }
}
