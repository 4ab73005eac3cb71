//! Memory slots: which host memory KVM maps for the guest, and for how long.

#![expect(unsafe_code, reason = "a memory slot hands host addresses to the kernel")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::Address;
use vmm_sys_util::errno;

use crate::memory::{GuestMemory, GuestRam};

/// KVM refused a memory slot.
#[derive(Debug, thiserror::Error)]
#[error("KVM refused the memory slot of {size:#x} bytes at {guest:#x}: {source}")]
pub struct Error {
    guest: u64,
    size: u64,
    source: errno::Error,
}

/// A VM whose memory slots map guest RAM. The RAM stays mapped in this process for as long as the
/// value lives; the slots go with the VM.
#[derive(Debug)]
pub struct MappedVm {
    // Dropped in this order: the VM goes before the memory that it maps. KVM does not need that
    // (it holds on to no page), but no guest can then see a hole.
    vm: VmFd,
    _memory: GuestMemory,
}

impl MappedVm {
    /// Gives `vm` one slot for each region of `ram`.
    ///
    /// # Errors
    /// [`Error`] names the region that KVM refused.
    pub fn new(vm: VmFd, ram: &GuestRam) -> Result<Self, Error> {
        for (slot, region) in (0..).zip(ram.regions()) {
            let (guest, size) = (region.guest().raw_value(), region.size());
            let kernel_region = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: guest,
                memory_size: size,
                userspace_addr: region.host() as u64,
            };
            // SAFETY: the region is mapped, is guest memory that this process reaches only through
            // volatile accesses, and stays mapped while `_memory` lives, which is as long as `vm`.
            unsafe { vm.set_user_memory_region(kernel_region) }.map_err(|source| Error {
                guest,
                size,
                source,
            })?;
        }
        Ok(Self { vm, _memory: ram.memory().clone() })
    }
}

impl std::ops::Deref for MappedVm {
    type Target = VmFd;

    fn deref(&self) -> &VmFd {
        &self.vm
    }
}
