//! The device: its queues and events.

use std::fmt;
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;

use crate::config::BalloonConfig;
use crate::faults::{self, Fault};
use crate::memory::GuestMemory;
use crate::virtio::chain::{Buffer, Chain};
use crate::virtio::device::{Activation, ConfigSpace, Stop, VirtioDevice};
use crate::virtio::queue::{self, Head, Progress, VirtQueue};

use super::control::Control;
use super::deadline::Deadline;
use super::features::{self, MUST_TELL_HOST, PAGE_POISON, STATS_VQ};
use super::memory::{Contract, Memory, logged};
use super::numbering::{QUEUES, Role, roles};
use super::pfn::Pfns;
use super::state::{Line, State};
use super::statistics::Statistics;

/// Entries of each queue: Linux sends up to 32 pages in one report, and won't report to a shorter one.
const QUEUE: u16 = 256;

/// What the device watches beside its queues, by index.
const CLOCK: usize = 0;
const REACHED: usize = 1;
const DEADLINE: usize = 2;

/// A balloon device.
pub struct Balloon {
    state: Arc<State>,
    memory: Arc<dyn Memory>,
    deadline: Deadline,
    pfns: Pfns,
    spans: Vec<Range<u64>>,
    driver: Option<Driver>,
    /// A failure has been reported: a guest could fill the log otherwise.
    reported: bool,
}

struct Driver {
    roles: [Option<Role>; QUEUES],
    queues: Vec<Option<VirtQueue>>,
    contract: Contract,
    /// What the guest fills free pages with; 0 where it doesn't.
    poison: u32,
    stop: Stop,
    /// The buffer of statistics that is kept until new ones are wanted.
    answer: Option<Head>,
}

impl Balloon {
    /// A balloon in `ram` bytes of guest memory, which it gives back through `memory`; and what controls it.
    ///
    /// # Errors
    /// No file descriptors to be had.
    pub fn new(
        config: &BalloonConfig,
        ram: u64,
        memory: Arc<dyn Memory>,
    ) -> io::Result<(Self, Arc<Control>)> {
        let state = Arc::new(State::new(config, ram)?);
        let control = Arc::new(Control(Arc::clone(&state)));
        let balloon = Self {
            state,
            memory,
            deadline: Deadline::new()?,
            pfns: Pfns::default(),
            spans: Vec::new(),
            driver: None,
            reported: false,
        };
        Ok((balloon, control))
    }

    /// Pages for the balloon, or out of it.
    fn pages(&mut self, index: usize, inflate: bool) -> Result<Progress, queue::Error> {
        let Self { memory: release, pfns, driver: Some(driver), reported, .. } = self else {
            return Ok(Progress::Idle);
        };
        let Driver { queues, contract, stop, .. } = driver;
        let Some(queue) = queues.get_mut(index).and_then(Option::as_mut) else { return Ok(Progress::Idle) };
        // A guest has no more pages than these: a longer list is nonsense from there on.
        let most = self.state.ram / BalloonConfig::PAGE;
        let mut is_noted = false;
        let progress = serve(queue, &**release, |memory, chain| {
            if !chain.is_sound() {
                return Some(0);
            }
            let whole = pfns.read(&chain.readable, memory, most, |ranges| {
                let done = if inflate { release.inflate(ranges, *contract) } else { release.deflate(ranges) };
                is_noted |= logged(reported, done).is_some();
                !stop.is_asked()
            });
            whole.then_some(0)
        });
        // The guest has been told by now: with MUST_TELL_HOST it goes on while the work is done. Not where
        // somebody waits for a reset: then there is no balloon any more.
        if inflate && is_noted && *contract == Contract::MustTell && !stop.is_asked() {
            logged(reported, release.work());
        }
        self.deadline.update(release.has_partial());
        progress
    }

    /// What the guest says about its memory.
    fn statistics(&mut self, index: usize) -> Result<Progress, queue::Error> {
        let Some(Driver { queues, answer, .. }) = &mut self.driver else { return Ok(Progress::Idle) };
        let Some(queue) = queues.get_mut(index).and_then(Option::as_mut) else { return Ok(Progress::Idle) };
        let state = &self.state;
        queue.take(|queue, chain, head| {
            if chain.is_sound() {
                let statistics = Statistics::read(&chain.readable, queue.memory());
                state.values().statistics = statistics;
            }
            // There should be one at a time: of more, the last is kept.
            if let Some(before) = answer.replace(head) {
                queue.finish(before, 0)?;
            }
            Ok(ControlFlow::Continue(()))
        })
    }

    /// Asks for new statistics: by giving the last ones back.
    fn ask(&mut self) -> Result<(), queue::Error> {
        let Some(Driver { roles, queues, answer, .. }) = &mut self.driver else { return Ok(()) };
        let index = roles.iter().position(|role| *role == Some(Role::Statistics));
        let queue = index.and_then(|index| queues.get_mut(index)).and_then(Option::as_mut);
        match (queue, answer.take()) {
            (Some(queue), Some(head)) => queue.finish(head, 0),
            // The guest still owes an answer.
            _ => Ok(()),
        }
    }

    /// Free pages, when asked: commands of the guest's and pages, in turn.
    fn hints(&mut self, index: usize) -> Result<Progress, queue::Error> {
        let Self { state, memory: release, spans, driver: Some(driver), reported, .. } = self else {
            return Ok(Progress::Idle);
        };
        let Some(queue) = driver.queues.get_mut(index).and_then(Option::as_mut) else {
            return Ok(Progress::Idle);
        };
        serve(queue, &**release, |memory, chain| {
            if !chain.is_sound() {
                return Some(0);
            }
            let mut command = [0; 4];
            if chain.readable.read(memory, 0, &mut command).is_ok() {
                let mut values = state.values();
                let changed = values.hinting.take(u32::from_le_bytes(command));
                let interrupt = values.line().filter(|_| changed);
                drop(values);
                if let Some(interrupt) = interrupt {
                    interrupt.config_changed();
                }
            }
            // Pages of another round are none. And what the guest wants to keep a value has none to lose.
            if !chain.writable.is_empty() && driver.poison == 0 && state.values().hinting.is_on() {
                ranges(&chain.writable, spans);
                logged(reported, release.hint(spans));
            }
            Some(0)
        })
    }

    /// Free pages, unasked.
    fn reports(&mut self, index: usize) -> Result<Progress, queue::Error> {
        let Self { memory: release, spans, driver: Some(driver), reported, .. } = self else {
            return Ok(Progress::Idle);
        };
        let poison = driver.poison;
        let Some(queue) = driver.queues.get_mut(index).and_then(Option::as_mut) else {
            return Ok(Progress::Idle);
        };
        serve(queue, &**release, |_, chain| Some(free(&**release, spans, chain, poison, reported)))
    }
}

/// [Serves](VirtQueue::serve) a queue, and tells the release how long the guest waits for each descriptor.
fn serve(
    queue: &mut VirtQueue,
    release: &dyn Memory,
    mut each: impl FnMut(&GuestMemory, &Chain) -> Option<u32>,
) -> Result<Progress, queue::Error> {
    queue.take(|queue, chain, head| {
        let arrived = Instant::now();
        let Some(written) = each(queue.memory(), chain) else { return Ok(ControlFlow::Break(())) };
        queue.finish(head, written)?;
        release.acknowledged(arrived.elapsed());
        Ok(ControlFlow::Continue(()))
    })
}

/// Gives back what a report names; returns how many bytes, from the first one on, have been made zero by it.
fn free(
    release: &dyn Memory,
    spans: &mut Vec<Range<u64>>,
    chain: &Chain,
    poison: u32,
    reported: &mut bool,
) -> u32 {
    // A page that has a value must not be given another (virtio 1.3, 5.5.6.7), and zero is all that there is.
    if !chain.is_sound() || chain.writable.is_empty() || poison != 0 {
        return 0;
    }
    ranges(&chain.writable, spans);
    let cleared = logged(reported, release.report(spans)).unwrap_or(0);
    // Where a part was left alone nobody knows which: then none of it counts as written. The length has 32
    // bits, and a chain is shorter than that.
    u32::try_from(chain.writable.len()).ok().filter(|&all| cleared >= all.into()).unwrap_or(0)
}

/// The buffer as ranges, each as the guest wrote it; one that leaves the address space ends there.
fn ranges(buffer: &Buffer, spans: &mut Vec<Range<u64>>) {
    spans.clear();
    spans.extend(buffer.pieces(0, u64::MAX, u32::MAX).map(|span| {
        let start = span.address.0;
        start..start.saturating_add(span.len.into())
    }));
}

impl VirtioDevice for Balloon {
    fn id(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn features(&self) -> u64 {
        features::offered(&self.state.config)
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE; QUEUES]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::clone(&self.state) as _
    }

    fn activate(&mut self, activation: Activation) {
        let Activation { features, queues, interrupt, stop } = activation;
        let mut is_ready = [false; QUEUES];
        for (is_ready, queue) in is_ready.iter_mut().zip(&queues) {
            *is_ready = queue.is_some();
        }
        let is_free = features & MUST_TELL_HOST == 0 && !faults::is(Fault::TellFirst);
        let contract = if is_free { Contract::Free } else { Contract::MustTell };
        let mut values = self.state.values();
        let poison = if features & PAGE_POISON == 0 { 0 } else { values.poison };
        values.driver = Some(Line { features, interrupt: Arc::clone(&interrupt) });
        if features & STATS_VQ != 0 {
            self.state.clock.every(Duration::from_secs(values.interval));
        }
        let differs = values.target != values.actual;
        drop(values);
        let roles = roles(features, is_ready);
        self.driver = Some(Driver { roles, queues, contract, poison, stop, answer: None });
        // The driver may have read the target before it was changed the last time.
        if differs {
            interrupt.config_changed();
        }
    }

    fn handle_queue(&mut self, index: usize) -> Result<Progress, queue::Error> {
        let role = self.driver.as_ref().and_then(|driver| driver.roles.get(index).copied().flatten());
        match role {
            Some(Role::Inflate) => self.pages(index, true),
            Some(Role::Deflate) => self.pages(index, false),
            Some(Role::Statistics) => self.statistics(index),
            Some(Role::Hint) => self.hints(index),
            Some(Role::Report) => self.reports(index),
            None => Ok(Progress::Idle),
        }
    }

    fn events(&self) -> Vec<RawFd> {
        vec![self.state.clock.as_raw_fd(), self.state.reached.as_raw_fd(), self.deadline.as_raw_fd()]
    }

    fn handle_event(&mut self, index: usize) -> Result<(), queue::Error> {
        match index {
            CLOCK => {
                self.state.clock.acknowledge();
                return self.ask();
            }
            REACHED => {
                // Nothing to read: it has been handled with what came before.
                let _ = self.state.reached.read();
            }
            DEADLINE => self.deadline.acknowledge(),
            _ => return Ok(()),
        }
        if self.driver.is_some() {
            logged(&mut self.reported, self.memory.settle());
            self.deadline.update(false);
        }
        Ok(())
    }

    fn reset(&mut self) {
        let mut values = self.state.values();
        self.state.clock.every(Duration::ZERO);
        values.driver = None;
        values.actual = 0;
        values.poison = 0;
        values.statistics = Statistics::default();
        values.hinting.reset();
        drop(values);
        self.driver = None;
        self.deadline.update(false);
        self.memory.forget();
    }
}

impl fmt::Debug for Balloon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Balloon").field("state", &self.state).finish_non_exhaustive()
    }
}
