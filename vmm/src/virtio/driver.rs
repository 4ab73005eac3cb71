//! A driver for tests: it speaks to a transport as a guest would, through registers and rings, and can
//! do everything wrong. Its RAM lies between guard pages: what the device touches beside it kills the
//! test.

use std::sync::Arc;

use event_manager::{EventManager, SubscriberOps};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::{VRING_DESC_F_INDIRECT, VRING_DESC_F_NEXT, VRING_DESC_F_WRITE};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::{AvailRing, DescriptorTable};
use vm_memory::{Bytes, GuestAddress};

use crate::config::MemoryConfig;
use crate::devices::MmioDevice;
use crate::memory::{GuestMemory, GuestRam};

use super::device::VirtioDevice;
use super::mmio::MmioTransport;

/// Where RAM starts.
pub(super) const BASE: u64 = 0x8000_0000;
/// Bytes of RAM.
pub(super) const SIZE: u64 = 1 << 20;
/// Bytes between one queue's rings and the next.
const RINGS: u64 = 0x4000;
/// Where the buffers start.
const BUFFERS: u64 = BASE + 0x2_0000;

/// A descriptor to be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) flags: u16,
}

impl Part {
    pub(super) fn read(address: u64, len: u32) -> Self {
        Self { address, len, flags: 0 }
    }

    pub(super) fn write(address: u64, len: u32) -> Self {
        Self { address, len, flags: VRING_DESC_F_WRITE as u16 }
    }

    pub(super) fn indirect(address: u64, len: u32) -> Self {
        Self { address, len, flags: VRING_DESC_F_INDIRECT as u16 }
    }
}

pub(super) struct Driver {
    pub(super) transport: Arc<MmioTransport>,
    pub(super) memory: GuestMemory,
    manager: EventManager<Arc<MmioTransport>>,
    sizes: Vec<u16>,
    next_descriptor: Vec<u16>,
    seen: Vec<u16>,
    next_buffer: u64,
}

pub(super) fn ram() -> GuestMemory {
    let config = MemoryConfig { size: SIZE, ..MemoryConfig::default() };
    GuestRam::allocate(&config, GuestAddress(BASE)).unwrap().memory().clone()
}

impl Driver {
    /// A transport whose driver has done nothing yet.
    pub(super) fn new(device: Box<dyn VirtioDevice>) -> Self {
        let sizes = device.queue_sizes().to_vec();
        let memory = ram();
        let transport = MmioTransport::new(device, memory.clone()).unwrap();
        let mut manager = EventManager::new().unwrap();
        manager.add_subscriber(transport.clone());
        let (next_descriptor, seen) = (vec![0; sizes.len()], vec![0; sizes.len()]);
        Self { transport, memory, manager, sizes, next_descriptor, seen, next_buffer: BUFFERS }
    }

    /// The same, and through with the handshake: all queues, and `features` beside VERSION_1.
    pub(super) fn start(device: Box<dyn VirtioDevice>, features: u64) -> Self {
        let mut driver = Self::new(device);
        driver.handshake(features);
        driver
    }

    pub(super) fn handshake(&mut self, features: u64) {
        self.handshake_with(features, 0..self.sizes.len());
    }

    /// The same with these queues only.
    pub(super) fn handshake_with(&mut self, features: u64, queues: impl IntoIterator<Item = usize>) {
        self.negotiate(features | 1 << VIRTIO_F_VERSION_1);
        assert_eq!(self.get(reg::VIRTIO_MMIO_STATUS), 11);
        for queue in queues {
            self.set_up(queue);
            assert_eq!(self.get(reg::VIRTIO_MMIO_QUEUE_READY), 1);
        }
        self.set(reg::VIRTIO_MMIO_STATUS, 15);
    }

    /// Up to FEATURES_OK.
    pub(super) fn negotiate(&self, features: u64) {
        self.set(reg::VIRTIO_MMIO_STATUS, 1);
        self.set(reg::VIRTIO_MMIO_STATUS, 3);
        for half in 0..2 {
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL, half);
            self.set(reg::VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * half)) as u32);
        }
        self.set(reg::VIRTIO_MMIO_STATUS, 11);
    }

    /// Describes a queue of its largest size, and declares it ready.
    pub(super) fn set_up(&mut self, queue: usize) {
        let (descriptors, available, used) = self.rings(queue);
        self.set(reg::VIRTIO_MMIO_QUEUE_SEL, queue as u32);
        let max = self.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX);
        assert_eq!(max, u32::from(self.sizes[queue]));
        self.set(reg::VIRTIO_MMIO_QUEUE_NUM, max);
        self.set(reg::VIRTIO_MMIO_QUEUE_DESC_LOW, descriptors as u32);
        self.set(reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW, available as u32);
        self.set(reg::VIRTIO_MMIO_QUEUE_USED_LOW, used as u32);
        let size = self.sizes[queue];
        DescriptorTable::new(&self.memory, GuestAddress(descriptors), size);
        AvailRing::new(&self.memory, GuestAddress(available), size);
        self.memory.write_slice(&[0; 6 + 8 * 256], GuestAddress(used)).unwrap();
        self.next_descriptor[queue] = 0;
        self.seen[queue] = 0;
        self.set(reg::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// Where a queue's table and rings are.
    pub(super) fn rings(&self, queue: usize) -> (u64, u64, u64) {
        let start = BASE + queue as u64 * RINGS;
        (start, start + 0x1000, start + 0x2000)
    }

    pub(super) fn get(&self, offset: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(offset.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(super) fn set(&self, offset: u32, value: u32) {
        self.transport.write(offset.into(), &value.to_le_bytes());
    }

    /// Fresh bytes in RAM.
    pub(super) fn buffer(&mut self, len: u64) -> u64 {
        let at = self.next_buffer;
        self.next_buffer += len.next_multiple_of(16);
        assert!(self.next_buffer <= BASE + SIZE);
        at
    }

    /// A buffer with this content.
    pub(super) fn filled(&mut self, bytes: &[u8]) -> u64 {
        let at = self.buffer(bytes.len() as u64);
        self.memory.write_slice(bytes, GuestAddress(at)).unwrap();
        at
    }

    pub(super) fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory.read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    /// Puts a descriptor where the driver wants it.
    pub(super) fn describe(&self, queue: usize, index: u16, part: Part, next: u16) {
        let descriptor = Descriptor::new(part.address, part.len, part.flags, next);
        let (table, ..) = self.rings(queue);
        let table = DescriptorTable::new(&self.memory, GuestAddress(table), self.sizes[queue]);
        table.store(index, RawDescriptor::from(descriptor)).unwrap();
    }

    /// Makes `head` available.
    pub(super) fn offer(&self, queue: usize, head: u16) {
        let (_, available, _) = self.rings(queue);
        let index: u16 = self.memory.read_obj(GuestAddress(available + 2)).unwrap();
        let slot = available + 4 + 2 * u64::from(index % self.sizes[queue]);
        self.memory.write_obj(head, GuestAddress(slot)).unwrap();
        self.memory.write_obj(index.wrapping_add(1), GuestAddress(available + 2)).unwrap();
    }

    /// Offers a chain of these parts; returns its head.
    pub(super) fn post(&mut self, queue: usize, parts: &[Part]) -> u16 {
        let size = self.sizes[queue];
        let head = self.next_descriptor[queue];
        for (at, part) in (0u16..).zip(parts) {
            let mut part = *part;
            let (index, next) = ((head + at) % size, (head + at + 1) % size);
            if usize::from(at) + 1 < parts.len() {
                part.flags |= VRING_DESC_F_NEXT as u16;
            }
            self.describe(queue, index, part, next);
        }
        self.next_descriptor[queue] = (head + parts.len() as u16) % size;
        self.offer(queue, head);
        head
    }

    /// Notifies every queue, and lets the device thread do all that there is.
    pub(super) fn run(&mut self) {
        for queue in 0..self.sizes.len() {
            self.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, queue as u32);
        }
        self.settle();
    }

    /// Lets the device thread do all that there is.
    pub(super) fn settle(&mut self) {
        for _ in 0..1000 {
            if self.manager.run_with_timeout(0).unwrap() == 0 {
                return;
            }
        }
        panic!("events without end");
    }

    /// Waits for the device thread to get something to do by itself, and lets it do that.
    pub(super) fn wait(&mut self) {
        self.manager.run().unwrap();
        self.settle();
    }

    /// What came back since the last time: head and length.
    pub(super) fn used(&mut self, queue: usize) -> Vec<(u16, u32)> {
        let (.., used) = self.rings(queue);
        let size = self.sizes[queue];
        let index: u16 = self.memory.read_obj(GuestAddress(used + 2)).unwrap();
        let mut back = Vec::new();
        while self.seen[queue] != index {
            let entry = used + 4 + 8 * u64::from(self.seen[queue] % size);
            let [id, len]: [u32; 2] = self.memory.read_obj(GuestAddress(entry)).unwrap();
            back.push((id as u16, len));
            self.seen[queue] = self.seen[queue].wrapping_add(1);
        }
        back
    }

    /// Interrupts since the last time.
    pub(super) fn interrupts(&self) -> u64 {
        self.transport.interrupt_event().read().unwrap_or(0)
    }
}
