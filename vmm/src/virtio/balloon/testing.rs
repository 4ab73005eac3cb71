//! A balloon whose memory writes down what is done to it.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use vm_memory::{Bytes, GuestAddress};

use crate::config::BalloonConfig;
use crate::lock::lock;
use crate::memory::GuestMemory;
use crate::virtio::driver::{Driver, SIZE};

use super::memory::{Contract, Failure, Memory};
use super::{Balloon, Control};

/// What was asked of the memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Inflate(Vec<Range<u64>>, Contract),
    Work,
    Settle,
    Deflate(Vec<Range<u64>>),
    Report(Vec<Range<u64>>),
    Hint(Vec<Range<u64>>),
    Forget,
}

/// Memory that does nothing but remember.
#[derive(Default)]
pub(super) struct Recorder {
    /// Each call, with how many chains queues 0 and 1 had returned by then.
    calls: Mutex<Vec<(Call, u16)>>,
    /// Where they count what they have returned.
    returned: Mutex<Option<(GuestMemory, [u64; 2])>>,
    /// How many descriptors were acknowledged.
    acknowledged: AtomicUsize,
    /// What `has_partial` says.
    pub(super) partial: AtomicBool,
    /// All of it fails.
    pub(super) broken: AtomicBool,
    /// What `report` says, where not all of what was named.
    pub(super) cleared: Mutex<Option<u64>>,
}

impl Recorder {
    fn note(&self, call: Call) -> Result<(), Failure> {
        let count = |memory: &GuestMemory, at| memory.read_obj::<u16>(GuestAddress(at)).unwrap();
        let returned = lock(&self.returned)
            .as_ref()
            .map_or(0, |(memory, counters)| counters.iter().map(|&at| count(memory, at)).sum());
        lock(&self.calls).push((call, returned));
        if self.broken.load(Ordering::Relaxed) { Err("broken".into()) } else { Ok(()) }
    }

    /// What was asked since the last time.
    pub(super) fn calls(&self) -> Vec<Call> {
        self.timed().into_iter().map(|(call, _)| call).collect()
    }

    /// How many descriptors were acknowledged since the last time.
    pub(super) fn acknowledgements(&self) -> usize {
        self.acknowledged.swap(0, Ordering::Relaxed)
    }

    /// The same, each with how many chains queues 0 and 1 had returned by then.
    pub(super) fn timed(&self) -> Vec<(Call, u16)> {
        std::mem::take(&mut lock(&self.calls))
    }
}

impl Memory for Recorder {
    fn inflate(&self, ranges: &[Range<u64>], contract: Contract) -> Result<(), Failure> {
        self.note(Call::Inflate(ranges.to_vec(), contract))
    }

    fn work(&self) -> Result<(), Failure> {
        self.note(Call::Work)
    }

    fn settle(&self) -> Result<(), Failure> {
        self.partial.store(false, Ordering::Relaxed);
        self.note(Call::Settle)
    }

    fn has_partial(&self) -> bool {
        self.partial.load(Ordering::Relaxed)
    }

    fn deflate(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        self.note(Call::Deflate(ranges.to_vec()))
    }

    fn report(&self, ranges: &[Range<u64>]) -> Result<u64, Failure> {
        self.note(Call::Report(ranges.to_vec()))?;
        let all = ranges.iter().map(|range| range.end - range.start).sum();
        Ok(lock(&self.cleared).unwrap_or(all))
    }

    fn hint(&self, ranges: &[Range<u64>]) -> Result<(), Failure> {
        self.note(Call::Hint(ranges.to_vec()))
    }

    fn acknowledged(&self, _: Duration) {
        self.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    fn forget(&self) {
        let _ = self.note(Call::Forget);
    }
}

/// A balloon on a test driver.
pub(super) struct Rig {
    pub(super) driver: Driver,
    pub(super) control: Arc<Control>,
    pub(super) memory: Arc<Recorder>,
}

/// Everything on.
pub(super) const ALL: &str = "stats=1,report=on,hint=on,deflate-on-oom=on";

impl Rig {
    /// One that nobody drives yet.
    pub(super) fn new(config: &str) -> Self {
        let config: BalloonConfig = config.parse().unwrap();
        let memory = Arc::new(Recorder::default());
        let (balloon, control) = Balloon::new(&config, SIZE, Arc::clone(&memory) as _).unwrap();
        let driver = Driver::new(Box::new(balloon));
        let counters = [0, 1].map(|queue| driver.rings(queue).2 + 2);
        *lock(&memory.returned) = Some((driver.memory.clone(), counters));
        Self { driver, control, memory }
    }

    /// One whose driver took these features, and is through with the handshake.
    pub(super) fn start(config: &str, features: u64) -> Self {
        let mut rig = Self::new(config);
        rig.handshake(features);
        rig
    }

    pub(super) fn handshake(&mut self, features: u64) {
        self.driver.handshake(features);
        self.driver.settle();
        self.memory.calls();
        self.driver.interrupts();
    }

    /// A buffer with these page numbers.
    pub(super) fn numbers(&mut self, numbers: &[u32]) -> (u64, u32) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        (self.driver.filled(&bytes), bytes.len() as u32)
    }

    /// The word of the configuration at `offset`.
    pub(super) fn config(&self, offset: u32) -> u32 {
        self.driver.get(0x100 + offset)
    }

    /// Writes it.
    pub(super) fn set_config(&self, offset: u32, value: u32) {
        self.driver.set(0x100 + offset, value);
    }

    /// Lets the time come for new statistics.
    pub(super) fn tick(&mut self) {
        let clock = &self.control.0.clock;
        clock.once(std::time::Duration::ZERO);
        poll(&mut [PollFd::new(clock, PollFlags::IN)], None).unwrap();
        self.driver.settle();
    }
}
