//! Everything that the emulated host needs: found on this machine, found in the cache, or brought.

use std::cell::OnceCell;
use std::path::PathBuf;

use crate::apt::{self, Apt, Suite};
use crate::cache::Cache;
use crate::error::{Result, at};
use crate::host::Parts;
use crate::kernel::{Kernel, Kind};
use crate::mirror::Mirror;
use crate::peer;
use crate::progress::Step;
use crate::qemu::Qemu;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// What to do where there is no apt.
pub(crate) const WITHOUT_APT: &str = "install QEMU 9 or newer (qemu-system-aarch64), `rustup target add \
    aarch64-unknown-linux-gnu`, an aarch64-linux-gnu-gcc with a static C library; the kernels come as Debian \
    packages: copy the folder `arm64` of the lab's cache from a machine that has apt-get, or run there";

/// The components that `setup --refresh` forgets.
const COMPONENTS: [&str; 8] =
    ["qemu", "rust", "gcc", "arm64/busybox", "arm64/new", "arm64/lts", "arm64/16k", peer::COMPONENT];

/// The set-up under way.
pub(crate) struct Setup {
    /// Where things are kept.
    pub(crate) cache: Cache,
    named_mirror: Option<String>,
    mirror: OnceCell<Mirror>,
}

impl Setup {
    /// Opens the cache; nothing is brought yet.
    ///
    /// # Errors
    /// Where there is no place for a cache.
    pub(crate) fn open(mirror: Option<&str>) -> Result<Setup> {
        let variable = std::env::var("QUIRE_LAB_MIRROR").ok().filter(|value| !value.is_empty());
        let named_mirror = mirror.map(str::to_owned).or(variable);
        Ok(Setup { cache: Cache::open()?, named_mirror, mirror: OnceCell::new() })
    }

    /// The mirror: looked up when the first thing has to be downloaded.
    ///
    /// # Errors
    /// Where the machine has none and none was named.
    pub(crate) fn mirror(&self) -> Result<&Mirror> {
        if let Some(mirror) = self.mirror.get() {
            return Ok(mirror);
        }
        let mirror = Mirror::find(self.named_mirror.as_deref())?;
        Ok(self.mirror.get_or_init(|| mirror))
    }

    /// Forgets what was downloaded, so that the newest is brought.
    pub(crate) fn refresh(&self) -> Result<()> {
        COMPONENTS.iter().try_for_each(|name| self.cache.forget(name))
    }

    /// The folder of kernels, modules and busybox: what scenarios start as guests.
    pub(crate) fn guests(&self) -> PathBuf {
        self.cache.path("arm64")
    }

    /// busybox for arm64, static.
    pub(crate) fn busybox(&self) -> Result<PathBuf> {
        let folder = self.cache.component("arm64/busybox", |folder| {
            let _step = Step::new("busybox", "downloading");
            let scratch = folder.join("scratch");
            let apt = Apt::open(&self.cache, self.mirror()?, Suite::Trixie)?;
            apt.download(&["busybox-static:arm64".into()], &scratch)?;
            apt::unpack(&scratch, &[], &scratch)?;
            let (usr, root) = (scratch.join("usr/bin/busybox"), scratch.join("bin/busybox"));
            let from = if usr.is_file() { usr } else { root };
            std::fs::copy(&from, folder.join("busybox")).map_err(at(&from))?;
            std::fs::remove_dir_all(&scratch).map_err(at(&scratch))
        })?;
        Ok(folder.join("busybox"))
    }

    /// Everything for a host with this kernel.
    ///
    /// # Errors
    /// Where something can't be found, brought or built.
    pub(crate) fn parts(&self, workspace: &Workspace, toolchain: &Toolchain, kernel: Kind) -> Result<Parts> {
        self.parts_with(workspace.init(toolchain)?, kernel)
    }

    /// The same, around a first program that has been built.
    ///
    /// # Errors
    /// Where something can't be found or brought.
    pub(crate) fn parts_with(&self, init: PathBuf, kernel: Kind) -> Result<Parts> {
        let qemu = Qemu::set_up(self)?;
        let kernel = Kernel::set_up(self, kernel)?;
        let busybox = self.busybox()?;
        Ok(Parts { qemu, kernel, init, busybox })
    }

    /// Everything for every command.
    ///
    /// # Errors
    /// Where something can't be found or brought.
    pub(crate) fn all(&self) -> Result<()> {
        let qemu = Qemu::set_up(self)?;
        let toolchain = Toolchain::set_up(self)?;
        self.busybox()?;
        let mut releases = Vec::new();
        for kind in Kind::ALL {
            releases.push(format!("{} {}", kind.name(), Kernel::set_up(self, kind)?.release()?));
        }
        eprintln!("lab: emulator:  {}", qemu.version);
        eprintln!("lab: toolchain: {}", toolchain.what);
        eprintln!("lab: kernels:   {}", releases.join(", "));
        eprintln!("lab: cache:     {}", self.cache.path("").display());
        Ok(())
    }
}
