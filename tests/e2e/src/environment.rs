//! Where `quire`, guest kernels and busybox are.
//!
//! | variable | what |
//! |---|---|
//! | `QUIRE_BIN` | the `quire` program; `quire` on PATH where unset |
//! | `QUIRE_FAULTS_BIN` | `quire` built with the feature `faults` |
//! | `QUIRE_HOST_KERNEL` | which of the kernels below the host itself runs; `new` where unset |
//! | `QUIRE_GUEST_DIR` | a folder with `new/`, `lts/` and `16k/` (each `vmlinuz`, `modules/`, `modules/order`) and `busybox/busybox`, as `cargo lab setup` lays it out |

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

/// The `quire` program.
pub fn quire() -> PathBuf {
    env::var_os("QUIRE_BIN").map_or_else(|| PathBuf::from("quire"), PathBuf::from)
}

/// A `quire` that can be told to harm its guests.
///
/// # Panics
/// Where `QUIRE_FAULTS_BIN` is not set: a scenario that has nothing to catch can't pass.
pub fn quire_with_faults() -> PathBuf {
    let path = env::var_os("QUIRE_FAULTS_BIN").expect(
        "QUIRE_FAULTS_BIN names no quire with faults: run `cargo lab test fault`, or build one with \
         `cargo build --release -p quire --features faults` and point it there",
    );
    path.into()
}

/// The folder of kernels, modules and busybox.
///
/// # Panics
/// Where `QUIRE_GUEST_DIR` is not set: a scenario that has no guest to start can't pass.
pub fn guests() -> PathBuf {
    let folder = env::var_os("QUIRE_GUEST_DIR").expect(
        "QUIRE_GUEST_DIR names no folder of guest kernels: run `cargo lab test`, or `cargo lab setup` and point \
         it at the folder `arm64` of the lab's cache",
    );
    folder.into()
}

/// The static arm64 busybox.
///
/// # Panics
/// As [`guests`].
pub fn busybox() -> PathBuf {
    guests().join("busybox/busybox")
}

/// One of Debian's arm64 kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// The newest, 4 KiB pages.
    New,
    /// The long-term one, 4 KiB pages.
    Lts,
    /// The newest with 16 KiB pages.
    Pages16k,
}

impl Kernel {
    /// The one that the host itself runs.
    pub fn of_host() -> Self {
        match env::var("QUIRE_HOST_KERNEL").as_deref() {
            Ok("lts") => Self::Lts,
            Ok("16k") => Self::Pages16k,
            _ => Self::New,
        }
    }

    fn folder(self) -> PathBuf {
        guests().join(match self {
            Self::New => "new",
            Self::Lts => "lts",
            Self::Pages16k => "16k",
        })
    }

    /// The kernel file.
    ///
    /// # Panics
    /// As [`guests`].
    pub fn image(self) -> PathBuf {
        self.folder().join("vmlinuz")
    }

    /// The files of `wanted` modules and of what they need, in the order in which they load. A
    /// module that the kernel has built in has no file.
    ///
    /// # Panics
    /// As [`guests`], and where the kernel's folder is not complete.
    pub fn modules(self, wanted: &[&str]) -> Vec<PathBuf> {
        let folder = self.folder().join("modules");
        let text = fs::read_to_string(folder.join("order"))
            .unwrap_or_else(|error| panic!("{}/order: {error}", folder.display()));
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        let mut needed: Vec<String> = wanted.iter().map(|name| format!("{name}.ko")).collect();
        // A module stands behind what it needs, so one pass from the end finds everything.
        for line in lines.iter().rev() {
            if let [file, needs @ ..] = line.as_slice()
                && needed.iter().any(|name| name == file)
            {
                needed.extend(needs.iter().map(|name| (*name).to_owned()));
            }
        }
        lines
            .iter()
            .filter_map(|line| line.first())
            .filter(|file| needed.iter().any(|name| name == *file))
            .map(|file| folder.join(file))
            .collect()
    }
}

/// The arguments of `quire` that boot `kernel` with `initrd`, and `more`.
///
/// # Panics
/// As [`guests`].
pub fn linux(kernel: Kernel, initrd: &Path, more: &[&str]) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["run".into(), "--kernel".into(), kernel.image().into()];
    args.extend(["--initrd".into(), initrd.into()]);
    args.extend(more.iter().map(Into::into));
    args
}

/// A command line for a kernel that is up soon, for tests that are about something else: every byte that it prints is an
/// exit, and what it does against attackers costs time with each page that it maps or hands out.
pub const SOON: &str = "console=ttyS0 quiet rodata=off init_on_alloc=0";

/// [`linux`] with a kernel that is up [soon](SOON).
pub fn linux_soon(kernel: Kernel, initrd: &Path, more: &[&str]) -> Vec<OsString> {
    linux(kernel, initrd, &[&["--cmdline", SOON], more].concat())
}
