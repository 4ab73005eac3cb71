//! Exits whose details kvm-ioctls leaves in `kvm_run`.

#![expect(unsafe_code, reason = "kvm_run is a union that the exit reason discriminates")]

use kvm_bindings::{KVM_EXIT_ARM_NISV, KVM_EXIT_INTERNAL_ERROR, kvm_run};

/// A data abort outside memory whose syndrome does not say what the instruction does, so nothing
/// can emulate it (`KVM_EXIT_ARM_NISV`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoSyndrome {
    /// ESR_EL2's instruction-specific syndrome.
    pub iss: u64,
    /// The guest-physical address.
    pub ipa: u64,
}

/// The details of a `KVM_EXIT_ARM_NISV`, or `None` where `run` holds another exit.
pub fn no_syndrome(run: &kvm_run) -> Option<NoSyndrome> {
    (run.exit_reason == KVM_EXIT_ARM_NISV).then(|| {
        // SAFETY: the exit reason, which the kernel wrote, says that this member is valid.
        let nisv = unsafe { run.__bindgen_anon_1.arm_nisv };
        NoSyndrome { iss: nisv.esr_iss, ipa: nisv.fault_ipa }
    })
}

/// The suberror of a `KVM_EXIT_INTERNAL_ERROR`, or `None` where `run` holds another exit.
pub fn internal_error(run: &kvm_run) -> Option<u32> {
    if run.exit_reason != KVM_EXIT_INTERNAL_ERROR {
        return None;
    }
    // SAFETY: the exit reason, which the kernel wrote, says that this member is valid.
    Some(unsafe { run.__bindgen_anon_1.internal.suberror })
}
