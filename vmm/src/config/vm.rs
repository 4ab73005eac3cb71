//! A whole VM.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{BalloonConfig, ConsoleConfig, DiskConfig, El2, Error, MemoryConfig, TrackConfig, json};

/// A whole VM, as `--config FILE` reads it and as the command line builds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmConfig {
    /// Kernel file (Image, gzip'ed Image or EFI zboot); a built-in guest where absent.
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
    /// Whether vCPUs have EL2, and the guest starts there.
    #[serde(default, skip_serializing_if = "El2::is_off")]
    pub el2: El2,
    /// Guest RAM.
    #[serde(default)]
    pub memory: MemoryConfig,
    /// virtio-block devices, in the order in which the guest sees them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub disks: Vec<DiskConfig>,
    /// A virtio-balloon device, where there is to be one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<BalloonConfig>,
    /// What is tracked of the guest's use of its memory, from its start.
    #[serde(default, skip_serializing_if = "TrackConfig::is_off")]
    pub track: TrackConfig,
    /// Where the serial port's other end is.
    #[serde(default)]
    pub console: ConsoleConfig,
    /// Where the API's Unix socket is; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_sock: Option<PathBuf>,
}

const fn one() -> u32 {
    1
}

impl Default for VmConfig {
    /// The built-in guest on one vCPU with the default memory, on this terminal.
    fn default() -> Self {
        Self {
            kernel: None,
            initrd: None,
            cmdline: None,
            cpus: one(),
            el2: El2::default(),
            memory: MemoryConfig::default(),
            disks: Vec::new(),
            balloon: None,
            track: TrackConfig::default(),
            console: ConsoleConfig::default(),
            api_sock: None,
        }
    }
}

impl VmConfig {
    /// The keys of the JSON object.
    pub(super) const KEYS: &'static [&'static str] = &[
        "kernel", "initrd", "cmdline", "cpus", "el2", "memory", "disks", "balloon", "track", "console",
        "api_sock",
    ];

    /// Reads a configuration from JSON, without validating it as a whole.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::Json`] with line and column.
    pub fn from_json(text: &str) -> Result<Self, Error> {
        let document = serde_json::from_str(text)?;
        json::check_keys(&document)?;
        // serde would also take an array, with the fields in their order.
        if !document.is_object() {
            return Err(Error::NotAnObject);
        }
        Ok(serde_json::from_str(text)?)
    }
}

#[cfg(test)]
#[path = "vm_tests.rs"]
mod tests;
