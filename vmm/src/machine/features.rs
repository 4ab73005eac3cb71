//! What the machine's vCPUs have: what this host offers of what a guest likes to see.

use kvm_bindings::{
    KVM_ARM_VCPU_HAS_EL2, KVM_ARM_VCPU_HAS_EL2_E2H0, KVM_ARM_VCPU_PMU_V3, KVM_ARM_VCPU_PMU_V3_CTRL,
    KVM_ARM_VCPU_PMU_V3_INIT, KVM_ARM_VCPU_PMU_V3_IRQ, KVM_ARM_VCPU_POWER_OFF, KVM_ARM_VCPU_PSCI_0_2,
    KVM_ARM_VCPU_PTRAUTH_ADDRESS, KVM_ARM_VCPU_PTRAUTH_GENERIC, KVM_ARM_VCPU_SVE, kvm_vcpu_init,
};
use kvm_ioctls::{Cap, VcpuFd, VmFd};
use vmm_sys_util::errno::Error;

use super::layout;
use crate::config::El2;
use crate::kvm::attribute::Attributes;

/// The features of every vCPU of a VM.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    init: kvm_vcpu_init,
    /// A PMUv3.
    pub pmu: bool,
    /// The scalable vector extension.
    pub sve: bool,
}

impl Features {
    /// Everything that the host offers `vm`'s vCPUs: PMUv3, SVE, pointer authentication; and `el2`, which
    /// goes with all of them, and for which the host has been asked.
    ///
    /// # Errors
    /// The kernel's, where it has no vCPU type to prefer.
    pub fn of_host(vm: &VmFd, el2: El2) -> Result<Self, Error> {
        let mut init = kvm_vcpu_init::default();
        vm.get_preferred_target(&mut init)?;
        let has = |cap| vm.check_extension(cap);
        let (pmu, sve) = (has(Cap::ArmPmuV3), has(Cap::ArmSve));
        // KVM wants both keys or none (Documentation/virt/kvm/api.rst, KVM_ARM_VCPU_INIT).
        let pauth = has(Cap::ArmPtrAuthAddress) && has(Cap::ArmPtrAuthGeneric);
        let wanted = [
            (KVM_ARM_VCPU_PSCI_0_2, true),
            (KVM_ARM_VCPU_PMU_V3, pmu),
            (KVM_ARM_VCPU_SVE, sve),
            (KVM_ARM_VCPU_PTRAUTH_ADDRESS, pauth),
            (KVM_ARM_VCPU_PTRAUTH_GENERIC, pauth),
            // Reset is then to EL2, with PSCI by SMC.
            (KVM_ARM_VCPU_HAS_EL2, el2.is_on()),
            // A modifier of the one before.
            (KVM_ARM_VCPU_HAS_EL2_E2H0, el2 == El2::E2h0),
        ];
        init.features[0] =
            wanted.iter().filter(|(_, on)| *on).fold(0, |features, (bit, _)| features | 1 << bit);
        Ok(Self { init, pmu, sve })
    }

    /// Gives `vcpu` these features; every vCPU but the first waits for PSCI to start it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&self, vcpu: &VcpuFd, index: u32) -> Result<(), Error> {
        let mut init = self.init;
        if index > 0 {
            init.features[0] |= 1 << KVM_ARM_VCPU_POWER_OFF;
        }
        vcpu.vcpu_init(&init)?;
        if self.sve {
            vcpu.vcpu_finalize(&(KVM_ARM_VCPU_SVE as i32))?;
        }
        Ok(())
    }

    /// Connects `vcpu`'s PMU to the interrupt controller, which has been initialised.
    ///
    /// # Errors
    /// The kernel's.
    pub fn connect_pmu(&self, vcpu: &VcpuFd) -> Result<(), Error> {
        if !self.pmu {
            return Ok(());
        }
        let interrupt = 16 + layout::PPI_PMU;
        vcpu.set(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_IRQ.into(), &interrupt)?;
        vcpu.trigger(KVM_ARM_VCPU_PMU_V3_CTRL, KVM_ARM_VCPU_PMU_V3_INIT.into())
    }
}
