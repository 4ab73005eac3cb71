//! Assembly and life cycle of a VM.
//!
//! What needs no KVM is pure and compiles on any Linux: where things lie, what the guest is told,
//! what a kernel file is. The rest needs arm64. A reset keeps memory and devices and makes a new
//! VM: what the kernel knows of the old one goes with it.
//!
//! | module | noun |
//! |---|---|
//! | [`layout`] | the guest-physical address map and the interrupt numbers |
//! | [`kernel`] | kernel files, told apart by content |
//! | [`boot`] | where kernel, device tree and initial RAM disk lie |
//! | [`fdt`] | the device tree |
//! | [`cache`] | the caches that a vCPU says it has |
//! | [`timing`] | when what happened |
//! | [`control`] | what may be asked of a running machine: pause, resume, stop |
//! | [`gate`] | where vCPUs stand while the machine is paused |
//! | [`tracking`] | what is tracked of what the guest does with its memory |
//! | `image` | the built-in guest (arm64) |
//! | `payload` | what is booted: a kernel file or the built-in guest, and an initial RAM disk (arm64) |
//! | `heap` | the program's own heap (arm64) |
//! | `host` | /dev/kvm: may we use it, does the guest fit (arm64) |
//! | `features` | what the vCPUs have (arm64) |
//! | `gic` | the interrupt controller (arm64) |
//! | `vcpu` | one vCPU and its exits (arm64) |
//! | `running` | the vCPU threads of one VM (arm64) |
//! | `signals` | what stops the guest from outside (arm64) |
//! | `worker` | the thread that does the devices' work (arm64) |
//! | `machine` | assembly (arm64) |
//! | `lifecycle` | power-on, reset, the end (arm64) |
//! | `error` | why a machine does not start, or does not go on (arm64) |

pub mod boot;
pub mod cache;
pub mod control;
pub mod fdt;
pub mod gate;
pub mod kernel;
pub mod layout;
pub mod timing;
pub mod tracking;

#[cfg(target_arch = "aarch64")]
pub mod error;
#[cfg(target_arch = "aarch64")]
pub mod features;
#[cfg(target_arch = "aarch64")]
pub mod gic;
#[cfg(target_arch = "aarch64")]
mod heap;
#[cfg(target_arch = "aarch64")]
pub mod host;
#[cfg(target_arch = "aarch64")]
pub mod image;
#[cfg(target_arch = "aarch64")]
pub mod lifecycle;
#[cfg(target_arch = "aarch64")]
#[expect(clippy::module_inception, reason = "the machine is what this folder is about")]
pub mod machine;
#[cfg(target_arch = "aarch64")]
pub mod payload;
#[cfg(target_arch = "aarch64")]
pub mod running;
#[cfg(target_arch = "aarch64")]
pub mod signals;
#[cfg(target_arch = "aarch64")]
pub mod vcpu;
#[cfg(target_arch = "aarch64")]
pub mod worker;

#[cfg(target_arch = "aarch64")]
pub use {
    error::Error,
    lifecycle::{Ended, Outcome, run},
};
