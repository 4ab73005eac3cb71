//! A device on the MMIO bus and on the device thread.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use event_manager::{EventOps, EventSubscriber, Events};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use crate::devices::MmioDevice;
use crate::lock::lock;
use crate::memory::GuestMemory;

use super::device::{Activation, ConfigSpace, Stop, VirtioDevice};
use super::interrupt::Interrupt;
use super::queue::{Progress, VirtQueue};
use super::registers::{Effect, Registers};

/// "virt".
const MAGIC: u32 = 0x7472_6976;
/// The modern interface.
const VERSION: u32 = 2;
/// Anybody's; drivers ignore it.
const VENDOR: u32 = 0x5152_4955;

/// A [`VirtioDevice`] behind the registers of virtio 1.3, 4.2.2.
///
/// As an [`MmioDevice`] it is called by vCPUs, as an [`EventSubscriber`] by the device thread. Locks
/// are taken in this order: `worker`, then `state`; vCPUs take `worker` only for a reset.
pub struct MmioTransport {
    id: u32,
    config: Arc<dyn ConfigSpace>,
    interrupt: Arc<Interrupt>,
    memory: GuestMemory,
    queue_events: Vec<EventFd>,
    /// The device's own.
    device_events: Vec<RawFd>,
    stop: Stop,
    /// Held for the time of a register access.
    state: Mutex<State>,
    /// Held by the device thread while it works.
    worker: Mutex<Worker>,
    reported: AtomicBool,
}

struct State {
    registers: Registers,
    /// What the driver set up, until the device thread takes it.
    pending: Option<(u64, Vec<Option<Queue>>)>,
}

struct Worker {
    device: Box<dyn VirtioDevice>,
    active: bool,
}

/// What the device thread has to do.
#[derive(Clone, Copy, Debug)]
enum Task {
    /// The driver may have put something into a queue.
    Queue(usize),
    /// One of the device's own events has come.
    Event(usize),
}

impl MmioTransport {
    /// Bytes of address space.
    pub const SIZE: u64 = 0x200;

    /// Offset of the register that an ioeventfd stands for, with the queue's index as its 32-bit data.
    pub const QUEUE_NOTIFY: u64 = reg::VIRTIO_MMIO_QUEUE_NOTIFY as u64;

    /// Puts a device behind registers; its driver's buffers are in `memory`.
    ///
    /// # Errors
    ///
    /// No file descriptors to be had, or the device has queues of impossible sizes.
    pub fn new(device: Box<dyn VirtioDevice>, memory: GuestMemory) -> io::Result<Arc<Self>> {
        let sizes = device.queue_sizes();
        for &size in sizes {
            Queue::new(size).map_err(|error| io::Error::other(error.to_string()))?;
        }
        let own = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;
        let registers = Registers::new(device.features() | own, sizes);
        let events = sizes.iter().map(|_| EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC));
        Ok(Arc::new(Self {
            id: device.id(),
            config: device.config(),
            interrupt: Arc::new(Interrupt::new()?),
            memory,
            queue_events: events.collect::<io::Result<_>>()?,
            device_events: device.events(),
            stop: Stop::default(),
            state: Mutex::new(State { registers, pending: None }),
            worker: Mutex::new(Worker { device, active: false }),
            reported: AtomicBool::new(false),
        }))
    }

    /// The type of its device (virtio 1.3, 5).
    pub fn id(&self) -> u32 {
        self.id
    }

    /// One per queue, written when the driver notifies it.
    pub fn queue_events(&self) -> &[EventFd] {
        &self.queue_events
    }

    /// Written for each interrupt: an edge.
    pub fn interrupt_event(&self) -> &EventFd {
        self.interrupt.event()
    }

    /// Takes device and registers back to where they began. When this returns, nothing that the driver
    /// gave is touched any more; until then everything else reads as before. It waits for the system
    /// call that the device thread is in, if any.
    pub fn reset(&self) {
        let asked = self.stop.ask();
        let mut worker = lock(&self.worker);
        worker.device.reset();
        worker.active = false;
        let mut state = lock(&self.state);
        state.pending = None;
        state.registers.reset();
        self.interrupt.reset();
        drop((state, worker, asked));
    }

    /// Lets the device do something; called on the device thread.
    fn work(&self, task: Task) {
        let mut worker = lock(&self.worker);
        let pending = lock(&self.state).pending.take();
        if let Some((features, queues)) = pending {
            let ready = |queue: Queue| {
                VirtQueue::new(queue, self.memory.clone(), self.interrupt.clone(), self.stop.clone())
            };
            worker.device.activate(Activation {
                features,
                queues: queues.into_iter().map(|queue| queue.map(ready)).collect(),
                interrupt: self.interrupt.clone(),
                stop: self.stop.clone(),
            });
            worker.active = true;
        }
        let done = match task {
            Task::Event(index) => worker.device.handle_event(index).map(|()| Progress::Idle),
            Task::Queue(index) if worker.active => worker.device.handle_queue(index),
            Task::Queue(_) => Ok(Progress::Idle),
        };
        match (done, task) {
            (Ok(Progress::More), Task::Queue(index)) => self.notify(index),
            (Ok(_), _) => {}
            (Err(error), _) => {
                tracing::warn!(device = self.id, ?task, %error, "the device needs a reset");
                worker.device.reset();
                worker.active = false;
                // Under the worker's lock: no reset has come in between.
                if lock(&self.state).registers.needs_reset() {
                    self.interrupt.config_changed();
                }
            }
        }
    }

    fn notify(&self, index: usize) {
        if let Some(event) = self.queue_events.get(index) {
            // Full means that it is readable, which is what it is for.
            let _ = event.write(1);
        }
    }

    fn read_register(&self, offset: u32) -> u32 {
        match offset {
            reg::VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            reg::VIRTIO_MMIO_VERSION => VERSION,
            reg::VIRTIO_MMIO_DEVICE_ID => self.id,
            reg::VIRTIO_MMIO_VENDOR_ID => VENDOR,
            reg::VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            reg::VIRTIO_MMIO_CONFIG_GENERATION => self.interrupt.generation(),
            // There are no shared memory regions: their lengths read as -1 (virtio 1.3, 4.2.2).
            reg::VIRTIO_MMIO_SHM_LEN_LOW..=reg::VIRTIO_MMIO_SHM_BASE_HIGH => u32::MAX,
            _ => lock(&self.state).registers.read(offset).unwrap_or(0),
        }
    }

    fn write_register(&self, offset: u32, value: u32) {
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NOTIFY => return self.notify(value as usize),
            reg::VIRTIO_MMIO_INTERRUPT_ACK => return self.interrupt.acknowledge(value),
            // There is nothing to select.
            reg::VIRTIO_MMIO_SHM_SEL => return,
            _ => {}
        }
        let mut state = lock(&self.state);
        let effect = state.registers.write(offset, value, &self.memory);
        match effect {
            Effect::None => {}
            Effect::Activate => {
                let registers = &state.registers;
                let queues = registers.queues(&self.memory);
                let ready: Vec<_> = (0..queues.len()).filter(|&index| queues[index].is_some()).collect();
                state.pending = Some((registers.features(), queues));
                drop(state);
                // What the driver put into a queue before it was ready, it notified too early or not at
                // all. And without any queue the device still has to hear of its driver.
                if ready.is_empty() {
                    self.notify(0);
                }
                ready.into_iter().for_each(|index| self.notify(index));
            }
            Effect::Reset => {
                drop(state);
                self.reset();
            }
            Effect::Refused | Effect::Broken => {
                drop(state);
                self.report(effect, offset, value);
            }
        }
    }

    /// Reports the first breach of the rules: a guest could fill the log otherwise.
    fn report(&self, effect: Effect, offset: u32, value: u32) {
        if !self.reported.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                device = self.id,
                register = format_args!("{offset:#x}"),
                value = format_args!("{value:#x}"),
                ?effect,
                "the driver broke the rules; more of it is not reported"
            );
        }
    }
}

/// The register that an access means: registers are accessed whole and aligned (virtio 1.3, 4.2.2.2).
fn register(offset: u64) -> Option<u32> {
    let offset = u32::try_from(offset).ok()?;
    (offset < reg::VIRTIO_MMIO_CONFIG && offset.is_multiple_of(4)).then_some(offset)
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let Some(offset) = offset.checked_sub(reg::VIRTIO_MMIO_CONFIG.into()) {
            self.config.read(offset, data);
        } else if let (Some(offset), Ok(data)) = (register(offset), <&mut [u8; 4]>::try_from(data)) {
            *data = self.read_register(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(offset) = offset.checked_sub(reg::VIRTIO_MMIO_CONFIG.into()) {
            let takes_config = lock(&self.state).registers.takes_config();
            if takes_config {
                self.config.write(offset, data);
            }
        } else if let (Some(offset), Ok(data)) = (register(offset), <[u8; 4]>::try_from(data)) {
            self.write_register(offset, u32::from_le_bytes(data));
        }
    }
}

impl EventSubscriber for MmioTransport {
    fn init(&self, ops: &mut EventOps<'_>) {
        let queues = self.queue_events.iter().map(AsRawFd::as_raw_fd);
        for (index, event) in (0u32..).zip(queues.chain(self.device_events.iter().copied())) {
            if let Err(error) = ops.add(Events::with_data_raw(event, index, EventSet::IN)) {
                tracing::error!(device = self.id, event = index, %error, "notifications can't be watched");
            }
        }
    }

    fn process(&self, events: Events, _: &mut EventOps<'_>) {
        let index = events.data() as usize;
        let Some(event) = self.queue_events.get(index) else {
            let index = index - self.queue_events.len();
            if self.device_events.get(index) == Some(&events.fd()) {
                self.work(Task::Event(index));
            }
            return;
        };
        if event.as_raw_fd() == events.fd() {
            // Before the queue is looked at: a notification during that comes again.
            let _ = event.read();
            self.work(Task::Queue(index));
        }
    }
}

#[cfg(test)]
mod tests;
