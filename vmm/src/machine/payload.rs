//! What is booted: a kernel file or the built-in guest, and an initial RAM disk.

use std::fs::File;
use std::io::{self, Seek};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use linux_loader::loader::{KernelLoader, PE};
use vm_memory::{Address, Bytes, GuestAddress};

use super::boot::{Demand, Placement};
use super::image;
use super::kernel::{self, Kernel};
use super::layout;
use crate::config::{El2, VmConfig};
use crate::memory::GuestMemory;

/// The command line of a kernel file for which none was given: the serial port, from the first
/// line on. The built-in guest has an empty one, and finds its console in the device tree.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 earlycon";

/// Why kernel or initial RAM disk can't be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel file can't be used.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
    /// The built-in guest is broken.
    #[error("the built-in guest is no kernel: this build of quire is broken")]
    BuiltIn(#[source] kernel::Reason),
    /// The initial RAM disk can't be read.
    #[error("can't read the initrd {}", path.display())]
    Initrd {
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        source: io::Error,
    },
    /// The initial RAM disk is no file with bytes in it.
    #[error("can't use {} as an initrd: it is {what}", path.display())]
    NoInitrd {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// A file is no longer what it was when the machine was put together.
    #[error("{} has changed since the guest was started: start it again instead of resetting it", .0.display())]
    Changed(PathBuf),
    /// Reading the kernel into guest memory failed.
    #[error("can't load the kernel into guest memory: {0}")]
    Load(linux_loader::loader::Error),
    /// Reading the initial RAM disk into guest memory failed.
    #[error("can't load the initrd {} into guest memory: {source}", path.display())]
    LoadInitrd {
        /// The file.
        path: PathBuf,
        /// What failed.
        source: vm_memory::GuestMemoryError,
    },
}

/// An initial RAM disk, open.
#[derive(Debug)]
struct Initrd {
    path: PathBuf,
    file: Mutex<File>,
    size: u64,
}

/// What is booted, found good and open.
#[derive(Debug)]
pub struct Payload {
    path: Option<PathBuf>,
    el2: El2,
    demand: Demand,
    initrd: Option<Initrd>,
    cmdline: String,
    // Only until it is loaded: a decompressed kernel is tens of megabytes that the VMM does not
    // need while the guest runs. A reset opens it again.
    kernel: Mutex<Option<Kernel>>,
}

impl Payload {
    /// Opens what `config` names.
    ///
    /// # Errors
    /// [`Error`] says which file is wrong in which way.
    pub fn open(config: &VmConfig) -> Result<Self, Error> {
        let path = config.kernel.clone();
        let el2 = config.el2;
        let kernel = open_kernel(path.as_deref(), el2)?;
        let initrd = config.initrd.as_deref().map(Initrd::open).transpose()?;
        let demand = Demand {
            text_offset: kernel.header().text_offset,
            image_size: kernel.memory_size(),
            initrd_size: initrd.as_ref().map(|initrd| initrd.size),
        };
        let default = if path.is_some() { DEFAULT_CMDLINE } else { "" };
        let cmdline = config.cmdline.clone().unwrap_or_else(|| default.to_owned());
        Ok(Self { path, el2, demand, initrd, cmdline, kernel: Mutex::new(Some(kernel)) })
    }

    /// What it takes of guest memory.
    pub const fn demand(&self) -> Demand {
        self.demand
    }

    /// The kernel's command line.
    pub fn cmdline(&self) -> &str {
        &self.cmdline
    }

    /// Reads kernel and initial RAM disk to where `placement` has room for them.
    ///
    /// # Errors
    /// [`Error::Changed`] where a file is not what [`Payload::open`] saw, and what reading gives.
    pub fn load(&self, memory: &GuestMemory, placement: &Placement) -> Result<(), Error> {
        let opened = self.kernel.lock().ok().and_then(|mut kernel| kernel.take());
        let mut kernel = match opened {
            Some(kernel) => kernel,
            None => open_kernel(self.path.as_deref(), self.el2)?,
        };
        let same = kernel.memory_size() == self.demand.image_size
            && kernel.header().text_offset == self.demand.text_offset;
        if !same {
            return Err(Error::Changed(self.path.clone().unwrap_or_default()));
        }
        let base = GuestAddress(layout::RAM_BASE);
        PE::load(memory, Some(base), &mut kernel, None).map_err(Error::Load)?;
        if let (Some(initrd), Some(window)) = (&self.initrd, placement.initrd) {
            initrd.load(memory, GuestAddress(window.base))?;
        }
        Ok(())
    }
}

fn open_kernel(path: Option<&Path>, el2: El2) -> Result<Kernel, Error> {
    match path {
        Some(path) => Ok(Kernel::open(path)?),
        None => {
            let built_in = if el2.is_on() { image::MONITOR } else { image::STAMPER };
            Kernel::from_static(built_in).map_err(Error::BuiltIn)
        }
    }
}

impl Initrd {
    fn open(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Initrd { path: path.into(), source };
        let refused = |what| Error::NoInitrd { path: path.into(), what };
        // Asked before opening: opening a named pipe would wait for a writer.
        let metadata = std::fs::metadata(path).map_err(failed)?;
        match (metadata.is_dir(), metadata.is_file(), metadata.len()) {
            (true, ..) => Err(refused("a directory")),
            (_, false, _) => Err(refused("not a regular file")),
            (.., 0) => Err(refused("empty")),
            (.., size) => {
                let file = Mutex::new(File::open(path).map_err(failed)?);
                Ok(Self { path: path.into(), file, size })
            }
        }
    }

    fn load(&self, memory: &GuestMemory, at: GuestAddress) -> Result<(), Error> {
        let failed = |source| Error::Initrd { path: self.path.clone(), source };
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if file.metadata().map_err(failed)?.len() != self.size {
            return Err(Error::Changed(self.path.clone()));
        }
        file.rewind().map_err(failed)?;
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        memory
            .read_exact_volatile_from(at, &mut *file, size)
            .map_err(|source| Error::LoadInitrd { path: self.path.clone(), source })?;
        tracing::debug!(address = at.raw_value(), size, "initrd loaded");
        Ok(())
    }
}
