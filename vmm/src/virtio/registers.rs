//! The state machine of the MMIO transport (virtio 1.3, 4.2.2), without side effects: what a write has
//! to lead to is returned.
//!
//! What the driver may do depends on how far it has come; whatever comes at another time is refused,
//! which means that it has no effect and the first one is reported:
//!
//! | register | may be written |
//! |---|---|
//! | selectors | always |
//! | DriverFeatures | from DRIVER until FEATURES_OK |
//! | QueueSize, QueueReady, addresses | from FEATURES_OK until DRIVER_OK; size and addresses while the queue isn't ready; that a queue which isn't ready is not to be: always |
//! | Status | bits in their order, none taken back; 0 always |
//!
//! A queue that is declared ready with a size or addresses that can't be used makes the device need a
//! reset, and so does what the device thread finds out later about the rings.

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_VERSION_1,
};
use virtio_bindings::virtio_mmio as reg;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;
use virtio_queue::{Queue, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::memory::GuestMemory;

/// In the order in which the driver sets them (virtio 1.3, 3.1.1).
const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_DRIVER_OK,
];

/// What a write leads to outside the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing.
    None,
    /// The write came at the wrong time and was ignored.
    Refused,
    /// The driver wants a reset; the registers are still what they were.
    Reset,
    /// The driver is ready.
    Activate,
    /// The driver broke the rules; the device now needs a reset.
    Broken,
}

/// One queue, as far as the driver has described it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct QueueRegisters {
    max: u16,
    size: u32,
    descriptors: u64,
    available: u64,
    used: u64,
    ready: bool,
}

impl QueueRegisters {
    fn new(max: u16) -> Self {
        Self { max, size: max.into(), descriptors: 0, available: 0, used: 0, ready: false }
    }

    /// The size and the three rings, if they can be used: a power of two, no more than offered, and
    /// aligned ranges of guest memory that don't overlap (virtio 1.3, 2.7).
    fn check(&self, memory: &GuestMemory) -> Option<u16> {
        let size = u16::try_from(self.size).ok()?;
        if size > self.max || !size.is_power_of_two() {
            return None;
        }
        let entries = u64::from(size);
        let rings = [
            (self.descriptors, 16 * entries, 16),
            (self.available, 6 + 2 * entries, 2),
            (self.used, 6 + 8 * entries, 4),
        ];
        for (at, (start, len, align)) in rings.into_iter().enumerate() {
            let end = start.checked_add(len)?;
            if !start.is_multiple_of(align) || !memory.check_range(GuestAddress(start), len as usize) {
                return None;
            }
            let apart = |&(other, len, _): &(u64, u64, u64)| end <= other || other + len <= start;
            if !rings[..at].iter().all(apart) {
                return None;
            }
        }
        Some(size)
    }

    fn queue(&self, memory: &GuestMemory, features: u64) -> Option<Queue> {
        let size = self.check(memory)?;
        let mut queue = Queue::new(self.max).ok()?;
        let halves = |address: u64| (Some(address as u32), Some((address >> 32) as u32));
        queue.set_size(size);
        let (low, high) = halves(self.descriptors);
        queue.set_desc_table_address(low, high);
        let (low, high) = halves(self.available);
        queue.set_avail_ring_address(low, high);
        let (low, high) = halves(self.used);
        queue.set_used_ring_address(low, high);
        queue.set_event_idx(features & (1 << VIRTIO_RING_F_EVENT_IDX) != 0);
        queue.set_ready(true);
        Some(queue)
    }
}

/// Everything that the driver has told the transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registers {
    offered: u64,
    status: u32,
    offered_half: u32,
    accepted_half: u32,
    accepted: u64,
    selected: u32,
    queues: Vec<QueueRegisters>,
}

impl Registers {
    /// The registers of a device that offers these features and has queues of these largest sizes.
    pub fn new(offered: u64, sizes: &[u16]) -> Self {
        Self {
            offered,
            status: 0,
            offered_half: 0,
            accepted_half: 0,
            accepted: 0,
            selected: 0,
            queues: sizes.iter().copied().map(QueueRegisters::new).collect(),
        }
    }

    /// Back to what they were at first.
    pub fn reset(&mut self) {
        let sizes: Vec<_> = self.queues.iter().map(|queue| queue.max).collect();
        *self = Self::new(self.offered, &sizes);
    }

    /// The features that the driver took.
    pub fn features(&self) -> u64 {
        self.accepted
    }

    /// Whether the driver is ready, and nothing has gone wrong.
    pub fn is_running(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.is_lost()
    }

    /// Whether the driver may write the configuration space.
    pub fn takes_config(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_DRIVER) && !self.is_lost()
    }

    /// Notes that only a reset helps; says whether the driver has to be told.
    pub fn needs_reset(&mut self) -> bool {
        self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        self.has(VIRTIO_CONFIG_S_DRIVER_OK)
    }

    /// The queues that the driver set up, by index.
    pub fn queues(&self, memory: &GuestMemory) -> Vec<Option<Queue>> {
        let queue =
            |queue: &QueueRegisters| queue.ready.then(|| queue.queue(memory, self.accepted)).flatten();
        self.queues.iter().map(queue).collect()
    }

    /// What the registers that have state of their own read as; `None` for all others.
    pub fn read(&self, offset: u32) -> Option<u32> {
        let queue = self.queue();
        Some(match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES => half(self.offered, self.offered_half),
            reg::VIRTIO_MMIO_QUEUE_NUM_MAX => queue.map_or(0, |queue| queue.max.into()),
            reg::VIRTIO_MMIO_QUEUE_READY => queue.is_some_and(|queue| queue.ready).into(),
            reg::VIRTIO_MMIO_STATUS => self.status,
            _ => return None,
        })
    }

    /// Takes a write.
    pub fn write(&mut self, offset: u32, value: u32, memory: &GuestMemory) -> Effect {
        match offset {
            reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.offered_half = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.accepted_half = value,
            reg::VIRTIO_MMIO_QUEUE_SEL => self.selected = value,
            reg::VIRTIO_MMIO_DRIVER_FEATURES => return self.accept(value),
            reg::VIRTIO_MMIO_STATUS => return self.step(value),
            reg::VIRTIO_MMIO_QUEUE_READY => return self.ready(value, memory),
            _ => return self.describe(offset, value),
        }
        Effect::None
    }

    fn accept(&mut self, value: u32) -> Effect {
        if !self.has(VIRTIO_CONFIG_S_DRIVER) || self.has(VIRTIO_CONFIG_S_FEATURES_OK) || self.is_lost() {
            return Effect::Refused;
        }
        let value = u64::from(value);
        match self.accepted_half {
            0 => self.accepted = self.accepted & !0xffff_ffff | value,
            1 => self.accepted = self.accepted & 0xffff_ffff | value << 32,
            // There are no features there: taking none is all one can do.
            _ if value == 0 => {}
            _ => return Effect::Refused,
        }
        Effect::None
    }

    fn step(&mut self, value: u32) -> Effect {
        if value == 0 {
            return Effect::Reset;
        }
        let mut effect = Effect::None;
        // The driver doesn't set DEVICE_NEEDS_RESET, and may or may not repeat it.
        let set = self.status & !VIRTIO_CONFIG_S_NEEDS_RESET;
        if value & set != set {
            return Effect::Refused;
        }
        for (at, bit) in STEPS.into_iter().enumerate() {
            if value & bit == 0 || self.has(bit) {
                continue;
            }
            let before = STEPS[..at].iter().fold(0, |bits, bit| bits | bit);
            let acceptable = bit != VIRTIO_CONFIG_S_FEATURES_OK || self.features_are_good();
            if self.is_lost() || self.status & before != before || !acceptable {
                // Not setting FEATURES_OK is how features are declined (virtio 1.3, 3.1.1).
                return Effect::Refused;
            }
            self.status |= bit;
            if bit == VIRTIO_CONFIG_S_DRIVER_OK {
                effect = Effect::Activate;
            }
        }
        self.status |= value & VIRTIO_CONFIG_S_FAILED;
        effect
    }

    /// Nothing that was not offered, and never the legacy interface.
    fn features_are_good(&self) -> bool {
        self.accepted & !self.offered == 0 && self.accepted & (1 << VIRTIO_F_VERSION_1) != 0
    }

    fn ready(&mut self, value: u32, memory: &GuestMemory) -> Effect {
        // Linux takes its queues away after the reset that has done so already (vm_del_vq).
        if value == 0 && self.queue().is_some_and(|queue| !queue.ready) {
            return Effect::None;
        }
        if !self.takes_queues() {
            return Effect::Refused;
        }
        let Some(queue) = self.queue_mut() else { return Effect::Refused };
        match value {
            0 => queue.ready = false,
            1 if queue.check(memory).is_some() => queue.ready = true,
            1 => {
                self.needs_reset();
                return Effect::Broken;
            }
            _ => return Effect::Refused,
        }
        Effect::None
    }

    fn describe(&mut self, offset: u32, value: u32) -> Effect {
        if !self.takes_queues() {
            return Effect::Refused;
        }
        let Some(queue) = self.queue_mut().filter(|queue| !queue.ready) else { return Effect::Refused };
        let low = |address: &mut u64| *address = *address & !0xffff_ffff | u64::from(value);
        let high = |address: &mut u64| *address = *address & 0xffff_ffff | u64::from(value) << 32;
        match offset {
            reg::VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            reg::VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut queue.descriptors),
            reg::VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut queue.descriptors),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut queue.available),
            reg::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut queue.available),
            reg::VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut queue.used),
            reg::VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut queue.used),
            _ => return Effect::Refused,
        }
        Effect::None
    }

    fn has(&self, bit: u32) -> bool {
        self.status & bit != 0
    }

    /// Only a reset helps.
    fn is_lost(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_NEEDS_RESET | VIRTIO_CONFIG_S_FAILED)
    }

    fn takes_queues(&self) -> bool {
        self.has(VIRTIO_CONFIG_S_FEATURES_OK) && !self.has(VIRTIO_CONFIG_S_DRIVER_OK) && !self.is_lost()
    }

    fn queue(&self) -> Option<&QueueRegisters> {
        self.queues.get(self.selected as usize)
    }

    fn queue_mut(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(self.selected as usize)
    }
}

/// The 32 feature bits that a selector names.
fn half(features: u64, selector: u32) -> u32 {
    match selector {
        0 => features as u32,
        1 => (features >> 32) as u32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
