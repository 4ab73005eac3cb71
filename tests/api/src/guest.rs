//! Memory and a balloon for a machine without KVM, and a driver that is only as much of one as is needed.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, SubscriberOps};
use quire::config::{MemoryConfig, VmConfig};
use quire::devices::MmioDevice;
use quire::machine::control::Parts;
use quire::machine::tracking::Tracking;
use quire::memory::dirty::DirtyLog;
use quire::memory::release::{Options, Release};
use quire::memory::{GuestRam, Ledger};
use quire::virtio::MmioTransport;
use quire::virtio::balloon::{Balloon, Control};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as reg;
use vm_memory::GuestAddress;

/// Where RAM starts.
pub const BASE: u64 = 1 << 30;
/// Where the driver's rings are, each queue's in a page of its own.
const RINGS: u64 = BASE + (1 << 20);

/// The dirty log of vCPUs that write nothing.
#[derive(Debug)]
struct Quiet;

impl DirtyLog for Quiet {
    fn take(&self, _: &[Range<u64>], _: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        Ok(())
    }
}

/// RAM, its ledger and release, and the devices' thread.
pub struct Guest {
    /// What the machine's control is told of it.
    pub parts: Parts,
    /// Its memory, 64 MiB at most.
    pub ram: GuestRam,
    transport: Option<Arc<MmioTransport>>,
    quit: Arc<AtomicBool>,
    devices: Option<JoinHandle<()>>,
}

impl Guest {
    /// Memory as configured but for its size, and a balloon where one is.
    pub fn new(config: &VmConfig) -> Self {
        // What the configuration says beyond that is only told, not had.
        let memory = MemoryConfig { size: config.memory.size.min(64 << 20), ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&memory, GuestAddress(BASE)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        let release = Arc::new(Release::new(&ram, ledger.clone(), Options::default()));
        let tracking = Arc::new(Tracking::new(config.track, &ram, ledger.clone()).unwrap());
        tracking.powered_on(Box::new(|| Ok(Arc::new(Quiet)))).unwrap();
        let quit = Arc::new(AtomicBool::new(false));
        let mut guest = Self {
            parts: Parts { release, ledger, tracking, balloon: None },
            ram,
            transport: None,
            quit,
            devices: None,
        };
        if let Some(config) = &config.balloon {
            let release = guest.parts.release.clone();
            let (balloon, control) = Balloon::new(config, guest.ram.size(), release).unwrap();
            let transport = MmioTransport::new(Box::new(balloon), guest.ram.memory().clone()).unwrap();
            guest.parts.balloon = Some(control);
            guest.devices = Some(devices(&transport, &guest.quit));
            guest.transport = Some(transport);
        }
        guest
    }

    fn set(&self, offset: u32, value: u32) {
        self.transport.as_ref().unwrap().write(offset.into(), &value.to_le_bytes());
    }

    fn get(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.as_ref().unwrap().read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    /// What a driver does until it is ready.
    pub fn drive(&self) {
        self.set(reg::VIRTIO_MMIO_STATUS, 3);
        self.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        let offered = self.get(reg::VIRTIO_MMIO_DEVICE_FEATURES);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 0);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, offered);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, 1);
        self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, 1 << (VIRTIO_F_VERSION_1 - 32));
        self.set(reg::VIRTIO_MMIO_STATUS, 11);
        assert_eq!(self.get(reg::VIRTIO_MMIO_STATUS), 11);
        for queue in 0.. {
            self.set(reg::VIRTIO_MMIO_QUEUE_SEL, queue);
            if self.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX) == 0 {
                break;
            }
            let rings = RINGS as u32 + queue * 0x3000;
            self.set(reg::VIRTIO_MMIO_QUEUE_NUM, 16);
            self.set(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, rings);
            self.set(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, rings + 0x1000);
            self.set(reg::VIRTIO_MMIO_QUEUE_USED_LOW, rings + 0x2000);
            self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
        }
        self.set(reg::VIRTIO_MMIO_STATUS, 15);
        while !self.balloon().is_active() {
            thread::yield_now();
        }
    }

    /// The balloon, which has to be configured.
    pub fn balloon(&self) -> &Control {
        self.parts.balloon.as_ref().unwrap()
    }

    /// The driver says how much the balloon holds, in bytes.
    pub fn say_actual(&self, bytes: u64) {
        let pages = (bytes >> 12) as u32;
        let at = u64::from(reg::VIRTIO_MMIO_CONFIG) + 4;
        self.transport.as_ref().unwrap().write(at, &pages.to_le_bytes());
    }
}

fn devices(transport: &Arc<MmioTransport>, quit: &Arc<AtomicBool>) -> JoinHandle<()> {
    let (transport, quit) = (transport.clone(), quit.clone());
    thread::spawn(move || {
        let mut events = EventManager::new().unwrap();
        events.add_subscriber(transport);
        while !quit.load(Ordering::SeqCst) {
            events.run_with_timeout(10).unwrap();
        }
    })
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.quit.store(true, Ordering::SeqCst);
        if let Some(devices) = self.devices.take() {
            devices.join().unwrap();
        }
    }
}
