//! PSCI: starting CPUs, powering off, resetting.

use core::sync::atomic::{AtomicU8, Ordering};

use aarch64_cpu::asm::wfi;
use smccc::psci::{self, error::Error};
use smccc::{Call, Hvc, Smc};

use crate::tree::Conduit;

/// 0: no PSCI, 1: HVC, 2: SMC.
static CONDUIT: AtomicU8 = AtomicU8::new(0);

/// Says how PSCI is called, from now on.
pub fn set_conduit(conduit: Option<Conduit>) {
    let value = match conduit {
        None => 0,
        Some(Conduit::Hvc) => 1,
        Some(Conduit::Smc) => 2,
    };
    CONDUIT.store(value, Ordering::Relaxed);
}

/// Starts the CPU with this affinity at `entry`, its MMU off, with `context` in x0.
pub fn cpu_on(affinity: u64, entry: u64, context: u64) -> Result<(), Error> {
    match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::cpu_on::<Hvc>(affinity, entry, context),
        2 => psci::cpu_on::<Smc>(affinity, entry, context),
        _ => Err(Error::NotSupported),
    }
}

/// Resets the machine. Returns only if that was refused.
pub fn reset() -> Error {
    let result = match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::system_reset::<Hvc>(),
        2 => psci::system_reset::<Smc>(),
        _ => Err(Error::NotSupported),
    };
    result.err().unwrap_or(Error::InternalFailure)
}

/// Powers the machine off, or stops this CPU where that is refused.
pub fn off() -> ! {
    let _refused = match CONDUIT.load(Ordering::Relaxed) {
        1 => psci::system_off::<Hvc>(),
        2 => psci::system_off::<Smc>(),
        _ => Ok(()),
    };
    halt()
}

/// Stops this CPU.
pub fn halt() -> ! {
    loop {
        wfi();
    }
}

/// Whether KVM is the hypervisor below: it says so by the vendor's identifier (SMCCC, "Call UID Query";
/// Linux, include/linux/arm-smccc.h).
pub fn kvm_below() -> bool {
    const CALL_UID: u32 = 0x8600_ff01;
    const KVM: [u32; 4] = [0xb66f_b428, 0xe911_c52e, 0x564b_caa9, 0x743a_004d];
    let answer = match CONDUIT.load(Ordering::Relaxed) {
        1 => Hvc::call32(CALL_UID, [0; 7]),
        2 => Smc::call32(CALL_UID, [0; 7]),
        _ => return false,
    };
    answer[..4] == KVM
}
