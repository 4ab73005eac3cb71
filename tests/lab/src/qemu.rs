//! The emulator: the machine's own if it is new enough, else Debian's, unpacked into the cache.

use std::path::PathBuf;
use std::process::Command;

use crate::apt::{self, Apt, Suite};
use crate::error::{Error, Result};
use crate::progress::Step;
use crate::setup::Setup;
use crate::tool;

/// The first release that emulates nested virtualisation (FEAT_NV2).
const OLDEST: u32 = 9;
const PROGRAM: &str = "qemu-system-aarch64";

/// A QEMU that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Qemu {
    program: PathBuf,
    arguments: Vec<String>,
    /// What it is, for people.
    pub(crate) version: String,
}

impl Qemu {
    /// The command, without the machine's arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }

    /// Finds one or brings one.
    ///
    /// # Errors
    /// Where there is none and none can be brought.
    pub(crate) fn set_up(setup: &Setup) -> Result<Qemu> {
        if let Some(program) =
            std::env::var_os("QUIRE_LAB_QEMU").map(PathBuf::from).or_else(|| tool::find(PROGRAM))
        {
            let text = tool::output(Command::new(&program).arg("--version"))?;
            let version = parse_version(&text);
            if version.is_some_and(|(major, _)| major >= OLDEST) {
                let version = text.lines().next().unwrap_or_default().to_owned();
                return Ok(Qemu { program, arguments: Vec::new(), version });
            }
            if std::env::var_os("QUIRE_LAB_QEMU").is_some() {
                return Err(Error::Missing {
                    what: format!("QUIRE_LAB_QEMU is not a QEMU {OLDEST} or newer: {}", text.trim()),
                    remedy: "name another, or unset it to have one brought".into(),
                });
            }
        }
        let prefix = setup.cache.component("qemu", |prefix| {
            let _step = Step::new("QEMU", "downloading the emulator (Debian 13, about 40 MB)");
            let archives = prefix.join("archives");
            let package = format!("qemu-system-arm:{}", apt::machine_architecture());
            Apt::open(&setup.cache, setup.mirror()?, Suite::Trixie)?.closure(&[&package], &archives)?;
            apt::unpack(&archives, &[], prefix)?;
            std::fs::remove_dir_all(&archives).map_err(crate::error::at(&archives))
        })?;
        // The prefix has its own C library: it runs by its own loader, whatever is installed here.
        let (loader, libraries) = if cfg!(target_arch = "aarch64") {
            ("usr/lib/ld-linux-aarch64.so.1", "usr/lib/aarch64-linux-gnu")
        } else {
            ("usr/lib64/ld-linux-x86-64.so.2", "usr/lib/x86_64-linux-gnu")
        };
        let path = |inner: &str| prefix.join(inner).display().to_string();
        let arguments = vec![
            "--library-path".into(),
            path(libraries),
            path(&format!("usr/bin/{PROGRAM}")),
            "-L".into(),
            path("usr/share/qemu"),
        ];
        let qemu = Qemu { program: prefix.join(loader), arguments, version: String::new() };
        let text = tool::output(qemu.command().arg("--version"))?;
        Ok(Qemu { version: text.lines().next().unwrap_or_default().to_owned(), ..qemu })
    }
}

/// `QEMU emulator version 10.0.13 (Debian ...)` is (10, 0).
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (_, rest) = text.split_once("version ")?;
    let mut numbers = rest.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_qemu_says() {
        let debian = "QEMU emulator version 7.2.15 (Debian 1:7.2+dfsg-7+deb12u7)\nCopyright";
        assert_eq!(parse_version(debian), Some((7, 2)));
        assert_eq!(parse_version("QEMU emulator version 11.1.0"), Some((11, 1)));
        assert_eq!(parse_version("nonsense"), None);
    }
}
