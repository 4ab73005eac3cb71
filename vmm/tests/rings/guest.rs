//! Registers, rings and buffers, as a guest has them; and the thread of the device.

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use event_manager::{EventManager, SubscriberOps};
use quire::config::Repopulate;
use quire::devices::MmioDevice;
use quire::memory::GuestMemory;
use quire::memory::release::Options;
use quire::virtio::balloon::{Contract, Control};
use quire::virtio::queue::{self, Progress};
use quire::virtio::{Activation, Balloon, ConfigSpace, MmioTransport, VirtioDevice};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::ground::{BASE, Ground, SIZE};
use super::operation::{Operation, Part, QUEUES, Setup};
use super::watch::Watch;

const STATUS: u64 = 0x70;
const CONFIG: u64 = 0x100;
/// Entries of each queue.
const ENTRIES: u16 = 256;
/// Bytes from one queue's rings to the next's.
const RINGS: u64 = 0x4000;
/// Where buffers are: behind the rings, in front of what is watched.
const BUFFERS: std::ops::Range<u64> = BASE + 0x1_4000..BASE + 0x2_0000;
/// The features that bring a queue of their own.
const WITH_QUEUE: u64 = 0b10_1010;

/// A balloon whose own events come when they are sent.
struct Ticking {
    balloon: Balloon,
    events: Vec<EventFd>,
}

impl VirtioDevice for Ticking {
    fn id(&self) -> u32 {
        self.balloon.id()
    }

    fn features(&self) -> u64 {
        self.balloon.features()
    }

    fn queue_sizes(&self) -> &[u16] {
        self.balloon.queue_sizes()
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        self.balloon.config()
    }

    fn activate(&mut self, activation: Activation) {
        self.balloon.activate(activation);
    }

    fn handle_queue(&mut self, index: usize) -> Result<Progress, queue::Error> {
        self.balloon.handle_queue(index)
    }

    fn events(&self) -> Vec<RawFd> {
        self.events.iter().map(AsRawFd::as_raw_fd).collect()
    }

    fn handle_event(&mut self, index: usize) -> Result<(), queue::Error> {
        let _ = self.events[index].read();
        self.balloon.handle_event(index)
    }

    fn reset(&mut self) {
        self.balloon.reset();
    }
}

/// What the driver knows of a queue.
#[derive(Clone, Default)]
struct Queue {
    /// Heads that have not come back, each with how often it was made available.
    outstanding: BTreeMap<u16, u32>,
    next_descriptor: u16,
    seen: u16,
    /// Its rings are what the driver made them.
    is_sound: bool,
}

pub(crate) struct Guest {
    ground: Ground,
    memory: GuestMemory,
    watch: Arc<Watch>,
    control: Arc<Control>,
    transport: Arc<MmioTransport>,
    manager: EventManager<Arc<MmioTransport>>,
    events: Vec<EventFd>,
    offered: u64,
    features: u64,
    queues: [Queue; QUEUES],
    buffer: u64,
    /// The driver has kept to the registers' rules.
    is_honest: bool,
}

impl Guest {
    pub(crate) fn new(setup: &Setup) -> Self {
        let ground = Ground::new();
        let options = Options {
            block: setup.config.block.bytes(),
            repopulate: setup.config.repopulate == Repopulate::Block,
        };
        let watch = Arc::new(Watch::new(&ground, options));
        let (balloon, control) =
            Balloon::new(&setup.config, SIZE, Arc::clone(&watch) as _).expect("there are descriptors");
        let events: Vec<_> =
            balloon.events().iter().map(|_| EventFd::new(EFD_NONBLOCK).expect("there are events")).collect();
        let theirs = events.iter().map(|event| event.try_clone().expect("there are events")).collect();
        let offered = balloon.features() | 3 << 28;
        let memory = ground.ram.memory().clone();
        let device = Box::new(Ticking { balloon, events: theirs });
        let transport = MmioTransport::new(device, memory.clone()).expect("there are descriptors");
        let mut manager = EventManager::new().expect("there is an epoll");
        manager.add_subscriber(Arc::clone(&transport));
        let mut guest = Self {
            ground,
            memory,
            watch,
            control,
            transport,
            manager,
            events,
            offered,
            features: 0,
            queues: Default::default(),
            buffer: BUFFERS.start,
            is_honest: true,
        };
        guest.restart(setup.features);
        guest
    }

    pub(crate) fn apply(&mut self, operation: &Operation) {
        match operation {
            Operation::Pages { queue, runs } => {
                let numbers = runs.iter().flat_map(|&(first, count)| {
                    (0..u32::from(count)).map(move |page| first.wrapping_add(page).to_le_bytes())
                });
                let bytes: Vec<u8> = numbers.flatten().collect();
                self.send(*queue, &bytes);
            }
            Operation::Command { queue, command } => {
                let command = command.unwrap_or_else(|| self.get(CONFIG + 8));
                self.send(*queue, &command.to_le_bytes());
            }
            Operation::Statistics { queue, bytes } => self.send(*queue, bytes),
            Operation::Chain { queue, parts } => self.post(*queue, parts),
            Operation::Ring { queue, offset, value } => {
                self.queues[*queue].is_sound = false;
                let at = self.rings(*queue) + u64::from(*offset) % 0x2ff8;
                self.memory.write_obj(*value, GuestAddress(at)).expect("rings are in RAM");
            }
            Operation::Notify { queue } => self.set(0x50, u32::from(*queue)),
            Operation::Register { offset, len, value } => self.write_any(*offset, *len, *value),
            Operation::Restart { features } => self.restart(*features),
            Operation::Event { index } => self.events[*index].write(1).expect("an event can be sent"),
            Operation::Target { bytes } => {
                let done = self.control.set_target(*bytes);
                assert_eq!(done.is_ok(), *bytes <= SIZE && bytes.is_multiple_of(4096));
            }
            Operation::Hinting { start, acknowledge } => {
                // Whether it may depends on the driver; that it returns does not.
                let _ = if *start {
                    self.control.hinting_start(*acknowledge)
                } else {
                    self.control.hinting_stop()
                };
            }
            Operation::Stamp { page, value } => self.watch.stamp((*page).into(), *value),
        }
        self.run();
        if let Operation::Pages { queue: queue @ (0 | 1), runs } = operation
            && self.is_honest
            && self.queues[*queue].is_sound
            && self.queues[*queue].outstanding.is_empty()
        {
            let numbers = runs.iter().flat_map(|&(first, count)| {
                (0..u32::from(count)).map(move |page| u64::from(first.wrapping_add(page)))
            });
            self.watch.was_told(numbers, *queue == 0);
        }
        if matches!(operation, Operation::Event { .. } | Operation::Restart { .. }) {
            self.watch.check();
        }
        assert!(self.control.actual() <= SIZE);
        let _ = (self.control.statistics(), self.control.hinting_status(), self.control.config());
    }

    /// Everything has come back, nothing else has been touched, and the device is as good as new.
    pub(crate) fn end(mut self) {
        for index in 0..self.events.len() {
            self.apply(&Operation::Event { index });
        }
        let is_running = self.is_honest && !self.watch.gave_machinery();
        if is_running {
            assert_eq!(self.get(STATUS), 15, "the driver did nothing to lose its device");
            let queues = 2 + (self.features & WITH_QUEUE).count_ones() as usize;
            for (index, queue) in self.queues[..queues].iter().enumerate().filter(|(_, queue)| queue.is_sound)
            {
                assert!(queue.outstanding.is_empty(), "queue {index} keeps {:?}", queue.outstanding);
            }
        }
        self.restart(u64::MAX);
        let page = (BASE >> 12) as u32 + 40;
        self.send(0, &page.to_le_bytes());
        self.run();
        self.send(1, &page.to_le_bytes());
        self.run();
        assert!(self.queues[..2].iter().all(|queue| queue.outstanding.is_empty()));
        self.watch.stamp(40, 0x77);
        self.watch.check();
        self.ground.check();
    }

    /// A reset, and a handshake with all queues.
    fn restart(&mut self, features: u64) {
        self.set(STATUS, 0);
        assert_eq!(self.get(STATUS), 0);
        self.is_honest = true;
        self.features = features & self.offered;
        let must_tell = self.features & 1 != 0;
        self.watch.has_new_driver(if must_tell { Contract::MustTell } else { Contract::Free });
        for status in [1, 3] {
            self.set(STATUS, status);
        }
        for (half, bits) in [(0, self.features as u32), (1, 1)] {
            self.set(0x24, half);
            self.set(0x20, bits);
        }
        self.set(STATUS, 11);
        for index in 0..QUEUES {
            let start = self.rings(index);
            self.memory.write_slice(&[0; RINGS as usize], GuestAddress(start)).expect("rings are in RAM");
            self.set(0x30, index as u32);
            self.set(0x38, ENTRIES.into());
            for (register, offset) in [(0x80, 0), (0x90, 0x1000), (0xa0, 0x2000)] {
                self.set(register, (start + offset) as u32);
                self.set(register + 4, 0);
            }
            self.set(0x44, 1);
            self.queues[index] = Queue { is_sound: true, ..Queue::default() };
        }
        self.set(STATUS, 15);
        assert_eq!(self.get(STATUS), 15);
        self.run();
    }

    fn rings(&self, queue: usize) -> u64 {
        BASE + queue as u64 * RINGS
    }

    fn send(&mut self, queue: usize, bytes: &[u8]) {
        let len = (bytes.len() as u64).next_multiple_of(16);
        if self.buffer + len > BUFFERS.end {
            self.buffer = BUFFERS.start;
        }
        let address = self.buffer;
        self.buffer += len;
        self.memory.write_slice(bytes, GuestAddress(address)).expect("buffers are in RAM");
        self.post(queue, &[Part { address, len: bytes.len() as u32, is_write: false }]);
    }

    fn post(&mut self, queue: usize, parts: &[Part]) {
        let rings = self.rings(queue);
        let state = &mut self.queues[queue];
        let head = state.next_descriptor;
        for (at, part) in (0u16..).zip(parts) {
            let index = (head + at) % ENTRIES;
            let has_next = usize::from(at) + 1 < parts.len();
            let flags = u16::from(has_next) | u16::from(part.is_write) << 1;
            let words = [
                part.address,
                u64::from(part.len) | u64::from(flags) << 32 | u64::from((index + 1) % ENTRIES) << 48,
            ];
            let to = GuestAddress(rings + u64::from(index) * 16);
            self.memory.write_obj(words, to).expect("rings are in RAM");
        }
        state.next_descriptor = (head + parts.len() as u16) % ENTRIES;
        *state.outstanding.entry(head).or_default() += 1;
        let available = rings + 0x1000;
        let index: u16 = self.memory.read_obj(GuestAddress(available + 2)).expect("rings are in RAM");
        let slot = GuestAddress(available + 4 + 2 * u64::from(index % ENTRIES));
        self.memory.write_obj(head, slot).expect("rings are in RAM");
        let to = GuestAddress(available + 2);
        self.memory.write_obj(index.wrapping_add(1), to).expect("rings are in RAM");
        self.set(0x50, queue as u32);
    }

    /// Lets the device thread do all that there is, and takes what has come back.
    fn run(&mut self) {
        let idle = (0..10_000).any(|_| self.manager.run_with_timeout(0).expect("epoll works") == 0);
        assert!(idle, "events without end");
        if self.watch.gave_machinery() {
            self.queues.iter_mut().for_each(|queue| queue.is_sound = false);
        }
        for index in 0..QUEUES {
            let used = self.rings(index) + 0x2000;
            let state = &mut self.queues[index];
            let count: u16 = self.memory.read_obj(GuestAddress(used + 2)).expect("rings are in RAM");
            while state.is_sound && state.seen != count {
                let entry = GuestAddress(used + 4 + 8 * u64::from(state.seen % ENTRIES));
                let [head, _]: [u32; 2] = self.memory.read_obj(entry).expect("rings are in RAM");
                let left = state.outstanding.get_mut(&(head as u16));
                let left = left.unwrap_or_else(|| panic!("queue {index} returns {head}, which it has not"));
                *left -= 1;
                state.outstanding.retain(|_, count| *count > 0);
                state.seen = state.seen.wrapping_add(1);
            }
        }
    }

    /// Any access to any register, but for rings that would lie in what is watched.
    fn write_any(&mut self, offset: u16, len: u8, value: u64) {
        let offset = u64::from(offset) % 0x210;
        let value = if (0x80..0xb0).contains(&offset) {
            if offset & 4 == 0 { BASE + value % 0x1_4000 } else { value & u64::from(value > u64::MAX / 2) }
        } else {
            value
        };
        // Of what the driver may write while it runs, everything but a notification may cost it its device.
        if offset < CONFIG && offset != 0x50 {
            self.is_honest = false;
            self.watch.lost_sight();
        }
        if offset == STATUS && value as u32 == 0 {
            self.queues.iter_mut().for_each(|queue| queue.is_sound = false);
        }
        self.transport.write(offset, &value.to_le_bytes()[..[4, 1, 2, 8][usize::from(len) % 4]]);
    }

    fn get(&self, offset: u64) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    fn set(&self, offset: u64, value: u32) {
        self.transport.write(offset, &value.to_le_bytes());
    }
}
