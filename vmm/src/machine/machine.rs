//! Assembly: from a configuration to memory, devices and a device tree, and from those to a VM that
//! is about to execute its first instruction.

use std::path::Path;
use std::sync::Arc;

use kvm_bindings::{KVM_CAP_ARM_NISV_TO_USER, kvm_enable_cap};
use kvm_ioctls::IoEventAddress;
use rustix::rand::GetRandomFlags;
use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use vm_allocator::{AddressAllocator, AllocPolicy, IdAllocator};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::errno;
use vmm_sys_util::eventfd::EventFd;

use super::Error;
use super::boot::{self, Placement};
use super::cache;
use super::control::{Control, Parts};
use super::fdt::{self, Board, VirtioSlot};
use super::features::Features;
use super::gic::Controller;
use super::host::Host;
use super::layout::{self, Window};
use super::payload::Payload;
use super::signals::Signals;
use super::timing::Timeline;
use super::tracking::{LogError, StartLog, Tracking};
use super::vcpu::{Shared, Vcpu};
use super::worker::Subscriber;
use crate::config::{BalloonConfig, El2, Repopulate, VmConfig};
use crate::devices::{Console, MmioBus, Rtc, Serial, SerialInput};
use crate::kvm::dirty_log::KvmDirtyLog;
use crate::kvm::memslot::MappedVm;
use crate::kvm::register::Register;
use crate::memory::release::{Options, Release};
use crate::memory::{GuestRam, Ledger};
use crate::say::say;
use crate::virtio::{Balloon, Block, MmioTransport, Rng, VirtioDevice, balloon};

/// A machine that is switched off: everything that outlives a reset.
pub struct Machine {
    host: Host,
    cpus: u32,
    el2: El2,
    ram: GuestRam,
    ledger: Ledger,
    release: Arc<Release>,
    tracking: Arc<Tracking>,
    balloon: Option<Arc<balloon::Control>>,
    payload: Payload,
    placement: Placement,
    bus: Arc<MmioBus>,
    serial: Arc<Serial>,
    virtio: Vec<(VirtioSlot, Arc<MmioTransport>)>,
    timeline: Arc<Timeline>,
}

/// A machine that is switched on: its VM, in the state of reset, with everything loaded.
pub struct PoweredOn {
    /// The vCPUs; the first starts at the kernel's entry.
    pub vcpus: Vec<Vcpu>,
    // Holds the in-kernel interrupt controller and the VM until the vCPUs have stopped. Dropped in this order: what was
    // registered with the VM goes with it, in one go, and not one after the other before it.
    _gic: Controller,
    _vm: Arc<MappedVm>,
    /// What their threads share.
    pub shared: Shared,
}

/// What the machine's owner serves while it runs.
pub struct Peripherals {
    /// The devices' work.
    pub subscribers: Vec<Subscriber>,
    /// The balloon's.
    pub balloon: Option<Subscriber>,
    /// Readable once the user has asked to quit on the console.
    pub quit: EventFd,
    /// What asks from outside to stop.
    pub signals: Signals,
}

impl Machine {
    /// Puts together the machine that `config` describes. Whatever can be found wrong is found
    /// here, before the guest runs; the console comes last, so that an error finds the terminal as
    /// it was.
    ///
    /// # Errors
    /// [`Error`] says what the host lacks, or which file is wrong in which way.
    pub fn assemble(config: &VmConfig, timeline: Arc<Timeline>) -> Result<(Self, Peripherals), Error> {
        let host = Host::open()?;
        host.check(config.cpus, config.memory.size, config.el2)?;
        let payload = Payload::open(config)?;
        let ram_window = Window { base: layout::RAM_BASE, size: config.memory.size };
        let placement = boot::place(payload.demand(), ram_window)?;
        let mut models: Vec<Box<dyn VirtioDevice>> = Vec::new();
        for disk in &config.disks {
            models.push(Box::new(Block::open(disk)?));
        }
        models.push(Box::new(Rng::new()));
        // From here on there is something to stop in order: memory may take minutes to populate, and a file of it is made.
        // Not later: what watches memory has the first thread, and a thread that was started before would take the signals.
        let signals = Signals::block().map_err(Error::Signals)?;
        let is_stopped = || matches!(signals.take(), Ok(Some(_)));
        let ram = GuestRam::allocate_unless(&config.memory, GuestAddress(layout::RAM_BASE), &is_stopped)?;
        let ledger = Ledger::new(&ram)?;
        let options = config.balloon.as_ref().map(release_options).unwrap_or_default();
        let release = Arc::new(Release::new(&ram, ledger.clone(), options));
        let tracking = Arc::new(Tracking::new(config.track, &ram, ledger.clone())?);
        // The last, so that it moves no other device.
        let mut balloon = None;
        if let Some(config) = &config.balloon {
            let behind = balloon::Behind::start(Arc::clone(&release) as _).map_err(Error::Balloon)?;
            let (device, control) =
                Balloon::new(config, ram.size(), Arc::new(behind)).map_err(Error::Balloon)?;
            models.push(Box::new(device));
            balloon = Some(control);
        }
        timeline.memory_mapped();
        let virtio = transports(models, &ram)?;

        let console = Console::open(&config.console)?;
        if let Some(pty) = console.pty() {
            say(format_args!("quire: the console is on {}\n", pty.display()));
        }
        let serial = Serial::new(console, timeline.first_console_byte()).map_err(Error::Serial)?;
        let (input, quit) = SerialInput::new(Arc::clone(&serial)).map_err(Error::Serial)?;
        let mut bus = MmioBus::new();
        bus.insert("serial", GuestAddress(layout::SERIAL.base), Serial::SIZE, serial.clone())?;
        bus.insert("rtc", GuestAddress(layout::RTC.base), Rtc::SIZE, Arc::new(Rtc::new()))?;
        let mut subscribers: Vec<Subscriber> = vec![Box::new(input)];
        let mut balloon_subscriber: Option<Subscriber> = None;
        for (slot, transport) in &virtio {
            bus.insert("virtio", GuestAddress(slot.window.base), MmioTransport::SIZE, transport.clone())?;
            let subscriber = Box::new(Arc::clone(transport));
            if transport.id() == VIRTIO_ID_BALLOON {
                balloon_subscriber = Some(subscriber);
            } else {
                subscribers.push(subscriber);
            }
        }
        let machine = Self {
            host,
            cpus: config.cpus,
            el2: config.el2,
            ram,
            ledger,
            release,
            tracking,
            balloon,
            payload,
            placement,
            bus: Arc::new(bus),
            serial,
            virtio,
            timeline,
        };
        Ok((machine, Peripherals { subscribers, balloon: balloon_subscriber, quit, signals }))
    }

    /// The serial port, for its owner to stop and finish.
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// What is tracked of its memory, for its owner to end.
    pub fn tracking(&self) -> &Tracking {
        &self.tracking
    }

    /// What may be asked directly while it runs.
    pub fn parts(&self) -> Parts {
        Parts {
            release: Arc::clone(&self.release),
            ledger: self.ledger.clone(),
            tracking: Arc::clone(&self.tracking),
            balloon: self.balloon.clone(),
        }
    }

    /// What is left when the machine has gone: its memory, and what is known of it.
    pub fn into_memory(self) -> (GuestRam, Ledger, Arc<Release>) {
        (self.ram, self.ledger, self.release)
    }

    /// The guest runs: what was created for it outlives it.
    pub fn started(&self) {
        self.ram.keep();
    }

    /// Brings every device back to the state of reset; no vCPU may run.
    pub fn reset(&self) {
        self.serial.reset();
        for (_, transport) in &self.virtio {
            transport.reset();
        }
    }

    /// Creates the VM, with its vCPUs, interrupts and notifications, and loads what it boots. It starts as
    /// `control` wants it: running or paused.
    ///
    /// # Errors
    /// [`Error`] says what KVM refused.
    pub fn power_on(&self, control: &Control) -> Result<PoweredOn, Error> {
        let vm = self.host.create_vm(self.ram.size())?;
        // Without it an access that KVM can't decode ends KVM_RUN with no word on where.
        let nisv = kvm_enable_cap { cap: KVM_CAP_ARM_NISV_TO_USER, ..kvm_enable_cap::default() };
        if let Err(error) = vm.enable_cap(&nisv) {
            tracing::debug!(%error, "KVM won't tell where an access failed that it can't decode");
        }
        let vm = Arc::new(MappedVm::new(vm, &self.ram)?);
        self.timeline.vm_created();

        let features = Features::of_host(&vm, self.el2).map_err(refused("a vCPU type"))?;
        let mut vcpus = Vec::new();
        let mut mpidrs = Vec::new();
        for index in 0..self.cpus {
            let fd = vm.create_vcpu(index.into()).map_err(refused("a vCPU"))?;
            features.apply(&fd, index).map_err(refused("a vCPU's features"))?;
            let mpidr = Register::MPIDR_EL1.get(&fd).map_err(refused("a vCPU's MPIDR_EL1"))?;
            mpidrs.push(mpidr & AFFINITY);
            vcpus.push(Vcpu { fd, index });
        }
        let gic = Controller::create(&vm, self.cpus, self.el2)?;
        for vcpu in &vcpus {
            features.connect_pmu(&vcpu.fd).map_err(refused("a vCPU's PMU"))?;
        }
        self.connect(&vm)?;

        let mut seed = [0; 64];
        rustix::rand::getrandom(&mut seed, GetRandomFlags::empty()).map_err(Error::Entropy)?;
        // A register that can't be read is one that names no cache.
        let clidr = vcpus.first().and_then(|vcpu| Register::CLIDR_EL1.get(&vcpu.fd).ok()).unwrap_or(0);
        let caches = cache::levels(clidr, Path::new(cache::HOST));
        let slots: Vec<VirtioSlot> = self.virtio.iter().map(|(slot, _)| *slot).collect();
        let tree = fdt::write(&Board {
            cmdline: self.payload.cmdline(),
            ram: Window { base: layout::RAM_BASE, size: self.ram.size() },
            initrd: self.placement.initrd,
            cpus: &mpidrs,
            caches: &caches,
            gic: gic.version,
            el2: self.el2.is_on(),
            pmu: features.pmu,
            virtio: &slots,
            seed,
        })?;
        if tree.len() as u64 > self.placement.fdt.size {
            return Err(Error::TreeTooLarge { size: tree.len(), limit: self.placement.fdt.size });
        }
        self.ram.memory().write_slice(&tree, GuestAddress(self.placement.fdt.base))?;
        self.payload.load(self.ram.memory(), &self.placement)?;
        self.timeline.loaded();

        if let Some(boot) = vcpus.first() {
            Register::PC.set(&boot.fd, self.placement.kernel.base).map_err(refused("the entry"))?;
            Register::x(0).set(&boot.fd, self.placement.fdt.base).map_err(refused("the entry"))?;
        }
        // Not earlier: what is loaded is written by this process, and the log begins with everything dirty.
        self.tracking.powered_on(start_log(&vm))?;
        self.timeline.ready();
        let shared = Shared {
            bus: Arc::clone(&self.bus),
            gate: Arc::new(control.gate(vcpus.len())),
            timeline: Arc::clone(&self.timeline),
        };
        Ok(PoweredOn { vcpus, shared, _gic: gic, _vm: vm })
    }

    /// Lets devices raise interrupts, and queue notifications reach the devices' thread, without a
    /// detour through this process.
    fn connect(&self, vm: &MappedVm) -> Result<(), Error> {
        let irqfd = |event: &EventFd, spi| vm.register_irqfd(event, spi).map_err(refused("an irqfd"));
        irqfd(self.serial.interrupt_event(), layout::SPI_SERIAL)?;
        for (slot, transport) in &self.virtio {
            irqfd(transport.interrupt_event(), slot.spi)?;
            let notify = IoEventAddress::Mmio(slot.window.base + MmioTransport::QUEUE_NOTIFY);
            for (queue, event) in (0u32..).zip(transport.queue_events()) {
                vm.register_ioevent(event, &notify, queue).map_err(refused("an ioeventfd"))?;
            }
        }
        Ok(())
    }
}

/// The affinity fields of MPIDR_EL1: Aff3 in 39:32, Aff2 to Aff0 in 23:0.
const AFFINITY: u64 = 0xff_00ff_ffff;

fn refused(what: &'static str) -> impl Fn(errno::Error) -> Error {
    move |source| Error::Refused { what, source }
}

/// How the dirty log of `vm` is turned on. It does not keep the VM alive.
fn start_log(vm: &Arc<MappedVm>) -> StartLog {
    let vm = Arc::downgrade(vm);
    Box::new(move || {
        let vm = vm.upgrade().ok_or_else(|| LogError::from("the VM has gone"))?;
        Ok(Arc::new(KvmDirtyLog::start(&vm)?))
    })
}

/// How memory goes back through this balloon.
fn release_options(config: &BalloonConfig) -> Options {
    Options { block: config.block.bytes(), repopulate: config.repopulate == Repopulate::Block }
}

/// Gives each device a window and an interrupt.
fn transports(
    models: Vec<Box<dyn VirtioDevice>>,
    ram: &GuestRam,
) -> Result<Vec<(VirtioSlot, Arc<MmioTransport>)>, Error> {
    let mut windows = AddressAllocator::new(layout::VIRTIO.base, layout::VIRTIO.size)?;
    let (first, last) = layout::SPI_VIRTIO;
    let mut interrupts = IdAllocator::new(first, last)?;
    models
        .into_iter()
        .map(|model| {
            let window =
                windows.allocate(layout::VIRTIO_SIZE, layout::VIRTIO_SIZE, AllocPolicy::FirstMatch)?;
            let window = Window { base: window.start(), size: layout::VIRTIO_SIZE };
            let slot = VirtioSlot { window, spi: interrupts.allocate_id()? };
            let transport = MmioTransport::new(model, ram.memory().clone()).map_err(Error::Transport)?;
            Ok((slot, transport))
        })
        .collect()
}
