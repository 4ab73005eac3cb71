//! Debian's arm64 kernels, unpacked: for the emulated host, and as guests for its scenarios.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::apt::{self, Apt, Suite};
use crate::error::{Error, Result, at};
use crate::module::{self, Order};
use crate::progress::Step;
use crate::setup::Setup;

/// Which kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Debian 13's long-term kernel, 4 KiB pages.
    Lts,
    /// The newest that Debian 13 has, 4 KiB pages.
    New,
    /// The newest with 16 KiB pages.
    #[value(name = "16k")]
    Pages16k,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Kind; 3] = [Kind::New, Kind::Lts, Kind::Pages16k];

    /// Its name on the command line and in the cache.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Lts => "lts",
            Kind::New => "new",
            Kind::Pages16k => "16k",
        }
    }

    fn package(self) -> (&'static str, Suite) {
        match self {
            Kind::Lts => ("linux-image-arm64", Suite::Trixie),
            Kind::New => ("linux-image-arm64", Suite::Backports),
            Kind::Pages16k => ("linux-image-arm64-16k", Suite::Backports),
        }
    }
}

/// One kernel in the cache.
#[derive(Debug, Clone)]
pub(crate) struct Kernel {
    /// Which.
    pub(crate) kind: Kind,
    /// `vmlinuz`, `config`, `release`, `modules/`.
    pub(crate) folder: PathBuf,
}

impl Kernel {
    /// Finds it in the cache or brings it.
    pub(crate) fn set_up(setup: &Setup, kind: Kind) -> Result<Kernel> {
        let name = format!("arm64/{}", kind.name());
        let folder = setup.cache.component(&name, |folder| {
            let _step = Step::new(&format!("kernel {}", kind.name()), "downloading and unpacking");
            let (package, suite) = kind.package();
            let apt = Apt::open(&setup.cache, setup.mirror()?, suite)?;
            let packages = packages_of(&apt, package)?;
            let scratch = folder.join("scratch");
            apt.download(&packages, &scratch.join("archives"))?;
            apt::unpack(&scratch.join("archives"), &[], &scratch)?;
            take(&scratch, folder)?;
            fs::remove_dir_all(&scratch).map_err(at(&scratch))
        })?;
        Ok(Kernel { kind, folder })
    }

    /// The kernel image.
    pub(crate) fn image(&self) -> PathBuf {
        self.folder.join("vmlinuz")
    }

    /// Its release, as `uname -r` says it.
    pub(crate) fn release(&self) -> Result<String> {
        let path = self.folder.join("release");
        Ok(fs::read_to_string(&path).map_err(at(&path))?.trim().to_owned())
    }

    /// The files of these modules and of what they need, in the order in which they load.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Result<Vec<PathBuf>> {
        let folder = self.folder.join("modules");
        let path = folder.join("order");
        let order = Order::parse(&fs::read_to_string(&path).map_err(at(&path))?).subset(wanted)?;
        Ok(order.names().map(|name| folder.join(format!("{name}.ko"))).collect())
    }
}

/// From the meta package to the packages that hold image, configuration and modules: which ones that are has
/// changed between releases, so every one of the kernel's own that is named is taken.
fn packages_of(apt: &Apt, meta: &str) -> Result<Vec<String>> {
    let qualified = |name: &str| format!("{name}:arm64");
    let direct = apt.depends(&qualified(meta))?;
    let image = direct
        .iter()
        .map(|name| name.trim_end_matches(":arm64"))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(|| Error::Package {
            package: meta.into(),
            what: format!("it depends on no image, only on {}", direct.join(", ")),
        })?;
    let parts: Vec<String> = apt
        .depends(&qualified(image))?
        .iter()
        .map(|name| name.trim_end_matches(":arm64"))
        .filter(|name| {
            ["linux-binary-", "linux-modules-", "linux-base-"].iter().any(|part| name.starts_with(part))
        })
        .map(qualified)
        .collect();
    let split = parts.iter().any(|name| name.starts_with("linux-binary-"));
    Ok(if split { parts } else { vec![qualified(image)] })
}

/// Takes what the lab needs out of unpacked packages.
fn take(from: &Path, folder: &Path) -> Result<()> {
    let modules = from.join("usr/lib/modules");
    let modules = if modules.is_dir() { modules } else { from.join("lib/modules") };
    let entry = fs::read_dir(&modules).map_err(at(&modules))?.next();
    let missing =
        |what: &str| Error::Package { package: "linux-image".into(), what: format!("it has no {what}") };
    let tree = entry.ok_or_else(|| missing("modules"))?.map_err(at(&modules))?.path();
    let release = tree.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for (name, packed) in [("vmlinuz", "vmlinuz"), ("config", "config")] {
        let places = [tree.join(packed), from.join(format!("boot/{packed}-{release}"))];
        let place = places.iter().find(|place| place.is_file()).ok_or_else(|| missing(packed))?;
        fs::copy(place, folder.join(name)).map_err(at(place))?;
    }
    fs::write(folder.join("release"), format!("{release}\n")).map_err(at(folder))?;

    let mut found = BTreeMap::new();
    module::survey(&tree, &mut found)?;
    let target = folder.join("modules");
    fs::create_dir_all(&target).map_err(at(&target))?;
    let order = Order::resolve(&module::WANTED, |name| {
        let Some(path) = found.get(name) else { return Ok(None) };
        let image = module::read(path)?;
        let needs = module::depends(&image, path)?;
        let file = target.join(format!("{name}.ko"));
        fs::write(&file, image).map_err(at(&file))?;
        Ok(Some(needs))
    })?;
    fs::write(target.join("order"), order.to_text()).map_err(at(&target))
}
