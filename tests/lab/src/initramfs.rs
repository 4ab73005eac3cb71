//! The emulated host's first file system: our first program, busybox, modules, a plan.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use cpio::newc::{self, ModeFileType};
use lab_init::plan::{self, Plan, Share};

use crate::error::{Error, Result, at};

/// What goes in.
pub(crate) struct Contents<'a> {
    /// The first program, static.
    pub(crate) init: &'a Path,
    /// The shell and tools, static.
    pub(crate) busybox: &'a Path,
    /// In the order in which they load.
    pub(crate) modules: &'a [PathBuf],
    /// Outermost first.
    pub(crate) shares: &'a [Share],
    /// Nobody changes what is shared.
    pub(crate) still: bool,
}

impl Contents<'_> {
    /// The archive.
    ///
    /// # Errors
    /// Where a file can't be read or does not fit the format.
    pub(crate) fn archive(&self) -> Result<Vec<u8>> {
        let plan = Plan {
            modules: self
                .modules
                .iter()
                .map(|path| path.file_name().unwrap_or_default().to_string_lossy().into_owned())
                .collect(),
            shares: self.shares.to_vec(),
            still: self.still,
        };
        let plan = serde_json::to_vec(&plan).map_err(|error| Error::Usage(error.to_string()))?;
        let read = |path: &Path| fs::read(path).map_err(at(path));
        let mut archive = Archive { bytes: Vec::new(), next: 1 };
        for folder in FOLDERS {
            archive.folder(folder)?;
        }
        // The kernel gives its console to the first program before anything is mounted; a Rust
        // program that finds no standard input wants /dev/null.
        archive.device("dev/console", 5, 1)?;
        archive.device("dev/null", 1, 3)?;
        archive.file("init", 0o755, &read(self.init)?)?;
        archive.file("bin/busybox", 0o755, &read(self.busybox)?)?;
        archive.file("etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n")?;
        archive.file("etc/group", 0o644, b"root:x:0:\ntty:x:5:\n")?;
        archive.file("etc/profile", 0o644, PROFILE)?;
        for applet in APPLETS {
            archive.link(&format!("bin/{applet}"), "busybox")?;
        }
        archive.file(plan::PATH.trim_start_matches('/'), 0o644, &plan)?;
        for module in self.modules {
            let name = module.file_name().unwrap_or_default().to_string_lossy();
            let path = format!("{}/{name}", plan::MODULES.trim_start_matches('/'));
            archive.file(&path, 0o644, &read(module)?)?;
        }
        archive.finish()
    }
}

/// Mount points, and where the files go.
const FOLDERS: [&str; 13] =
    ["bin", "dev", "etc", "lab", "lab/modules", "proc", "root", "run", "sbin", "sys", "tmp", "usr", "var"];

const PROFILE: &[u8] = b"PS1='lab:\\w# '\nalias ll='ls -l'\n";

/// The tools of busybox that scripts and people reach for.
const APPLETS: &[&str] = &[
    "[",
    "ash",
    "awk",
    "base64",
    "basename",
    "blkid",
    "cat",
    "chmod",
    "chown",
    "cmp",
    "cp",
    "cpio",
    "cut",
    "date",
    "dd",
    "df",
    "diff",
    "dirname",
    "dmesg",
    "du",
    "echo",
    "env",
    "expr",
    "false",
    "find",
    "free",
    "fuser",
    "grep",
    "gunzip",
    "gzip",
    "halt",
    "head",
    "hexdump",
    "hostname",
    "id",
    "insmod",
    "ip",
    "kill",
    "killall",
    "less",
    "ln",
    "losetup",
    "ls",
    "lsmod",
    "lsof",
    "mkdir",
    "mkfifo",
    "mke2fs",
    "mkfs.ext2",
    "mknod",
    "mktemp",
    "more",
    "mount",
    "mv",
    "nc",
    "nproc",
    "od",
    "pgrep",
    "pidof",
    "ping",
    "pkill",
    "pmap",
    "poweroff",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "reboot",
    "reset",
    "rm",
    "rmdir",
    "rmmod",
    "sed",
    "seq",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "strings",
    "stty",
    "sync",
    "sysctl",
    "tail",
    "tar",
    "taskset",
    "tee",
    "test",
    "time",
    "timeout",
    "top",
    "touch",
    "tr",
    "true",
    "truncate",
    "tty",
    "umount",
    "uname",
    "uniq",
    "uptime",
    "usleep",
    "vi",
    "watch",
    "wc",
    "wget",
    "which",
    "xargs",
    "xxd",
    "yes",
    "zcat",
];

/// A newc archive under construction.
struct Archive {
    bytes: Vec<u8>,
    next: u32,
}

impl Archive {
    fn entry(&mut self, path: &str, mode: u32, kind: ModeFileType) -> newc::Builder {
        let inode = self.next;
        self.next += 1;
        newc::Builder::new(path).ino(inode).nlink(1).mode(mode).set_mode_file_type(kind)
    }

    fn put(&mut self, path: &str, entry: newc::Builder, data: &[u8]) -> Result<()> {
        let length = u32::try_from(data.len()).map_err(io::Error::other).map_err(at(path))?;
        let mut writer = entry.write(&mut self.bytes, length);
        writer.write_all(data).and_then(|()| writer.finish()).map(drop).map_err(at(path))
    }

    fn folder(&mut self, path: &str) -> Result<()> {
        let entry = self.entry(path, 0o755, ModeFileType::Directory);
        self.put(path, entry, &[])
    }

    fn file(&mut self, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let entry = self.entry(path, mode, ModeFileType::Regular);
        self.put(path, entry, data)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<()> {
        let entry = self.entry(path, 0o777, ModeFileType::Symlink);
        self.put(path, entry, target.as_bytes())
    }

    fn device(&mut self, path: &str, major: u32, minor: u32) -> Result<()> {
        let entry = self.entry(path, 0o600, ModeFileType::Char).rdev_major(major).rdev_minor(minor);
        self.put(path, entry, &[])
    }

    fn finish(self) -> Result<Vec<u8>> {
        newc::trailer(self.bytes).map_err(at("the initramfs"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_archive_holds_what_the_first_program_needs() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["init", "busybox", "9p.ko"] {
            fs::write(path(name), name).unwrap();
        }
        let shares = [Share { tag: "lab0".into(), path: "/home/x".into() }];
        let modules = [path("9p.ko")];
        let (init, busybox) = (path("init"), path("busybox"));
        let contents =
            Contents { init: &init, busybox: &busybox, modules: &modules, shares: &shares, still: true };
        let archive = contents.archive().unwrap();

        let mut rest = archive.as_slice();
        let mut found = Vec::new();
        loop {
            let mut reader = newc::Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            found.push((reader.entry().name().to_owned(), reader.entry().mode(), data));
            rest = reader.finish().unwrap();
        }
        let get = |name: &str| found.iter().find(|(have, _, _)| have == name).unwrap();
        assert_eq!(get("init").2, b"init");
        assert_eq!(get("init").1, 0o100755);
        assert_eq!(get("bin/sh").2, b"busybox");
        assert_eq!(get("dev/null").1, 0o020600);
        assert_eq!(get("lab/modules/9p.ko").2, b"9p.ko");
        let plan: Plan = serde_json::from_slice(&get("lab/plan.json").2).unwrap();
        assert_eq!(plan.modules, ["9p.ko"]);
        assert_eq!(plan.shares, shares);
    }
}
