//! Memory slots: which host memory KVM maps for the guest, and for how long.

#![expect(unsafe_code, reason = "a memory slot hands host addresses to the kernel")]

use std::ops::Range;

use kvm_bindings::{KVM_MEM_LOG_DIRTY_PAGES, kvm_userspace_memory_region};
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

/// A memory slot, as KVM knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its number.
    pub number: u32,
    /// Its guest-physical addresses.
    pub guest: Range<u64>,
    /// Where it begins in this process.
    host: u64,
}

/// A VM whose memory slots map guest RAM. The RAM stays mapped in this process for as long as the
/// value lives; the slots go with the VM.
#[derive(Debug)]
pub struct MappedVm {
    // Dropped in this order: the VM goes before the memory that it maps. KVM does not need that
    // (it holds on to no page), but no guest can then see a hole.
    vm: VmFd,
    _memory: GuestMemory,
    slots: Vec<Slot>,
}

impl MappedVm {
    /// Gives `vm` one slot for each region of `ram`.
    ///
    /// # Errors
    /// [`Error`] names the region that KVM refused.
    pub fn new(vm: VmFd, ram: &GuestRam) -> Result<Self, Error> {
        let slots = (0..)
            .zip(ram.regions())
            .map(|(number, region)| {
                let start = region.guest().raw_value();
                Slot { number, guest: start..start + region.size(), host: region.host() as u64 }
            })
            .collect();
        let mapped = Self { vm, _memory: ram.memory().clone(), slots };
        mapped.set(0)?;
        Ok(mapped)
    }

    /// The slots, in ascending order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Has KVM log what the guest writes, or no longer.
    ///
    /// # Errors
    /// [`Error`] names the region that KVM refused.
    pub fn log_dirty(&self, on: bool) -> Result<(), Error> {
        self.set(if on { KVM_MEM_LOG_DIRTY_PAGES } else { 0 })
    }

    /// Makes every slot, or gives it other flags.
    fn set(&self, flags: u32) -> Result<(), Error> {
        for slot in &self.slots {
            let (guest, size) = (slot.guest.start, slot.guest.end - slot.guest.start);
            let kernel_region = kvm_userspace_memory_region {
                slot: slot.number,
                flags,
                guest_phys_addr: guest,
                memory_size: size,
                userspace_addr: slot.host,
            };
            // SAFETY: the region is mapped, is guest memory that this process reaches only through
            // volatile accesses, and stays mapped while `_memory` lives, which is as long as `vm`.
            let done = unsafe { self.vm.set_user_memory_region(kernel_region) };
            done.map_err(|source| Error { guest, size, source })?;
        }
        Ok(())
    }
}

impl std::ops::Deref for MappedVm {
    type Target = VmFd;

    fn deref(&self) -> &VmFd {
        &self.vm
    }
}
