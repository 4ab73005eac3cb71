//! The signal that takes a vCPU out of the guest, without a race.
//!
//! A signal that arrives between the check of a flag and `KVM_RUN` would be lost if a handler took
//! it. So vCPU threads keep the kick *blocked*, and `KVM_SET_SIGNAL_MASK` makes `KVM_RUN` unblock
//! it for as long as the guest runs: a kick that came early is still pending then, and `KVM_RUN`
//! returns `EINTR` at once (Documentation/virt/kvm/api.rst, 4.19).

#![expect(unsafe_code, reason = "KVM_SET_SIGNAL_MASK has a flexible array that no crate wraps")]

use kvm_ioctls::VcpuFd;
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::signal::{
    Error as SignalError, Killable, SIGRTMIN, block_signal, clear_signal, register_signal_handler,
};

mod number {
    const KVMIO: u32 = 0xae;
    vmm_sys_util::ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, super::MaskHeader);
}
use number::KVM_SET_SIGNAL_MASK;

/// `struct kvm_signal_mask` up to its flexible array: what the ioctl number encodes.
#[repr(C)]
struct MaskHeader {
    len: u32,
}

/// `struct kvm_signal_mask` with the kernel's 64-bit `sigset_t` in place. The kernel reads `len`
/// bytes from offset 4, without padding.
#[repr(C, packed)]
struct Mask {
    len: u32,
    sigset: u64,
}

/// Why kicking can't be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kick could not be blocked in, or taken from, the calling thread.
    #[error("can't prepare the vCPU kick signal: {0}")]
    Signal(SignalError),
    /// KVM refused the mask.
    #[error("KVM_SET_SIGNAL_MASK failed: {0}")]
    Mask(errno::Error),
}

extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

/// Makes a kick harmless for every thread of this process; to be done before the first vCPU's thread is there
/// to be kicked. The default action would end the process, without a word.
///
/// # Errors
/// The kernel's, for a signal that it does not have.
pub fn install() -> Result<(), errno::Error> {
    register_signal_handler(SIGRTMIN(), nothing)
}

/// Makes the calling thread one that [`kick`] can take out of `vcpu`'s guest. [`install`] came first.
///
/// # Errors
/// [`Error`] names the step that the kernel refused.
pub fn receive_on_this_thread(vcpu: &VcpuFd) -> Result<(), Error> {
    match block_signal(SIGRTMIN()) {
        Ok(()) | Err(SignalError::SignalAlreadyBlocked(_)) => {}
        Err(error) => return Err(Error::Signal(error)),
    }
    // In the guest: whatever this thread blocks otherwise, less the kick.
    let blocked = vmm_sys_util::signal::get_blocked_signals().map_err(Error::Signal)?;
    let sigset = blocked.iter().filter(|&&s| s != SIGRTMIN()).fold(0u64, |set, s| set | 1 << (s - 1));
    let mask = Mask { len: size_of::<u64>() as u32, sigset };
    // SAFETY: the kernel reads `len` = 8 bytes behind the header; `Mask` holds exactly those.
    match unsafe { ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask) } {
        0 => Ok(()),
        _ => Err(Error::Mask(errno::Error::last())),
    }
}

/// Takes a pending kick off the calling thread, so that the next `KVM_RUN` enters the guest.
///
/// # Errors
/// [`Error::Signal`] where the kernel refuses to say what is pending.
pub fn take() -> Result<(), Error> {
    clear_signal(SIGRTMIN()).map_err(Error::Signal)
}

/// Takes the vCPU that `thread` runs out of the guest, or keeps it from entering once.
///
/// # Errors
/// The error of `pthread_kill`; a thread that has ended is no error.
pub fn kick<T: Killable>(thread: &T) -> Result<(), errno::Error> {
    match thread.kill(SIGRTMIN()) {
        Err(error) if error.errno() == libc::ESRCH => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn a_kick_that_comes_before_its_thread_is_ready_does_not_end_the_process() {
        install().unwrap();
        let (ready, wait) = mpsc::channel::<()>();
        let thread = thread::spawn(move || wait.recv());
        kick(&thread).unwrap();
        drop(ready);
        assert!(thread.join().unwrap().is_err());
    }
}
