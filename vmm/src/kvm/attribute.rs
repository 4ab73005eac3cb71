//! Device attributes of vCPUs and of in-kernel devices (`KVM_SET_DEVICE_ATTR`).

use kvm_bindings::kvm_device_attr;
use kvm_ioctls::{DeviceFd, VcpuFd};
use vmm_sys_util::errno::Error;

/// What has device attributes.
pub trait Attributes {
    /// Sets `group`/`attr` to `value`.
    ///
    /// # Errors
    /// The kernel's: `ENXIO` for an unknown attribute, others by attribute.
    fn set<T>(&self, group: u32, attr: u64, value: &T) -> Result<(), Error>;

    /// Sets `group`/`attr`, which takes no value.
    ///
    /// # Errors
    /// As for [`Attributes::set`].
    fn trigger(&self, group: u32, attr: u64) -> Result<(), Error>;
}

const fn describe(group: u32, attr: u64, addr: u64) -> kvm_device_attr {
    kvm_device_attr { flags: 0, group, attr, addr }
}

macro_rules! attributes {
    ($fd:ty) => {
        impl Attributes for $fd {
            fn set<T>(&self, group: u32, attr: u64, value: &T) -> Result<(), Error> {
                self.set_device_attr(&describe(group, attr, std::ptr::from_ref(value) as u64))
            }

            fn trigger(&self, group: u32, attr: u64) -> Result<(), Error> {
                self.set_device_attr(&describe(group, attr, 0))
            }
        }
    };
}

attributes!(DeviceFd);
attributes!(VcpuFd);
