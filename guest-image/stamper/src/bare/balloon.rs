//! The balloon's driver (virtio 1.3, 5.5): polled, and one descriptor chain after another, but that it may
//! have several under way at once.

#![expect(unsafe_code, reason = "hands memory to a device, and finds the device by its address")]

use core::ptr::NonNull;

use arrayvec::ArrayVec;
use board::clock::{self, Instant};
use board::ram::Span;
use thiserror::Error;
use virtio_drivers::queue::VirtQueue;
use virtio_drivers::transport::mmio::{MmioTransport, VirtIOHeader};
use virtio_drivers::transport::{DeviceStatus, DeviceType, Transport};

use crate::bare::dma::Identity;

/// The device may rely on hearing of a deflate before a page is used.
pub const MUST_TELL_HOST: u64 = 1 << 0;
/// There is a queue for statistics.
pub const STATS_VQ: u64 = 1 << 1;
/// The driver may deflate when it is short of memory.
pub const DEFLATE_ON_OOM: u64 = 1 << 2;
/// There is a queue for hints.
pub const FREE_PAGE_HINT: u64 = 1 << 3;
/// Free pages hold a value that the device is told.
pub const PAGE_POISON: u64 = 1 << 4;
/// There is a queue for reports.
pub const PAGE_REPORTING: u64 = 1 << 5;
/// Not a legacy device.
const VERSION_1: u64 = 1 << 32;
/// All that this driver knows.
pub const KNOWN: u64 =
    MUST_TELL_HOST | STATS_VQ | DEFLATE_ON_OOM | FREE_PAGE_HINT | PAGE_POISON | PAGE_REPORTING;

/// Offsets in the configuration space (virtio 1.3, 5.5.4).
const NUM_PAGES: usize = 0;
const ACTUAL: usize = 4;
const FREE_PAGE_HINT_CMD_ID: usize = 8;
const POISON_VAL: usize = 12;

/// The command ids that name no round of hinting.
pub const HINT_STOP: u32 = 0;
/// The device needs no hint any more.
pub const HINT_DONE: u32 = 1;

/// Entries of each queue.
const ENTRIES: usize = 32;
/// Page numbers of one descriptor: as many as Linux sends.
pub const PFNS: usize = 256;
/// The most ranges of one report or hint.
pub const RANGES: usize = 16;
/// The statistics of virtio 1.3, by their tags, and those that Linux has added.
const STATISTICS: usize = 16;

/// How long a device may take for a buffer.
const PATIENCE_MICROS: u64 = 60_000_000;
/// How often the used ring is read before the CPU waits between two looks.
const SPINS: u32 = 2000;

/// What the driver can't live with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DriverError {
    /// There is no balloon.
    #[error("no balloon: none of {windows} virtio-mmio windows has one")]
    NoDevice {
        /// Windows that were looked at.
        windows: usize,
    },
    /// The device refuses the features.
    #[error("kind=features the device refuses {0:#x}, a subset of what it offers")]
    Features(u64),
    /// The transport or a queue.
    #[error("kind=driver queue={queue}: {error}")]
    Queue {
        /// The queue's name.
        queue: &'static str,
        /// What went wrong.
        error: virtio_drivers::Error,
    },
    /// The device keeps a buffer.
    #[error("kind=kept queue={queue}: the device has not returned a buffer in {PATIENCE_MICROS} us")]
    Kept {
        /// The queue's name.
        queue: &'static str,
    },
    /// The device has returned a buffer that it did not have.
    #[error("kind=returned-twice queue={queue}: the device has returned a buffer that it did not have")]
    Returned {
        /// The queue's name.
        queue: &'static str,
    },
    /// The device says that it has written where there was nothing to write.
    #[error("kind=used-length queue={queue} used={used} most={most}")]
    Used {
        /// The queue's name.
        queue: &'static str,
        /// What it says.
        used: u32,
        /// Bytes that it could write.
        most: u32,
    },
    /// A reset never ends.
    #[error("kind=reset the device has not been reset in {PATIENCE_MICROS} us")]
    Reset,
    /// The device has given up.
    #[error("kind=needs-reset the device wants to be reset")]
    NeedsReset,
}

/// One queue.
#[derive(Debug)]
struct Queue {
    name: &'static str,
    number: u16,
    ring: VirtQueue<Identity, ENTRIES>,
}

impl Queue {
    fn error(&self, error: virtio_drivers::Error) -> DriverError {
        match error {
            virtio_drivers::Error::WrongToken => DriverError::Returned { queue: self.name },
            error => DriverError::Queue { queue: self.name, error },
        }
    }

    /// Nothing is under way: nothing may come back.
    fn expect_nothing(&self) -> Result<(), DriverError> {
        if self.ring.can_pop() { Err(DriverError::Returned { queue: self.name }) } else { Ok(()) }
    }

    /// Waits for the device to use something.
    fn wait(&self, transport: &MmioTransport<'_>) -> Result<(), DriverError> {
        for _ in 0..SPINS {
            if self.ring.can_pop() {
                return Ok(());
            }
            core::hint::spin_loop();
        }
        let start = Instant::now();
        while !self.ring.can_pop() {
            if transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
                return Err(DriverError::NeedsReset);
            }
            if start.micros() > PATIENCE_MICROS {
                return Err(DriverError::Kept { queue: self.name });
            }
            clock::sleep(100);
        }
        Ok(())
    }

    /// Sends buffers to be read, each in a chain of its own, and waits for all of them.
    fn send(&mut self, transport: &mut MmioTransport<'_>, buffers: &[&[u8]]) -> Result<(), DriverError> {
        self.expect_nothing()?;
        let mut tokens = ArrayVec::<u16, ENTRIES>::new();
        for buffer in buffers {
            // SAFETY: the buffers outlive this function, which takes all of them back before it returns, or
            // never comes back here: an error ends the run.
            let token = unsafe { self.ring.add(&[buffer], &mut []) }.map_err(|error| self.error(error))?;
            tokens.push(token);
        }
        if self.ring.should_notify() {
            transport.notify(self.number);
        }
        for (&token, buffer) in tokens.iter().zip(buffers) {
            self.wait(transport)?;
            // SAFETY: this buffer was added for this token.
            let used = unsafe { self.ring.pop_used(token, &[buffer], &mut []) }
                .map_err(|error| self.error(error))?;
            if used != 0 {
                return Err(DriverError::Used { queue: self.name, used, most: 0 });
            }
        }
        self.expect_nothing()
    }

    /// Lends memory, all of it in one chain, and returns how much of it the device says that it has written.
    ///
    /// # Safety
    ///
    /// The ranges are mapped memory that nobody uses.
    unsafe fn lend(
        &mut self,
        transport: &mut MmioTransport<'_>,
        ranges: &[Span],
    ) -> Result<u32, DriverError> {
        self.expect_nothing()?;
        let count = ranges.len().min(RANGES);
        // An array: the crate borrows it for as long as it lives, which a list that is dropped can't bear.
        let mut buffers: [&mut [u8]; RANGES] = core::array::from_fn(|at| match ranges.get(at) {
            // SAFETY: mapped memory that nobody uses, by the contract of this function.
            Some(range) => unsafe {
                core::slice::from_raw_parts_mut(range.start as *mut u8, range.size() as usize)
            },
            None => &mut [],
        });
        // SAFETY: as in `send`.
        let token =
            unsafe { self.ring.add(&[], &mut buffers[..count]) }.map_err(|error| self.error(error))?;
        if self.ring.should_notify() {
            transport.notify(self.number);
        }
        self.wait(transport)?;
        // SAFETY: these buffers were added for this token.
        let used = unsafe { self.ring.pop_used(token, &[], &mut buffers[..count]) };
        let used = used.map_err(|error| self.error(error))?;
        let most = ranges[..count].iter().map(|range| range.size() as u32).sum();
        if used > most {
            return Err(DriverError::Used { queue: self.name, used, most });
        }
        self.expect_nothing()?;
        Ok(used)
    }
}

/// The queue of statistics, and the buffer that the device has.
#[derive(Debug)]
struct Statistics {
    queue: Queue,
    buffer: &'static mut [u8; STATISTICS * 10],
    token: u16,
}

/// A balloon that is driven.
#[derive(Debug)]
pub struct Balloon {
    transport: MmioTransport<'static>,
    features: u64,
    inflate: Option<Queue>,
    deflate: Option<Queue>,
    statistics: Option<Statistics>,
    hint: Option<Queue>,
    report: Option<Queue>,
    /// The command id of the round of hints that was done last.
    hinted: u32,
    /// Answers that were given for statistics.
    answers: u64,
}

impl Balloon {
    /// Finds the first balloon in these windows, and resets it.
    ///
    /// # Safety
    ///
    /// The windows are mapped as device memory at their own address for good, and nobody else drives what is
    /// in there.
    pub unsafe fn find(windows: &[Span]) -> Result<Self, DriverError> {
        let transport = windows.iter().find_map(|window| {
            let header = NonNull::new(window.start as *mut VirtIOHeader)?;
            // SAFETY: the caller has mapped the window, and it is ours; the device tree aligns it.
            let transport = unsafe { MmioTransport::new(header, window.size() as usize) };
            // What is no balloon is left alone; dropping it would reset it.
            let transport = core::mem::ManuallyDrop::new(transport.ok()?);
            let is_balloon = transport.device_type() == DeviceType::MemoryBalloon;
            is_balloon.then(|| core::mem::ManuallyDrop::into_inner(transport))
        });
        let transport = transport.ok_or(DriverError::NoDevice { windows: windows.len() })?;
        let mut balloon = Self {
            transport,
            features: 0,
            inflate: None,
            deflate: None,
            statistics: None,
            hint: None,
            report: None,
            hinted: HINT_DONE,
            answers: 0,
        };
        balloon.reset()?;
        Ok(balloon)
    }

    /// What the device offers of what the driver knows.
    pub fn offered(&mut self) -> u64 {
        self.transport.read_device_features() & KNOWN
    }

    /// Drives the device, which is reset, with `features`, a subset of what is offered; free pages hold
    /// `poison` where that is among them.
    pub fn bind(&mut self, features: u64, poison: u32) -> Result<(), DriverError> {
        let transport = &mut self.transport;
        let mut status = DeviceStatus::ACKNOWLEDGE | DeviceStatus::DRIVER;
        transport.set_status(status);
        transport.write_driver_features(features | VERSION_1);
        status |= DeviceStatus::FEATURES_OK;
        transport.set_status(status);
        if !transport.get_status().contains(DeviceStatus::FEATURES_OK) {
            return Err(DriverError::Features(features));
        }
        // Queues are numbered without gaps: one whose feature was not taken has no number (as Linux does).
        let mut number = 0;
        let mut queue = |name, transport: &mut MmioTransport<'static>| {
            let ring = VirtQueue::new(transport, number, false, false)
                .map_err(|error| DriverError::Queue { queue: name, error })?;
            let mut queue = Queue { name, number, ring };
            // Everything here is polled.
            queue.ring.set_dev_notify(false);
            number += 1;
            Ok(Some(queue))
        };
        self.inflate = queue("inflate", transport)?;
        self.deflate = queue("deflate", transport)?;
        let statistics = if features & STATS_VQ != 0 { queue("statistics", transport)? } else { None };
        self.hint = if features & FREE_PAGE_HINT != 0 { queue("hint", transport)? } else { None };
        self.report = if features & PAGE_REPORTING != 0 { queue("report", transport)? } else { None };
        if features & PAGE_POISON != 0 {
            transport
                .write_config_space(POISON_VAL, poison)
                .map_err(|error| DriverError::Queue { queue: "configuration", error })?;
        }
        self.features = features;
        transport.set_status(status | DeviceStatus::DRIVER_OK);
        if let Some(queue) = statistics {
            self.answer(queue, 0, 0)?;
        }
        Ok(())
    }

    /// Takes the device away from whatever it does. Whatever the balloon had is the guest's again.
    pub fn reset(&mut self) -> Result<(), DriverError> {
        self.transport.set_status(DeviceStatus::empty());
        let start = Instant::now();
        while self.transport.get_status() != DeviceStatus::empty() {
            if start.micros() > PATIENCE_MICROS {
                return Err(DriverError::Reset);
            }
            clock::sleep(100);
        }
        // Their memory may be used again only now.
        (self.inflate, self.deflate, self.statistics, self.hint, self.report) =
            (None, None, None, None, None);
        self.features = 0;
        self.hinted = HINT_DONE;
        Ok(())
    }

    /// The features that were taken.
    pub const fn features(&self) -> u64 {
        self.features
    }

    /// Answers that were given for statistics.
    pub const fn answers(&self) -> u64 {
        self.answers
    }

    /// Pages that the device wants in the balloon.
    pub fn target(&self) -> u32 {
        self.read(NUM_PAGES)
    }

    /// Tells how many pages the balloon has.
    pub fn set_actual(&mut self, pages: u32) -> Result<(), DriverError> {
        self.transport
            .write_config_space(ACTUAL, pages)
            .map_err(|error| DriverError::Queue { queue: "configuration", error })
    }

    /// Puts pages into the balloon: lists of page numbers, little endian.
    pub fn inflate(&mut self, lists: &[&[u8]]) -> Result<(), DriverError> {
        self.inflate.as_mut().map_or(Ok(()), |queue| queue.send(&mut self.transport, lists))
    }

    /// Takes pages out of the balloon.
    pub fn deflate(&mut self, lists: &[&[u8]]) -> Result<(), DriverError> {
        self.deflate.as_mut().map_or(Ok(()), |queue| queue.send(&mut self.transport, lists))
    }

    /// Reports free pages, and returns how many bytes, from the first on, the device has cleared; `None` where
    /// it takes no reports.
    ///
    /// # Safety
    ///
    /// The ranges are mapped memory that nobody uses; they hold anything, or the poison value, afterwards.
    pub unsafe fn report(&mut self, ranges: &[Span]) -> Result<Option<u32>, DriverError> {
        let Some(queue) = &mut self.report else { return Ok(None) };
        // SAFETY: by the contract of this function.
        unsafe { queue.lend(&mut self.transport, ranges) }.map(Some)
    }

    /// The id of a round of hints that the device wants and has not had.
    pub fn hint_wanted(&self) -> Option<u32> {
        self.hint.as_ref()?;
        let id = self.read(FREE_PAGE_HINT_CMD_ID);
        (id > HINT_DONE && id != self.hinted).then_some(id)
    }

    /// Hints free pages as the round `id`, all of it.
    ///
    /// # Safety
    ///
    /// The ranges are mapped memory that nobody uses; they hold anything afterwards.
    pub unsafe fn hint(&mut self, id: u32, ranges: &[Span]) -> Result<(), DriverError> {
        let Some(queue) = &mut self.hint else { return Ok(()) };
        queue.send(&mut self.transport, &[&id.to_le_bytes()])?;
        for range in ranges {
            // SAFETY: by the contract of this function.
            unsafe { queue.lend(&mut self.transport, core::slice::from_ref(range)) }?;
        }
        queue.send(&mut self.transport, &[&HINT_STOP.to_le_bytes()])?;
        self.hinted = id;
        Ok(())
    }

    /// Answers the device, where it wants statistics, with this much free and total memory in bytes; and looks
    /// whether it is well.
    pub fn attend(&mut self, free: u64, total: u64) -> Result<(), DriverError> {
        if self.transport.get_status().contains(DeviceStatus::DEVICE_NEEDS_RESET) {
            return Err(DriverError::NeedsReset);
        }
        let Some(mut statistics) = self.statistics.take_if(|statistics| statistics.queue.ring.can_pop())
        else {
            return Ok(());
        };
        let Statistics { queue, buffer, token } = &mut statistics;
        // SAFETY: the buffer that was added for this token.
        let used = unsafe { queue.ring.pop_used(*token, &[&buffer[..]], &mut []) };
        let used = used.map_err(|error| queue.error(error))?;
        if used != 0 {
            return Err(DriverError::Used { queue: queue.name, used, most: 0 });
        }
        queue.expect_nothing()?;
        self.answers += 1;
        self.answer(statistics.queue, free, total)
    }

    /// Gives the device the statistics, to keep until it wants new ones.
    fn answer(&mut self, mut queue: Queue, free: u64, total: u64) -> Result<(), DriverError> {
        /// MEMFREE and MEMTOT; AVAIL is the same as the former here.
        const FREE: [u16; 2] = [4, 6];
        const TOTAL: u16 = 5;
        static mut BUFFER: [u8; STATISTICS * 10] = [0; STATISTICS * 10];
        let buffer = &raw mut BUFFER;
        // SAFETY: there is one driver, on one CPU, and one queue of statistics that has the buffer: it was
        // dropped, or has given it back, before this is called again.
        let buffer = unsafe { &mut *buffer };
        for (entry, tag) in buffer.chunks_exact_mut(10).zip(0u16..) {
            let value = if FREE.contains(&tag) { free } else { u64::from(tag == TOTAL) * total };
            entry[..2].copy_from_slice(&tag.to_le_bytes());
            entry[2..].copy_from_slice(&value.to_le_bytes());
        }
        // SAFETY: it is static, and left alone until it comes back.
        let token = unsafe { queue.ring.add(&[&buffer[..]], &mut []) }.map_err(|error| queue.error(error))?;
        if queue.ring.should_notify() {
            self.transport.notify(queue.number);
        }
        self.statistics = Some(Statistics { queue, buffer, token });
        Ok(())
    }

    fn read(&self, offset: usize) -> u32 {
        // There is no device whose configuration ends before one of these, but for the last two; a device that
        // lacks them wants nothing.
        self.transport.read_config_space(offset).unwrap_or(0)
    }
}
