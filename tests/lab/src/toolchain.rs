//! What builds arm64 programs here: the machine's own tools where they are good enough, else
//! Debian's, unpacked into the cache.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::apt::{self, Apt, Suite};
use crate::error::{Error, Result, at};
use crate::progress::Step;
use crate::setup::Setup;
use crate::tool;

/// What everything for the emulated host is built for.
pub(crate) const TARGET: &str = "aarch64-unknown-linux-gnu";
const LINKER_VARIABLE: &str = "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER";
const LINKER: &str = "aarch64-linux-gnu-gcc";

/// A compiler, a linker, and how cargo is told.
#[derive(Debug, Clone)]
pub(crate) struct Toolchain {
    /// Variables for cargo.
    pub(crate) env: Vec<(String, OsString)>,
    /// The lints of that same compiler, as a compiler that has them; none where the machine has none.
    pub(crate) clippy: Option<PathBuf>,
    /// What it is, for people.
    pub(crate) what: String,
}

impl Toolchain {
    /// Finds or brings what is needed.
    pub(crate) fn set_up(setup: &Setup) -> Result<Toolchain> {
        // Static: the emulated host has no C library.
        let mut env: Vec<(String, OsString)> = vec![(
            "CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS".into(),
            "-C target-feature=+crt-static".into(),
        )];
        let mut what = Vec::new();
        let clippy;
        if has_target() {
            clippy = tool::find("clippy-driver");
            what.push(format!("this machine's rustc with {TARGET}"));
        } else {
            let prefix = rust(setup)?;
            what.push("Debian's rustc".to_owned());
            env.push(("RUSTC".into(), prefix.join("bin/rustc").into()));
            clippy = Some(prefix.join("bin/clippy-driver"));
        }
        if let Some(linker) = linker() {
            what.push(linker.display().to_string());
            env.push((LINKER_VARIABLE.into(), linker.into()));
        } else {
            let linker = gcc(setup)?.join("bin").join(LINKER);
            what.push("Debian's gcc".to_owned());
            env.push((LINKER_VARIABLE.into(), linker.into()));
        }
        Ok(Toolchain { env, clippy, what: what.join(", ") })
    }
}

/// Whether this machine's compiler has arm64's standard library.
fn has_target() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let Ok(sysroot) = tool::output(Command::new(rustc).args(["--print", "sysroot"])) else { return false };
    let libraries = Path::new(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib");
    let Ok(mut entries) = fs::read_dir(libraries) else { return false };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("libstd-")))
}

/// A linker of this machine that can link statically.
fn linker() -> Option<PathBuf> {
    let named = std::env::var_os(LINKER_VARIABLE).map(PathBuf::from);
    let name = if cfg!(target_arch = "aarch64") { "cc" } else { LINKER };
    let linker = named.or_else(|| tool::find(name))?;
    let library = tool::output(Command::new(&linker).arg("-print-file-name=libc.a")).ok()?;
    Path::new(library.trim()).is_absolute().then_some(linker)
}

/// Debian 12's rustc for the web browsers: the only packaged one that is new enough, with the
/// standard library of both architectures.
fn rust(setup: &Setup) -> Result<PathBuf> {
    setup.cache.component("rust", |prefix| {
        let _step =
            Step::new("rustc", "downloading a compiler with arm64's library (Debian 12, about 160 MB)");
        let archives = prefix.join("archives");
        let machine = apt::machine_architecture();
        let on_machine = |name: &str| format!("{name}:{machine}");
        let apt = Apt::open(&setup.cache, setup.mirror()?, Suite::Bookworm)?;
        // The dev package -> libstd-rust-web-VERSION -> libllvmVERSION: names move with versions.
        let needs = |package: &str, prefix: &str| -> Result<String> {
            let all = apt.depends(&on_machine(package))?;
            all.iter().find(|name| name.starts_with(prefix)).cloned().ok_or_else(|| Error::Package {
                package: package.into(),
                what: format!("it depends on no {prefix}*, only on {}", all.join(", ")),
            })
        };
        let library = needs("libstd-rust-web-dev", "libstd-rust-web-")?;
        let llvm = needs(&library, "libllvm")?;
        apt.closure(&[&on_machine(&llvm)], &archives)?;
        let mut packages: Vec<String> =
            ["rustc-web", "rust-web-clippy", "libstd-rust-web-dev", &library].map(on_machine).into();
        if machine != "arm64" {
            packages.push("libstd-rust-web-dev:arm64".into());
        }
        apt.download(&packages, &archives)?;
        apt::unpack(&archives, HOST_LIBRARIES, prefix)?;
        fs::remove_dir_all(&archives).map_err(at(&archives))?;
        wrap(prefix, "rustc", "rustc")?;
        wrap(prefix, "clippy-driver", "clippy-driver")
    })
}

/// Debian 12's cross gcc: old enough for its C library to serve every newer machine.
fn gcc(setup: &Setup) -> Result<PathBuf> {
    if cfg!(target_arch = "aarch64") {
        return Err(Error::Missing {
            what: "cc is missing, or can't link statically".into(),
            remedy: "as root: apt-get install gcc libc6-dev (or what this distribution calls them)".into(),
        });
    }
    setup.cache.component("gcc", |prefix| {
        let _step = Step::new("gcc", "downloading a linker for arm64 (Debian 12, about 70 MB)");
        let archives = prefix.join("archives");
        // The static C library is only recommended, and so has to be named.
        let packages = ["gcc-aarch64-linux-gnu:amd64", "libc6-dev-arm64-cross"];
        Apt::open(&setup.cache, setup.mirror()?, Suite::Bookworm)?.closure(&packages, &archives)?;
        apt::unpack(&archives, HOST_LIBRARIES, prefix)?;
        fs::remove_dir_all(&archives).map_err(at(&archives))?;
        wrap(prefix, LINKER, LINKER)
    })
}

/// What must come from the machine: its own loader goes with its own C library.
const HOST_LIBRARIES: &[&str] = &["libc6", "libgcc-s1", "libc-bin", "debconf"];

/// A script in the prefix's `bin` that runs a program of the prefix with the prefix's libraries.
fn wrap(prefix: &Path, name: &str, program: &str) -> Result<()> {
    let machine = if cfg!(target_arch = "aarch64") { "aarch64-linux-gnu" } else { "x86_64-linux-gnu" };
    let script = format!(
        "#!/bin/sh\np=${{0%/*}}/..\n\
         LD_LIBRARY_PATH=$p/usr/lib/{machine}:$p/lib/{machine} exec \"$p/usr/bin/{program}\" \"$@\"\n"
    );
    let folder = prefix.join("bin");
    fs::create_dir_all(&folder).map_err(at(&folder))?;
    let path = folder.join(name);
    fs::write(&path, script).map_err(at(&path))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(at(&path))
}
