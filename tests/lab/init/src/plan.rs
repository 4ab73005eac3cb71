//! What the lab writes into the initramfs for the first program.

use serde::{Deserialize, Serialize};

/// Where the plan lies in the initramfs.
pub const PATH: &str = "/lab/plan.json";
/// The folder of the initramfs that holds the kernel modules.
pub const MODULES: &str = "/lab/modules";
/// The name of the virtio-serial port that carries the frames.
pub const PORT: &str = "quire-lab";

/// How to bring the host up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// File names below [`MODULES`], in the order in which they can be loaded.
    pub modules: Vec<String>,
    /// Folders of the machine that runs the lab, outermost first.
    pub shares: Vec<Share>,
    /// Nothing in them changes while the host runs, but by the host: it may keep what it has read.
    pub still: bool,
}

/// One shared folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// The 9p mount tag.
    pub tag: String,
    /// Where to mount it: the same absolute path as outside.
    pub path: String,
}
