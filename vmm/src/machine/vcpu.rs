//! One vCPU and the thread that runs it.

use std::sync::Arc;

use kvm_bindings::{KVM_SYSTEM_EVENT_CRASH, KVM_SYSTEM_EVENT_RESET, KVM_SYSTEM_EVENT_SHUTDOWN};
use kvm_ioctls::{VcpuExit, VcpuFd};
use vmm_sys_util::errno;

use super::gate::{Clock, Gate, Pass};
use super::timing::Timeline;
use crate::devices::MmioBus;
use crate::kvm::exit::{internal_error, no_syndrome};
use crate::kvm::{kick, register::Register};

/// Why a vCPU's thread came to its end.
#[derive(Debug)]
pub enum End {
    /// The guest powered the machine off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The thread was told to stop.
    Stopped,
    /// The guest can't go on.
    Crash(Crash),
}

/// What happened to a guest that can't go on, and where.
#[derive(Debug, thiserror::Error)]
#[error("vCPU {index} can't go on: {cause} ({state})")]
pub struct Crash {
    /// Which vCPU.
    pub index: u32,
    /// What happened.
    pub cause: Cause,
    /// Where.
    pub state: State,
}

/// What takes a guest down.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// An access to no device and no memory by an instruction that KVM can't describe.
    #[error(
        "it accessed {ipa:#x}, where there is neither memory nor a device, with an instruction that \
         can't be emulated (iss {iss:#x})"
    )]
    NoSyndrome {
        /// Guest-physical address.
        ipa: u64,
        /// Instruction-specific syndrome.
        iss: u64,
    },
    /// KVM failed in itself.
    #[error("KVM reports an internal error, suberror {0}")]
    Internal(u32),
    /// The processor refused to enter the guest.
    #[error("the processor refused to enter the guest, reason {0:#x}")]
    FailedEntry(u64),
    /// The host could not give the page that the guest touched.
    #[error("the host could not provide the memory at {gpa:#x}, {size} bytes")]
    MemoryFault {
        /// Guest-physical address.
        gpa: u64,
        /// Bytes.
        size: u64,
    },
    /// The guest told the host that it crashed.
    #[error("the guest reported a crash, {0:#x?}")]
    Reported(Vec<u64>),
    /// A system event that this VMM does not know.
    #[error("KVM reports the unknown system event {0}")]
    UnknownEvent(u32),
    /// An exit that this VMM does not know.
    #[error("KVM left the guest for the unknown reason {0}")]
    UnknownExit(u32),
    /// The host could not give a page that the guest touched, and KVM does not say which.
    #[error(
        "the host could not provide memory that it touched: is the host or the file system of its memory full?"
    )]
    Unbacked,
    /// KVM_RUN failed.
    #[error("KVM_RUN failed: {0}")]
    Run(errno::Error),
    /// The kick could not be set up.
    #[error(transparent)]
    Kick(#[from] kick::Error),
    /// The thread panicked.
    #[error("its thread panicked: this is a bug in quire")]
    Panic,
}

/// The registers that tell where a vCPU was; those that can't be read are left out.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    pc: Option<u64>,
    pstate: Option<u64>,
    esr: Option<u64>,
    far: Option<u64>,
    /// ESR_EL2 and FAR_EL2, where the vCPU has EL2.
    el2: Option<(u64, u64)>,
}

impl State {
    fn of(fd: &VcpuFd) -> Self {
        let read = |register: Register| register.get(fd).ok();
        Self {
            pc: read(Register::PC),
            pstate: read(Register::PSTATE),
            esr: read(Register::ESR_EL1),
            far: read(Register::FAR_EL1),
            el2: read(Register::ESR_EL2).zip(read(Register::FAR_EL2)),
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let all = [("pc", self.pc), ("pstate", self.pstate), ("esr_el1", self.esr), ("far_el1", self.far)];
        let mut space = "";
        for (name, value) in all {
            match value {
                Some(value) => write!(f, "{space}{name} {value:#x}")?,
                None => write!(f, "{space}{name} unknown")?,
            }
            space = ", ";
        }
        match self.el2 {
            Some((esr, far)) => write!(f, "{space}esr_el2 {esr:#x}, far_el2 {far:#x}"),
            None => Ok(()),
        }
    }
}

/// One vCPU, before its thread runs it.
#[derive(Debug)]
pub struct Vcpu {
    /// KVM's vCPU.
    pub fd: VcpuFd,
    /// Which one it is; 0 boots.
    pub index: u32,
}

/// What the threads of all vCPUs share.
#[derive(Clone)]
pub struct Shared {
    /// Where accesses outside RAM go.
    pub bus: Arc<MmioBus>,
    /// What every vCPU passes before it enters the guest; closing it is followed by a kick.
    pub gate: Arc<Gate>,
    /// Where the first entry into the guest is noted.
    pub timeline: Arc<Timeline>,
}

/// The counter of one vCPU is that of all: KVM keeps one offset for the VM.
impl Clock for VcpuFd {
    fn read(&self) -> Option<u64> {
        let count = Register::TIMER_CNT.get(self);
        if let Err(error) = &count {
            tracing::warn!(%error, "the guest's counter can't be read: it runs on while the guest is paused");
        }
        count.ok()
    }

    fn set(&self, count: u64) {
        if let Err(error) = Register::TIMER_CNT.set(self, count) {
            tracing::warn!(%error, "the guest's counter can't be set: it ran on while the guest was paused");
        }
    }
}

impl Vcpu {
    /// Runs the guest on the calling thread until it ends or is stopped.
    pub fn run(mut self, shared: &Shared) -> End {
        let cause = match kick::receive_on_this_thread(&self.fd) {
            Err(error) => error.into(),
            Ok(()) => {
                if self.index == 0 {
                    shared.timeline.guest_entered();
                }
                loop {
                    match self.step(shared) {
                        Ok(None) => {}
                        Ok(Some(end)) => return end,
                        Err(cause) => break cause,
                    }
                }
            }
        };
        End::Crash(Crash { index: self.index, cause, state: State::of(&self.fd) })
    }

    /// Enters the guest once and does what it left for.
    fn step(&mut self, shared: &Shared) -> Result<Option<End>, Cause> {
        if shared.gate.pass(&self.fd) == Pass::Stop {
            return Ok(Some(End::Stopped));
        }
        let cause = match self.fd.run() {
            Ok(VcpuExit::MmioRead(address, data)) => {
                shared.bus.read(address, data);
                return Ok(None);
            }
            Ok(VcpuExit::MmioWrite(address, data)) => {
                shared.bus.write(address, data);
                return Ok(None);
            }
            Ok(VcpuExit::SystemEvent(event, data)) => {
                return match event {
                    KVM_SYSTEM_EVENT_SHUTDOWN => Ok(Some(End::PowerOff)),
                    KVM_SYSTEM_EVENT_RESET => Ok(Some(End::Reset)),
                    KVM_SYSTEM_EVENT_CRASH => Err(Cause::Reported(data.to_vec())),
                    event => Err(Cause::UnknownEvent(event)),
                };
            }
            Ok(VcpuExit::Intr) => None,
            Ok(VcpuExit::MemoryFault { gpa, size, .. }) => Some(Cause::MemoryFault { gpa, size }),
            Ok(VcpuExit::FailEntry(reason, _)) => Some(Cause::FailedEntry(reason)),
            Ok(_) => Some(self.unusual()),
            Err(error) if [libc::EINTR, libc::EAGAIN].contains(&error.errno()) => None,
            // What KVM says where the host can't resolve a fault on guest memory.
            Err(error) if error.errno() == libc::EFAULT => Some(Cause::Unbacked),
            Err(error) => Some(Cause::Run(error)),
        };
        match cause {
            Some(cause) => Err(cause),
            None => {
                // A kick stays pending until it is taken, and would keep the guest from running.
                kick::take()?;
                Ok(None)
            }
        }
    }

    /// The cause behind an exit that kvm-ioctls does not spell out.
    fn unusual(&mut self) -> Cause {
        let run = self.fd.get_kvm_run();
        if let Some(exit) = no_syndrome(run) {
            return Cause::NoSyndrome { ipa: exit.ipa, iss: exit.iss };
        }
        match internal_error(run) {
            Some(suberror) => Cause::Internal(suberror),
            None => Cause::UnknownExit(run.exit_reason),
        }
    }
}
