//! The VMM to compare with: Debian's QEMU for arm64, run inside the emulated host on its KVM.

use std::path::PathBuf;

use crate::apt::{self, Apt, Suite};
use crate::error::{Result, at};
use crate::progress::Step;
use crate::setup::Setup;

/// Its place in the cache, beside the guests that it runs: the emulated host sees both.
pub(crate) const COMPONENT: &str = "arm64/qemu";

/// Finds its unpacked packages or brings them: the program, all libraries with their loader, the device's ROMs.
///
/// # Errors
/// Where it can't be brought.
pub(crate) fn set_up(setup: &Setup) -> Result<PathBuf> {
    setup.cache.component(COMPONENT, |prefix| {
        let _step = Step::new("QEMU for arm64", "downloading what is compared with (Debian 13, about 40 MB)");
        let archives = prefix.join("archives");
        let apt = Apt::open(&setup.cache, setup.mirror()?, Suite::Trixie)?;
        apt.closure(&["qemu-system-arm:arm64"], &archives)?;
        apt::unpack(&archives, &[], prefix)?;
        std::fs::remove_dir_all(&archives).map_err(at(&archives))
    })
}
