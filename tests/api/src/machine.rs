//! A machine like the real one, but for KVM: its vCPU threads pass the gate and count, and its main loop
//! attends to its control.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, JoinHandle};

use crate::guest::Guest;
use quire::config::VmConfig;
use quire::machine::control::{Control, Order};
use quire::machine::gate::{Clock, Gate, Pass};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// What the vCPU threads of all power-ons share.
#[derive(Default)]
pub struct World {
    /// Passes of any vCPU.
    pub steps: AtomicU64,
    /// Set by a test while no vCPU may run.
    pub must_stand: AtomicBool,
    /// Passes of a vCPU while it was set.
    pub violations: AtomicU64,
    /// The virtual counter: read once when all stand, set once before anybody runs.
    pub clock: Mutex<Vec<ClockEvent>>,
    /// One vCPU ends with this, then it is taken back.
    wish: Mutex<Option<End>>,
    /// How often the machine was powered on.
    pub power_ons: AtomicUsize,
}

/// What was done to the virtual counter, and the count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockEvent {
    /// It was read, by the machine that pauses.
    Read(u64),
    /// It was set, by the machine that goes on.
    Set(u64),
}

/// How a guest ends a life of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The machine is switched on again.
    Reset,
    /// It is not.
    PowerOff,
}

impl Clock for World {
    fn read(&self) -> Option<u64> {
        let count = self.steps.load(Ordering::SeqCst);
        self.clock.lock().unwrap().push(ClockEvent::Read(count));
        Some(count)
    }

    fn set(&self, count: u64) {
        self.clock.lock().unwrap().push(ClockEvent::Set(count));
    }
}

/// The machine; it is stopped where it is dropped.
pub struct Machine {
    /// What the API asks.
    pub control: Control,
    /// What its vCPUs have seen.
    pub world: Arc<World>,
    /// Memory and balloon.
    pub guest: Guest,
    main: Option<JoinHandle<&'static str>>,
}

impl Machine {
    /// A machine of the default configuration that is switched on, of `vcpus` vCPUs.
    pub fn start(vcpus: usize) -> Self {
        Self::of(VmConfig::default(), vcpus)
    }

    /// A machine of this configuration that is switched on, of `vcpus` vCPUs.
    pub fn of(config: VmConfig, vcpus: usize) -> Self {
        let guest = Guest::new(&config);
        let control = Control::new(config).unwrap();
        control.equip(guest.parts.clone());
        let world = Arc::new(World::default());
        let (theirs, their_world) = (control.clone(), world.clone());
        let main = thread::spawn(move || {
            let why = live(&theirs, &their_world, vcpus);
            theirs.end();
            why
        });
        let machine = Self { control, world, guest, main: Some(main) };
        machine.wait_for_steps();
        machine
    }

    /// Waits until a vCPU has run since the call.
    pub fn wait_for_steps(&self) {
        let before = self.world.steps.load(Ordering::SeqCst);
        while self.world.steps.load(Ordering::SeqCst) == before {
            thread::yield_now();
        }
    }

    /// Has the guest reset or power off the machine.
    pub fn wish(&self, end: End) {
        *self.world.wish.lock().unwrap() = Some(end);
    }

    /// Waits for the end: why it came.
    pub fn join(mut self) -> &'static str {
        self.main.take().unwrap().join().unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(main) = self.main.take() {
            let _ = self.control.stop();
            let _ = main.join();
        }
    }
}

fn live(control: &Control, world: &Arc<World>, vcpus: usize) -> &'static str {
    loop {
        world.power_ons.fetch_add(1, Ordering::SeqCst);
        let gate = Arc::new(control.gate(vcpus));
        let (sender, ends) = mpsc::channel();
        let threads: Vec<_> = (0..vcpus)
            .map(|_| {
                let (gate, world, sender, control) =
                    (gate.clone(), world.clone(), sender.clone(), control.clone());
                thread::spawn(move || {
                    if let Some(end) = vcpu(&gate, &world) {
                        sender.send(end).unwrap();
                        control.wake();
                    }
                    gate.leave();
                })
            })
            .collect();
        let end = wait(control, &gate, &ends);
        gate.stop();
        for thread in threads {
            thread.join().unwrap();
        }
        match end {
            None => return "asked",
            Some(End::PowerOff) => return "power-off",
            Some(End::Reset) => {}
        }
    }
}

fn vcpu(gate: &Gate, world: &World) -> Option<End> {
    loop {
        if gate.pass(world) == Pass::Stop {
            return None;
        }
        if world.must_stand.load(Ordering::SeqCst) {
            world.violations.fetch_add(1, Ordering::SeqCst);
        }
        world.steps.fetch_add(1, Ordering::SeqCst);
        if let Some(end) = world.wish.lock().unwrap().take() {
            return Some(end);
        }
        thread::yield_now();
    }
}

fn wait(control: &Control, gate: &Gate, ends: &mpsc::Receiver<End>) -> Option<End> {
    let epoll = Epoll::new().unwrap();
    epoll.ctl(ControlOperation::Add, control.event().as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
    loop {
        epoll.wait(-1, &mut [EpollEvent::default()]).unwrap();
        if let Ok(end) = ends.try_recv() {
            return Some(end);
        }
        if control.attend(gate) == Order::Stop {
            return None;
        }
    }
}
