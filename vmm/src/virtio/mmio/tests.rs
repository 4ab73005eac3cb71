use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use proptest::prelude::*;
use virtio_bindings::virtio_mmio as reg;
use vm_memory::{Bytes, GuestAddress};

use super::super::driver::{BASE, Driver, Part};
use super::super::queue;
use super::*;

/// What a test device was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Activated(u64),
    Queue(usize),
    Event(usize),
    Reset,
}

/// A device that reports what it is told, and returns whatever it is given.
struct Probe {
    told: Sender<Told>,
    queues: Vec<Option<VirtQueue>>,
    stop: Stop,
    own: EventFd,
    /// Where present, a long request: it begins, and goes on until it is released or asked to stop.
    long: Option<(Sender<()>, Receiver<()>)>,
}

impl Probe {
    fn new() -> (Box<Self>, Receiver<Told>) {
        let (told, hear) = channel();
        let own = EventFd::new(EFD_NONBLOCK).unwrap();
        (Box::new(Self { told, queues: Vec::new(), stop: Stop::default(), own, long: None }), hear)
    }
}

/// Eight bytes that the driver may write.
struct Scratch(Mutex<[u8; 8]>);

impl ConfigSpace for Scratch {
    fn read(&self, offset: u64, data: &mut [u8]) {
        lock(&self.0).to_vec().read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some(to) = lock(&self.0).get_mut(offset as usize..).and_then(|to| to.get_mut(..data.len())) {
            to.copy_from_slice(data);
        }
    }
}

impl VirtioDevice for Probe {
    fn id(&self) -> u32 {
        42
    }

    fn features(&self) -> u64 {
        1
    }

    fn queue_sizes(&self) -> &[u16] {
        &[8, 4]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Scratch(Mutex::new(*b"scratch\0")))
    }

    fn activate(&mut self, activation: Activation) {
        self.queues = activation.queues;
        self.stop = activation.stop;
        let _ = self.told.send(Told::Activated(activation.features));
    }

    fn handle_queue(&mut self, index: usize) -> Result<Progress, queue::Error> {
        let _ = self.told.send(Told::Queue(index));
        let (stop, long) = (&self.stop, &self.long);
        let Some(queue) = &mut self.queues[index] else { return Ok(Progress::Idle) };
        queue.serve(|_, chain| {
            if let Some((begun, release)) = long {
                begun.send(()).unwrap();
                while release.try_recv().is_err() {
                    if stop.is_asked() {
                        return None;
                    }
                    thread::yield_now();
                }
            }
            Some(chain.readable.len() as u32)
        })
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.own.as_raw_fd()]
    }

    fn handle_event(&mut self, index: usize) -> Result<(), queue::Error> {
        self.own.read().unwrap();
        let _ = self.told.send(Told::Event(index));
        Ok(())
    }

    fn reset(&mut self) {
        self.queues.clear();
        let _ = self.told.send(Told::Reset);
    }
}

#[test]
fn identifies_itself_and_its_features() {
    let driver = Driver::new(Probe::new().0);
    let words: Vec<_> = [0, 4, 8].map(|offset| driver.get(offset)).to_vec();
    assert_eq!(words, [0x7472_6976, 2, 42]);
    driver.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_DEVICE_FEATURES), 1 | 1 << 28 | 1 << 29);
    driver.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_DEVICE_FEATURES), 1);
    driver.set(reg::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 2);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_DEVICE_FEATURES), 0);
    // No such shared memory, no such queue.
    assert_eq!(driver.get(reg::VIRTIO_MMIO_SHM_LEN_LOW), u32::MAX);
    driver.set(reg::VIRTIO_MMIO_QUEUE_SEL, 2);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_QUEUE_NUM_MAX), 0);
}

#[test]
fn registers_are_accessed_whole_and_aligned_or_not_at_all() {
    let driver = Driver::new(Probe::new().0);
    for (offset, len) in [(0, 1), (0, 2), (0, 8), (2, 4), (1, 4), (0xfd, 4)] {
        let mut data = vec![0; len];
        driver.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{len} bytes at {offset:#x}");
    }
    driver.transport.write(reg::VIRTIO_MMIO_STATUS.into(), &[1]);
    driver.transport.write(u64::from(reg::VIRTIO_MMIO_STATUS) - 4, &[0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn config_space_is_bytes_and_waits_for_a_driver() {
    let driver = Driver::new(Probe::new().0);
    let config = |offset: u64, len: usize| {
        let mut data = vec![0; len];
        driver.transport.read(0x100 + offset, &mut data);
        data
    };
    assert_eq!(
        (config(0, 8), config(3, 2), config(6, 4)),
        (b"scratch\0".to_vec(), b"at".to_vec(), b"h\0\0\0".to_vec())
    );
    assert_eq!(config(0xf8, 8), [0; 8]);
    driver.transport.write(0x100, b"S");
    assert_eq!(config(0, 1), b"s");
    driver.negotiate(1 << 32);
    driver.transport.write(0x100, b"S");
    // Across the end and beyond it: nothing happens.
    driver.transport.write(0x106, b"long");
    driver.transport.write(0x1f8, &[1; 8]);
    assert_eq!(config(0, 8), b"Scratch\0");
}

#[test]
fn device_hears_of_the_driver_when_it_is_ready_and_not_before() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::new(probe);
    driver.negotiate(1 << 32 | 1);
    driver.set_up(0);
    driver.run();
    assert_eq!(told.try_iter().count(), 0);
    driver.set(reg::VIRTIO_MMIO_STATUS, 15);
    driver.settle();
    // Without a notification, and with the one queue that there is.
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Activated(1 << 32 | 1), Told::Queue(0)]);
    driver.run();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Queue(0), Told::Queue(1)]);
}

#[test]
fn every_queue_is_looked_at_once_the_driver_is_ready() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::new(probe);
    driver.negotiate(1 << 32);
    for queue in [0, 1] {
        driver.set_up(queue);
        let at = driver.buffer(8);
        driver.post(queue, &[Part::read(at, 8)]);
    }
    // Too early: there is no device yet that could hear it.
    driver.run();
    driver.set(reg::VIRTIO_MMIO_STATUS, 15);
    driver.settle();
    let heard: Vec<_> = told.try_iter().collect();
    assert_eq!(heard, [Told::Activated(1 << 32), Told::Queue(0), Told::Queue(1)]);
    assert_eq!((driver.used(0).len(), driver.used(1).len()), (1, 1));
}

#[test]
fn a_driver_without_any_queue_is_a_driver() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::new(probe);
    driver.handshake_with(0, []);
    driver.settle();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Activated(1 << 32), Told::Queue(0)]);
}

#[test]
fn events_of_the_device_s_own_reach_it_with_and_without_a_driver() {
    let (probe, told) = Probe::new();
    let event = probe.own.try_clone().unwrap();
    let mut driver = Driver::new(probe);
    event.write(1).unwrap();
    driver.settle();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Event(0)]);
    // It hears of its driver first.
    driver.handshake_with(0, [1]);
    event.write(1).unwrap();
    driver.settle();
    let heard: Vec<_> = told.try_iter().collect();
    assert!(matches!(heard[0], Told::Activated(_)), "{heard:?}");
    assert!(heard.contains(&Told::Event(0)) && heard.contains(&Told::Queue(1)), "{heard:?}");
}

#[test]
fn notification_by_trap_and_by_event_are_the_same() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::start(probe, 0);
    driver.settle();
    told.try_iter().count();
    driver.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, 1);
    driver.settle();
    driver.transport.queue_events()[1].write(1).unwrap();
    driver.settle();
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Queue(1), Told::Queue(1)]);
    for nonsense in [2, 0x1_0000, u32::MAX] {
        driver.set(reg::VIRTIO_MMIO_QUEUE_NOTIFY, nonsense);
    }
    driver.settle();
    assert_eq!(told.try_iter().count(), 0);
}

#[test]
fn must_pass_9_every_head_comes_back_once() {
    let mut driver = Driver::start(Probe::new().0, 0);
    let at = driver.buffer(16);
    let mut heads = Vec::new();
    let mut back = Vec::new();
    for round in 0..10 {
        for _ in 0..1 + round % 4 {
            heads.push(driver.post(0, &[Part::read(at, 8), Part::write(at, 8)]));
        }
        driver.run();
        back.extend(driver.used(0).into_iter().map(|(head, _)| head));
    }
    assert_eq!(back, heads);
}

#[test]
fn must_pass_8_an_available_index_beyond_the_queue_costs_the_device() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::start(probe, 0);
    driver.settle();
    driver.interrupts();
    let (_, available, _) = driver.rings(0);
    driver.memory.write_obj(9u16, GuestAddress(available + 2)).unwrap();
    driver.run();
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 15 | 64);
    // The driver is told, and the device is out of the driver's memory.
    assert_eq!(driver.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), reg::VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(driver.interrupts(), 1);
    assert!(told.try_iter().any(|told| told == Told::Reset));
    driver.run();
    assert_eq!(told.try_iter().count(), 0);
    // A reset is all it takes.
    driver.set(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 0);
    driver.handshake(0);
    let at = driver.buffer(8);
    driver.post(0, &[Part::read(at, 8)]);
    driver.run();
    assert_eq!(driver.used(0).len(), 1);
}

#[test]
fn a_head_beyond_the_table_costs_the_device() {
    for head in [8, 9, u16::MAX] {
        let mut driver = Driver::start(Probe::new().0, 0);
        driver.offer(0, head);
        driver.run();
        assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 15 | 64);
        assert_eq!(driver.used(0), []);
    }
}

#[test]
fn must_pass_8_chains_without_end_come_back() {
    let mut driver = Driver::start(Probe::new().0, 0);
    let at = driver.buffer(0x100);
    let next = |part: Part| Part { flags: part.flags | 1, ..part };
    // Two that name each other, one that names itself, one that leaves the table.
    driver.describe(0, 0, next(Part::read(at, 8)), 1);
    driver.describe(0, 1, next(Part::read(at, 8)), 0);
    driver.describe(0, 2, next(Part::read(at, 8)), 2);
    driver.describe(0, 3, next(Part::read(at, 8)), 8);
    // Indirect tables: nested, odd, empty, nowhere, and one that names itself.
    driver.describe(0, 4, Part::indirect(BASE, 16), 0);
    driver.describe(0, 5, Part::indirect(at, 15), 0);
    driver.describe(0, 6, Part::indirect(0x1000, 16), 0);
    let table = driver.filled(&[at.to_le_bytes(), [8, 0, 0, 0, 1, 0, 0, 0]].concat());
    driver.describe(0, 7, Part::indirect(table, 16), 0);
    driver.memory.write_obj([BASE + 4 * 16, 16 | 4 << 32], GuestAddress(BASE)).unwrap();
    for head in 0..8 {
        driver.offer(0, head);
    }
    driver.run();
    let heads: Vec<_> = driver.used(0).into_iter().map(|(head, _)| head).collect();
    assert_eq!(heads, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 15);
}

#[test]
fn a_queue_that_never_empties_leaves_others_their_turn() {
    let (probe, told) = Probe::new();
    let mut driver = Driver::start(probe, 0);
    driver.settle();
    told.try_iter().count();
    let at = driver.buffer(8);
    for _ in 0..8 {
        driver.post(0, &[Part::read(at, 8)]);
    }
    driver.run();
    // A full queue's worth, then the other, and only then another look.
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [Told::Queue(0), Told::Queue(1), Told::Queue(0)]);
}

#[test]
fn interrupts_are_spared_where_the_driver_says_so() {
    for (features, expected) in [(0, 4), (1 << VIRTIO_RING_F_EVENT_IDX, 1)] {
        let mut driver = Driver::start(Probe::new().0, features);
        driver.settle();
        driver.interrupts();
        let at = driver.buffer(8);
        // With EVENT_IDX: after the first only.
        for _ in 0..4 {
            driver.post(0, &[Part::read(at, 8)]);
        }
        driver.run();
        assert_eq!(driver.used(0).len(), 4);
        assert_eq!(driver.interrupts(), expected);
        assert_eq!(driver.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 1);
        driver.set(reg::VIRTIO_MMIO_INTERRUPT_ACK, 1);
        assert_eq!(driver.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    }
}

#[test]
fn a_config_change_is_seen_by_its_generation() {
    let driver = Driver::new(Probe::new().0);
    let before = driver.get(reg::VIRTIO_MMIO_CONFIG_GENERATION);
    driver.transport.interrupt.config_changed();
    assert_ne!(driver.get(reg::VIRTIO_MMIO_CONFIG_GENERATION), before);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_INTERRUPT_STATUS), 2);
}

#[test]
fn must_pass_11_a_device_that_nobody_drives_resets_at_once() {
    let driver = Driver::new(Probe::new().0);
    driver.transport.reset();
    driver.set(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 0);
}

/// A device in the middle of a long request, on a thread of its own.
fn busy() -> (Driver, Arc<MmioTransport>, thread::JoinHandle<()>, Sender<()>) {
    let (mut probe, _) = Probe::new();
    let (begun, begins) = channel();
    let (release, released) = channel();
    probe.long = Some((begun, released));
    let mut driver = Driver::start(probe, 0);
    let at = driver.buffer(8);
    driver.post(0, &[Part::read(at, 8)]);
    let transport = driver.transport.clone();
    let theirs = transport.clone();
    let device = thread::spawn(move || theirs.work(Task::Queue(0)));
    begins.recv().unwrap();
    (driver, transport, device, release)
}

#[test]
fn no_register_access_waits_for_a_request() {
    let (driver, transport, device, release) = busy();
    // All on this thread, while the device is in its request until it is released.
    for offset in (0..0x200).step_by(4) {
        let mut data = [0; 4];
        transport.read(offset, &mut data);
        if offset != u64::from(reg::VIRTIO_MMIO_STATUS) {
            transport.write(offset, &[0; 4]);
            transport.write(offset, &[0xff; 4]);
        }
    }
    driver.set(reg::VIRTIO_MMIO_STATUS, 15);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 15);
    release.send(()).unwrap();
    device.join().unwrap();
}

#[test]
fn a_reset_ends_the_request_in_flight_and_its_buffers_are_left_alone() {
    let (mut driver, _, device, _release) = busy();
    // It is never released: only the reset ends it.
    driver.set(reg::VIRTIO_MMIO_STATUS, 0);
    assert_eq!(driver.get(reg::VIRTIO_MMIO_STATUS), 0);
    assert_eq!(driver.used(0), []);
    device.join().unwrap();
    assert_eq!(driver.used(0), []);
}

proptest! {
    #[test]
    fn must_pass_13_arbitrary_register_writes_never_panic(
        accesses in proptest::collection::vec(
            (
                prop_oneof![0u64..0x210, Just(0x70u64), Just(0x50), Just(0x44)],
                prop_oneof![Just(4usize), Just(1), Just(2), Just(8)],
                prop_oneof![
                    Just(0u64), Just(1), Just(3), Just(11), Just(15), Just(8), Just(0x8000_0000),
                    Just(0x8000_1000), Just(0x8000_2000), any::<u64>(),
                ],
            ),
            0..300,
        ),
        ring in any::<[u64; 8]>(),
    ) {
        let mut driver = Driver::start(Probe::new().0, 0);
        for at in [BASE, BASE + 0x1000, BASE + 0x2000] {
            driver.memory.write_obj(ring, GuestAddress(at)).unwrap();
        }
        for (offset, len, value) in accesses {
            driver.transport.write(offset, &value.to_le_bytes()[..len]);
            let mut data = vec![0; len];
            driver.transport.read(offset, &mut data);
            driver.settle();
        }
        driver.set(reg::VIRTIO_MMIO_STATUS, 0);
        driver.handshake(0);
        let at = driver.buffer(8);
        driver.post(0, &[Part::read(at, 8)]);
        driver.run();
        prop_assert_eq!(driver.used(0).len(), 1);
    }
}

#[test]
fn must_pass_14_indices_are_whole_while_the_driver_moves_them() {
    // CVE-2020-13759: an index that is read byte by byte is another one where its upper byte changes, and names
    // chains that there are not.
    const CHAINS: u16 = 6000;
    const QUEUE: u16 = 8;
    let mut driver = Driver::start(Probe::new().0, 0);
    driver.settle();
    let at = driver.buffer(8);
    driver.describe(0, 0, Part::read(at, 8), 0);
    let (_, available, used) = driver.rings(0);
    let returned = || driver.memory.load::<u16>(GuestAddress(used + 2), Ordering::Acquire).unwrap();
    let is_lost = || lock(&driver.transport.state).registers.read(reg::VIRTIO_MMIO_STATUS) != Some(15);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_done.load(Ordering::Acquire) {
                driver.transport.work(Task::Queue(0));
            }
        });
        for index in 0..CHAINS {
            while index - returned() == QUEUE && !is_lost() {
                thread::yield_now();
            }
            driver.memory.store(index + 1, GuestAddress(available + 2), Ordering::Release).unwrap();
        }
        is_done.store(true, Ordering::Release);
    });
    driver.run();
    assert_eq!((driver.get(reg::VIRTIO_MMIO_STATUS), driver.used(0).len()), (15, CHAINS.into()));
}
