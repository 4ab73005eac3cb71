//! What no crate wraps.

#![expect(unsafe_code, reason = "an ioctl that no crate wraps as it is needed here")]

use std::fs::File;
use std::io::{self, Read};

use kvm_bindings::{KVM_CREATE_DEVICE_TEST, KVMIO, kvm_create_device};
use kvm_ioctls::VmFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;

/// Reads the flags of the first page frame.
///
/// # Errors
/// The kernel's.
pub(super) fn page_flags() -> io::Result<()> {
    File::open("/proc/kpageflags")?.read_exact(&mut [0; 8])
}

vmm_sys_util::ioctl_iowr_nr!(KVM_CREATE_DEVICE, KVMIO, 0xe0, kvm_create_device);

/// Whether a VM can have a device of type `kind` (KVM_CREATE_DEVICE with KVM_CREATE_DEVICE_TEST).
///
/// Not through [`VmFd::create_device`], which takes the descriptor that the kernel does not make here
/// (it stays 0: standard input) for one of its own, and closes it.
pub(super) fn can_create_device(vm: &VmFd, kind: u32) -> bool {
    let mut device = kvm_create_device { type_: kind, fd: 0, flags: KVM_CREATE_DEVICE_TEST };
    // SAFETY: the descriptor is a VM's, the operation's number is made from the type of its argument, and the
    // kernel writes nothing else.
    let outcome = unsafe { ioctl_with_mut_ref(vm, KVM_CREATE_DEVICE(), &mut device) };
    outcome == 0
}
