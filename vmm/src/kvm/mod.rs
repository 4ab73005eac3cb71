//! What kvm-ioctls does not wrap.
//!
//! Every `ioctl` of ours lives here, one noun per file, each with the argument that it is sound;
//! the rest of the VMM sees functions and types.
//!
//! | module | noun |
//! |---|---|
//! | [`kick`] | the signal that takes a vCPU out of the guest, without a race |
//! | [`memslot`] | which host memory KVM maps for the guest |
//! | [`dirty_log`] | which pages the guest has written |
//! | [`exit`] | exits whose details kvm-ioctls leaves in `kvm_run` |
//! | [`attribute`] | device attributes of VMs, vCPUs and in-kernel devices |
//! | [`register`] | names of the one-reg interface, and typed access |

pub mod attribute;
pub mod dirty_log;
pub mod exit;
pub mod kick;
pub mod memslot;
pub mod register;
