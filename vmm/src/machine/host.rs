//! This host's KVM: whether it is there, whether we may use it, and whether it can hold the guest.

use std::io;

use kvm_ioctls::{Cap, Kvm, VmFd};
use vmm_sys_util::errno;

use super::layout;
use crate::config::El2;

/// Why this host can't run the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no /dev/kvm.
    #[error(
        "there is no /dev/kvm: this kernel runs without KVM (no EL2 at boot, or CONFIG_KVM off); \
         `quire doctor` tells more, and `cargo lab run` gives any machine an emulated host"
    )]
    NoKvm,
    /// /dev/kvm belongs to somebody else.
    #[error("no permission to open /dev/kvm: join the group that owns it (often `kvm`), or run as root")]
    NoPermission,
    /// /dev/kvm does not open.
    #[error("can't open /dev/kvm: {0}")]
    Open(io::Error),
    /// /dev/kvm is no KVM.
    #[error("/dev/kvm speaks API version {0}, not 12: it is not KVM's")]
    Version(i32),
    /// More vCPUs than KVM allows.
    #[error(
        "{asked} vCPUs are more than the {limit} that KVM allows on this host: use --cpus {limit} or fewer"
    )]
    TooManyCpus {
        /// What was asked for.
        asked: u32,
        /// What KVM and the machine's address map allow.
        limit: u32,
    },
    /// More memory than the host's IPA space.
    #[error(
        "{} MiB of memory do not fit the {limit} bits of guest-physical address that this host has: \
         use at most {} MiB", .size >> 20, ((1u128 << .limit) - u128::from(layout::RAM_BASE)) >> 20
    )]
    TooMuchMemory {
        /// Bytes asked for.
        size: u64,
        /// Bits of guest-physical address.
        limit: u32,
    },
    /// No nested virtualisation.
    #[error(
        "this host can't start a guest at EL2: that needs a CPU with nested virtualisation (FEAT_NV2), Linux \
         6.16 or newer, and kvm-arm.mode=nested on the host's kernel command line; `quire doctor` shows what \
         it has"
    )]
    NoEl2,
    /// Nested virtualisation, but only with VHE.
    #[error(
        "this host's CPU gives a guest at EL2 no way to leave HCR_EL2.E2H at 0: use --el2 in place of \
         --el2=e2h0 if the guest can do with VHE"
    )]
    NoE2h0,
    /// KVM made no VM.
    #[error("KVM could not create a VM: {0}")]
    Create(errno::Error),
}

/// Capabilities that kvm-bindings does not know yet (Linux, include/uapi/linux/kvm.h).
const CAP_ARM_EL2: u32 = 240;
const CAP_ARM_EL2_E2H0: u32 = 241;
/// KVM's answer to `KVM_GET_API_VERSION`, fixed since Linux 2.6.22.
const API_VERSION: i32 = 12;
/// What a VM's IPA space was before KVM could say.
const IPA_BITS_WITHOUT_CAPABILITY: u32 = 40;

/// This host's KVM.
#[derive(Debug)]
pub struct Host {
    kvm: Kvm,
}

impl Host {
    /// Opens /dev/kvm.
    ///
    /// # Errors
    /// [`Error`] says what is missing and what to do about it.
    pub fn open() -> Result<Self, Error> {
        let kvm = Kvm::new().map_err(|error| match error.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => Error::NoKvm,
            libc::EACCES | libc::EPERM => Error::NoPermission,
            errno => Error::Open(io::Error::from_raw_os_error(errno)),
        })?;
        match kvm.get_api_version() {
            API_VERSION => Ok(Self { kvm }),
            other => Err(Error::Version(other)),
        }
    }

    /// Whether `cpus` vCPUs and `memory` bytes of RAM fit, and whether `el2` can be had; to be asked before
    /// anything is started.
    ///
    /// # Errors
    /// All but those of [`Host::open`] and [`Error::Create`].
    pub fn check(&self, cpus: u32, memory: u64, el2: El2) -> Result<(), Error> {
        let has = |capability: u32| self.kvm.check_extension_raw(capability.into()) > 0;
        if el2.is_on() && !has(CAP_ARM_EL2) {
            return Err(Error::NoEl2);
        }
        if el2 == El2::E2h0 && !has(CAP_ARM_EL2_E2H0) {
            return Err(Error::NoE2h0);
        }
        let limit = u32::try_from(self.kvm.get_max_vcpus()).unwrap_or(u32::MAX).min(layout::MAX_CPUS);
        if cpus > limit {
            return Err(Error::TooManyCpus { asked: cpus, limit });
        }
        self.ipa_bits(memory).map(|_| ())
    }

    /// Creates a VM with the smallest IPA space that holds `memory` bytes of RAM.
    ///
    /// # Errors
    /// [`Error::TooMuchMemory`] and [`Error::Create`].
    pub fn create_vm(&self, memory: u64) -> Result<VmFd, Error> {
        let bits = self.ipa_bits(memory)?;
        let vm = if self.kvm.check_extension_int(Cap::ArmVmIPASize) > 0 {
            self.kvm.create_vm_with_ipa_size(bits)
        } else {
            self.kvm.create_vm()
        };
        vm.map_err(Error::Create)
    }

    fn ipa_bits(&self, memory: u64) -> Result<u32, Error> {
        let limit = match self.kvm.check_extension_int(Cap::ArmVmIPASize) {
            bits if bits > 0 => bits.unsigned_abs(),
            _ => IPA_BITS_WITHOUT_CAPABILITY,
        };
        match layout::ipa_bits(memory) {
            Some(bits) if bits <= limit => Ok(bits),
            _ => Err(Error::TooMuchMemory { size: memory, limit }),
        }
    }
}
