//! What a VM is: plain, validated, serde types. Nothing here has a side effect; a value that
//! exists has been checked as far as it can be without looking at the host.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A whole VM, as `--config FILE` reads it and as the command line builds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Kernel file (Image, gzip'ed Image or EFI zboot); the built-in guest where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line; a console on the serial port where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmdline: Option<String>,
    /// Number of vCPUs, at least 1.
    #[serde(default = "one")]
    pub cpus: u32,
    /// Guest RAM.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// virtio-block devices, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskConfig>,
    /// Where the serial port's other end is.
    #[serde(default)]
    pub console: ConsoleConfig,
}

const fn one() -> u32 {
    1
}

/// Guest RAM: how much, of what, in which blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Size in bytes; a whole number of blocks.
    pub size: u64,
    /// What the host allocates it from.
    pub backing: Backing,
    /// The unit in which the host is asked to allocate it.
    pub block: BlockSize,
    /// Populate all of it before the guest starts.
    pub prefault: bool,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { size: 512 << 20, backing: Backing::Anon, block: BlockSize::Auto, prefault: false }
    }
}

/// What guest RAM is allocated from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backing {
    /// Private anonymous memory, in transparent huge pages where the block size asks for them.
    Anon,
    /// A memfd, mapped shared.
    Memfd,
    /// A memfd of huge pages from the pool of the block size.
    Hugetlb,
    /// A file, mapped shared: it holds the guest's memory after the guest has gone.
    File(PathBuf),
}

/// The unit in which the host is asked to allocate guest RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockSize {
    /// The largest that the backing and the host give.
    #[serde(rename = "auto")]
    Auto,
    /// Base pages.
    #[serde(rename = "4K")]
    Size4K,
    /// One contiguous group of 4 KiB pages.
    #[serde(rename = "64K")]
    Size64K,
    /// One level-2 block with a 4 KiB granule.
    #[serde(rename = "2M")]
    Size2M,
    /// One contiguous group of 2 MiB blocks, or a level-2 block with a 16 KiB granule.
    #[serde(rename = "32M")]
    Size32M,
    /// One level-1 block with a 4 KiB granule.
    #[serde(rename = "1G")]
    Size1G,
}

/// One virtio-block device on a raw file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// The raw image: a file or a block device, a whole number of 512-byte sectors.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(default)]
    pub read_only: bool,
}

/// Where the serial port's other end is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleConfig {
    /// This terminal: raw while the guest runs, Ctrl-A x quits.
    #[default]
    Stdio,
    /// A new pseudo-terminal, its name printed.
    Pty,
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// Output is dropped; there is no input.
    Null,
}
