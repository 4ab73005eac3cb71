//! The interrupt controller in the kernel: GICv3, or GICv2 on a host that has only that.

use kvm_bindings::{
    KVM_DEV_ARM_VGIC_CTRL_INIT, KVM_DEV_ARM_VGIC_GRP_ADDR, KVM_DEV_ARM_VGIC_GRP_CTRL,
    KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ, KVM_DEV_ARM_VGIC_GRP_NR_IRQS, KVM_VGIC_V2_ADDR_TYPE_CPU,
    KVM_VGIC_V2_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_DIST, KVM_VGIC_V3_ADDR_TYPE_REDIST, kvm_create_device,
    kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2, kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3,
};
use kvm_ioctls::{DeviceFd, VmFd};
use vmm_sys_util::errno;

use super::{fdt::Gic, layout};
use crate::config::El2;
use crate::kvm::attribute::Attributes;

/// Why there is no interrupt controller.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has neither.
    #[error("this host's KVM has neither a GICv3 nor a GICv2 for guests: GICv3 {v3}, GICv2 {v2}")]
    None {
        /// What it said of a GICv3.
        v3: errno::Error,
        /// What it said of a GICv2.
        v2: errno::Error,
    },
    /// A GICv2 reaches 8 CPUs.
    #[error("this host's KVM has only a GICv2, which serves 8 vCPUs: --cpus {0} is too many")]
    TooManyCpus(u32),
    /// A GICv2 has no part for a hypervisor in the guest.
    #[error("this host's KVM has no GICv3 for guests ({0}), and a guest at EL2 needs one: leave --el2 out")]
    NoneForEl2(errno::Error),
    /// The kernel refused a setting.
    #[error("KVM refused the interrupt controller's {what}: {source}")]
    Set {
        /// Which.
        what: &'static str,
        /// The kernel's error.
        source: errno::Error,
    },
}

/// The in-kernel interrupt controller of one VM.
#[derive(Debug)]
pub struct Controller {
    /// Which it is.
    pub version: Gic,
    device: DeviceFd,
}

/// The most vCPUs of a GICv2.
const V2_CPUS: u32 = 8;

impl Controller {
    /// Creates the controller of `vm`, which has all its `cpus` vCPUs, at the addresses of
    /// [`layout`], and makes it ready for interrupts; where the vCPUs have `el2`, those too that a
    /// hypervisor in the guest gets from it.
    ///
    /// # Errors
    /// [`Error`] says what the host lacks or refused.
    pub fn create(vm: &VmFd, cpus: u32, el2: El2) -> Result<Self, Error> {
        let create =
            |type_| vm.create_device(&mut kvm_create_device { type_, ..kvm_create_device::default() });
        let (version, device) = match create(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3) {
            Ok(device) => (Gic::V3, device),
            Err(v3) if el2.is_on() => return Err(Error::NoneForEl2(v3)),
            Err(_) if cpus > V2_CPUS => return Err(Error::TooManyCpus(cpus)),
            Err(v3) => match create(kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2) {
                Ok(device) => (Gic::V2, device),
                Err(v2) => return Err(Error::None { v3, v2 }),
            },
        };
        let controller = Self { version, device };
        controller.place(el2)?;
        Ok(controller)
    }

    fn place(&self, el2: El2) -> Result<(), Error> {
        let parts = match self.version {
            Gic::V3 => [
                ("distributor", KVM_VGIC_V3_ADDR_TYPE_DIST, layout::GIC_DISTRIBUTOR.base),
                ("redistributors", KVM_VGIC_V3_ADDR_TYPE_REDIST, layout::GIC_REDISTRIBUTORS),
            ],
            Gic::V2 => [
                ("distributor", KVM_VGIC_V2_ADDR_TYPE_DIST, layout::GIC_DISTRIBUTOR.base),
                ("CPU interface", KVM_VGIC_V2_ADDR_TYPE_CPU, layout::GIC_CPU_INTERFACE.base),
            ],
        };
        for (what, part, base) in parts {
            self.device
                .set(KVM_DEV_ARM_VGIC_GRP_ADDR, part.into(), &base)
                .map_err(|source| Error::Set { what, source })?;
        }
        self.device
            .set(KVM_DEV_ARM_VGIC_GRP_NR_IRQS, 0, &layout::INTERRUPTS)
            .map_err(|source| Error::Set { what: "number of interrupts", source })?;
        if el2.is_on() {
            let interrupt = 16 + layout::PPI_GIC_MAINTENANCE;
            self.device
                .set(KVM_DEV_ARM_VGIC_GRP_MAINT_IRQ, 0, &interrupt)
                .map_err(|source| Error::Set { what: "maintenance interrupt", source })?;
        }
        self.device
            .trigger(KVM_DEV_ARM_VGIC_GRP_CTRL, KVM_DEV_ARM_VGIC_CTRL_INIT.into())
            .map_err(|source| Error::Set { what: "initialisation", source })
    }
}
