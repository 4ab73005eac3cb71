//! The VM as a whole, in the shapes of Firecracker: `/`, `/version`, `/vm`, `/vm/config`, `/actions`.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::answer::{Answer, Fault};
use super::balloon::Balloon;
use super::request::{self, Shape};
use crate::config::{Backing, BlockSize, DiskConfig, VmConfig};
use crate::machine::control::{Control, State};

/// What the program calls itself.
const NAME: &str = "Quire";
/// Which one it is.
const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Serialize)]
struct Description {
    id: String,
    state: State,
    vmm_version: &'static str,
    app_name: &'static str,
}

/// GET /: who answers, and what the guest does.
pub(super) fn describe(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&Description {
        id: format!("quire-{}", std::process::id()),
        state: control.state(),
        vmm_version: VERSION,
        app_name: NAME,
    })
}

#[derive(Serialize)]
struct Version {
    quire_version: &'static str,
}

/// GET /version.
pub(super) fn version(_: &Control, _: &[u8]) -> Result<Answer, Fault> {
    Answer::document(&Version { quire_version: VERSION })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    state: Wanted,
}

impl Shape for Change {
    const KEYS: &'static [&'static str] = &["state"];
}

#[derive(Deserialize)]
enum Wanted {
    Paused,
    Resumed,
}

/// PATCH /vm: pause or resume. What is so already is left so.
pub(super) fn change(control: &Control, body: &[u8]) -> Result<Answer, Fault> {
    match request::read::<Change>(body)?.state {
        Wanted::Paused => control.pause()?,
        Wanted::Resumed => control.resume()?,
    }
    Ok(Answer::Done)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Action {
    action_type: ActionType,
}

impl Shape for Action {
    const KEYS: &'static [&'static str] = &["action_type"];
}

#[derive(Deserialize)]
enum ActionType {
    InstanceStart,
    SendCtrlAltDel,
    FlushMetrics,
}

/// PUT /actions: none of Firecracker's has a meaning here, and each is told why.
pub(super) fn act(_: &Control, body: &[u8]) -> Result<Answer, Fault> {
    Err(Fault::new(match request::read::<Action>(body)?.action_type {
        ActionType::InstanceStart => {
            "the guest has been started by `quire run`: it can be paused and resumed with PATCH /vm, not started \
             again"
        }
        ActionType::SendCtrlAltDel => {
            "SendCtrlAltDel is not supported on aarch64, which has no such keyboard: PUT /quire/stop stops the VM"
        }
        ActionType::FlushMetrics => "there is no metrics file to flush: GET /quire/release has the counters",
    }))
}

/// GET /vm/config, in Firecracker's shape; `quire` is the same in ours, complete.
#[derive(Serialize)]
struct Full<'a> {
    #[serde(rename = "boot-source")]
    boot_source: BootSource<'a>,
    drives: Vec<Drive<'a>>,
    #[serde(rename = "machine-config")]
    machine_config: MachineConfig,
    #[serde(rename = "network-interfaces")]
    network_interfaces: [(); 0],
    entropy: Entropy,
    #[serde(skip_serializing_if = "Option::is_none")]
    balloon: Option<Balloon>,
    quire: &'a VmConfig,
}

#[derive(Serialize)]
struct BootSource<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    kernel_image_path: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    initrd_path: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot_args: Option<&'a str>,
}

#[derive(Serialize)]
struct Drive<'a> {
    drive_id: String,
    path_on_host: &'a Path,
    is_root_device: bool,
    is_read_only: bool,
}

#[derive(Serialize)]
struct MachineConfig {
    vcpu_count: u32,
    mem_size_mib: u64,
    smt: bool,
    track_dirty_pages: bool,
    huge_pages: &'static str,
}

#[derive(Serialize)]
struct Entropy {}

fn drive((index, disk): (usize, &DiskConfig)) -> Drive<'_> {
    Drive {
        drive_id: format!("disk{index}"),
        path_on_host: &disk.path,
        is_root_device: false,
        is_read_only: disk.read_only,
    }
}

/// GET /vm/config.
pub(super) fn config(control: &Control, _: &[u8]) -> Result<Answer, Fault> {
    let config = control.config();
    // As it is now, once there is a machine.
    let tracked = control.parts().map_or(config.track, |parts| parts.tracking.state());
    let hugetlb = config.memory.backing == Backing::Hugetlb;
    Answer::document(&Full {
        boot_source: BootSource {
            kernel_image_path: config.kernel.as_deref(),
            initrd_path: config.initrd.as_deref(),
            boot_args: config.cmdline.as_deref(),
        },
        drives: config.disks.iter().enumerate().map(drive).collect(),
        machine_config: MachineConfig {
            vcpu_count: config.cpus,
            mem_size_mib: config.memory.size >> 20,
            smt: false,
            track_dirty_pages: tracked.dirty,
            huge_pages: match (hugetlb, config.memory.block) {
                (true, BlockSize::Size2M) => "2M",
                (true, BlockSize::Size1G) => "1G",
                (true, _) => "Pool",
                (false, _) => "None",
            },
        },
        network_interfaces: [],
        entropy: Entropy {},
        // Its present target, once there is a machine.
        balloon: match super::balloon::device(control) {
            Ok(balloon) => Some(Balloon::of(&balloon.config())),
            Err(_) => config.balloon.as_ref().map(Balloon::of),
        },
        quire: config,
    })
}
