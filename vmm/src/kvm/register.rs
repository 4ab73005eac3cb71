//! Names of the one-reg interface, and typed access to 64-bit registers.
//!
//! A name is architecture, size and, for system registers, `(op0, op1, CRn, CRm, op2)`
//! (Documentation/virt/kvm/api.rst, 4.68); core registers are named by their offset in
//! `struct kvm_regs` in words of 32 bits.

use kvm_bindings::{KVM_REG_ARM_CORE, KVM_REG_ARM64, KVM_REG_ARM64_SYSREG, KVM_REG_SIZE_U64};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno::Error;

/// A 64-bit register of a vCPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register(u64);

impl Register {
    /// Where execution continues.
    pub const PC: Self = Self::core(256);
    /// The processor state.
    pub const PSTATE: Self = Self::core(264);
    /// Which core this is: what the device tree and PSCI call it.
    pub const MPIDR_EL1: Self = Self::system(3, 0, 0, 0, 5);
    /// Which caches it has.
    pub const CLIDR_EL1: Self = Self::system(3, 1, 0, 0, 1);
    /// The syndrome of the last exception taken to EL1.
    pub const ESR_EL1: Self = Self::system(3, 0, 5, 2, 0);
    /// The faulting address of the last exception taken to EL1.
    pub const FAR_EL1: Self = Self::system(3, 0, 6, 0, 0);

    /// The syndrome of the last exception taken to EL2, where the vCPU has it.
    pub const ESR_EL2: Self = Self::system(3, 4, 5, 2, 0);
    /// The faulting address of the last exception taken to EL2, where the vCPU has it.
    pub const FAR_EL2: Self = Self::system(3, 4, 6, 0, 0);

    /// The guest's virtual counter. Setting it in one vCPU moves it in all.
    ///
    /// `KVM_REG_ARM_TIMER_CNT`: the name that KVM gave it is the one that `CNTV_CVAL_EL0` would have
    /// (Documentation/virt/kvm/api.rst, 4.68).
    pub const TIMER_CNT: Self = Self::system(3, 3, 14, 3, 2);

    /// General-purpose register `n`, below 31.
    pub const fn x(n: u8) -> Self {
        assert!(n < 31, "there are 31 general-purpose registers");
        Self::core(n as u64 * 8)
    }

    /// The register at `offset` bytes in `struct kvm_regs`.
    const fn core(offset: u64) -> Self {
        Self(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM_CORE as u64 | (offset / 4))
    }

    /// The system register that `MRS` encodes as (op0, op1, CRn, CRm, op2).
    pub const fn system(op0: u64, op1: u64, crn: u64, crm: u64, op2: u64) -> Self {
        let name = op0 << 14 | op1 << 11 | crn << 7 | crm << 3 | op2;
        Self(KVM_REG_ARM64 | KVM_REG_SIZE_U64 | KVM_REG_ARM64_SYSREG as u64 | name)
    }

    /// Its value in `vcpu`, which must not be running.
    ///
    /// # Errors
    /// `ENOENT` where this vCPU has no such register.
    pub fn get(self, vcpu: &VcpuFd) -> Result<u64, Error> {
        let mut bytes = [0; 8];
        vcpu.get_one_reg(self.0, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Sets it in `vcpu`, which must not be running.
    ///
    /// # Errors
    /// `ENOENT` where this vCPU has no such register, `EINVAL` where it takes no such value.
    pub fn set(self, vcpu: &VcpuFd, value: u64) -> Result<(), Error> {
        vcpu.set_one_reg(self.0, &value.to_le_bytes()).map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_kernel_documentation() {
        // Documentation/virt/kvm/api.rst: "0x6030 0000 0010 0040 PC", "0x6030 0000 0013 xxxx".
        assert_eq!(Register::PC.0, 0x6030_0000_0010_0040);
        assert_eq!(Register::x(0).0, 0x6030_0000_0010_0000);
        assert_eq!(Register::PSTATE.0, 0x6030_0000_0010_0042);
        assert_eq!(Register::MPIDR_EL1.0, 0x6030_0000_0013_c005);
        assert_eq!(Register::CLIDR_EL1.0, 0x6030_0000_0013_c801);
        // arch/arm64/include/uapi/asm/kvm.h: ARM64_SYS_REG(3, 3, 14, 3, 2).
        assert_eq!(Register::TIMER_CNT.0, 0x6030_0000_0013_df1a);
    }
}
