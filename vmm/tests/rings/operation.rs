//! Bytes become what a driver and a controller do.

use arbitrary::{Result, Unstructured};
use quire::config::{BalloonConfig, BlockSize, Repopulate};

use super::ground::{BASE, SIZE};

/// Queues of a balloon.
pub(crate) const QUEUES: usize = 5;

/// The balloon that there is.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) config: BalloonConfig,
    /// Features that the first driver takes.
    pub(crate) features: u64,
}

impl Setup {
    pub(crate) fn decode(u: &mut Unstructured<'_>) -> Result<Self> {
        let bits: u8 = u.arbitrary()?;
        let on = |bit: u32| bits & 1 << bit != 0;
        let config = BalloonConfig {
            size: 256 << 10,
            stats: u64::from(on(0)),
            report: on(1),
            hint: on(2),
            deflate_on_oom: true,
            block: if on(3) { BlockSize::Size64K } else { BlockSize::Size4K },
            repopulate: if on(4) { Repopulate::Block } else { Repopulate::Off },
            must_tell_host: !on(5),
        };
        Ok(Self { config, features: feature_bits(u)? })
    }
}

fn feature_bits(u: &mut Unstructured<'_>) -> Result<u64> {
    let bits: u8 = u.arbitrary()?;
    // The balloon's own, and with the upper two indirect descriptors and event indices.
    Ok(u64::from(bits & 0x3f) | u64::from(bits >> 6) << 28)
}

/// One descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) is_write: bool,
}

/// What happens next.
#[derive(Debug)]
pub(crate) enum Operation {
    /// A list of page numbers on a queue, runs of pages.
    Pages { queue: usize, runs: Vec<(u32, u8)> },
    /// A command on a queue: 0, 1, the one that the device shows, or anything.
    Command { queue: usize, command: Option<u32> },
    /// Statistics on a queue: bytes.
    Statistics { queue: usize, bytes: Vec<u8> },
    /// Any chain on a queue.
    Chain { queue: usize, parts: Vec<Part> },
    /// A write to a table or ring, behind the driver's back.
    Ring { queue: usize, offset: u16, value: u64 },
    /// A notification.
    Notify { queue: u8 },
    /// A write to a register or the configuration.
    Register { offset: u16, len: u8, value: u64 },
    /// A reset and another handshake.
    Restart { features: u64 },
    /// One of the device's own events.
    Event { index: usize },
    /// A wish from outside.
    Target { bytes: u64 },
    /// Hinting from outside.
    Hinting { start: bool, acknowledge: bool },
    /// The guest writes to a page of its own.
    Stamp { page: u8, value: u8 },
}

impl Operation {
    pub(crate) fn decode(u: &mut Unstructured<'_>) -> Result<Self> {
        let kind: u8 = u.arbitrary()?;
        let queue = usize::from(kind >> 5) % QUEUES;
        Ok(match kind % 32 {
            0..=9 => {
                let count = u.int_in_range(1..=6)?;
                let run = |u: &mut Unstructured<'_>| Ok((number(u)?, u.arbitrary::<u8>()? % 20));
                // Inflate and deflate, mostly: elsewhere it is one more chain.
                let queue = if queue == 4 { 4 } else { queue % 2 };
                Self::Pages { queue, runs: (0..count).map(|_| run(u)).collect::<Result<_>>()? }
            }
            10..=12 => {
                let choice: u8 = u.arbitrary()?;
                let command = match choice % 4 {
                    0 => Some(0),
                    1 => Some(u.arbitrary()?),
                    _ => None,
                };
                Self::Command { queue: 2 + queue % 3, command }
            }
            13 => {
                let len = u.int_in_range(0..=40)?;
                Self::Statistics { queue: 2 + queue % 3, bytes: u.bytes(len.min(u.len()))?.to_vec() }
            }
            14..=18 => {
                let count = u.int_in_range(1..=4)?;
                Self::Chain { queue, parts: (0..count).map(|_| part(u)).collect::<Result<_>>()? }
            }
            19 | 20 => Self::Ring { queue, offset: u.arbitrary()?, value: u.arbitrary()? },
            21 => Self::Notify { queue: u.arbitrary()? },
            22 => Self::Register { offset: u.arbitrary()?, len: u.arbitrary()?, value: u.arbitrary()? },
            23 => Self::Restart { features: feature_bits(u)? },
            24 | 25 => Self::Event { index: queue % 3 },
            26 => Self::Target { bytes: target(u)? },
            27 => {
                let bits: u8 = u.arbitrary()?;
                Self::Hinting { start: bits & 3 != 0, acknowledge: bits & 4 != 0 }
            }
            _ => Self::Stamp { page: u.arbitrary()?, value: u.arbitrary::<u8>()? | 1 },
        })
    }
}

/// A page number: in RAM mostly.
fn number(u: &mut Unstructured<'_>) -> Result<u32> {
    let page: u8 = u.arbitrary()?;
    Ok(match page {
        0xff => u.arbitrary()?,
        0xfe => ((BASE + SIZE) >> 12) as u32 - 2,
        0xfd => (BASE >> 12) as u32 - 2,
        page => (BASE >> 12) as u32 + u32::from(page),
    })
}

fn target(u: &mut Unstructured<'_>) -> Result<u64> {
    let pages: u16 = u.arbitrary()?;
    Ok(if pages & 1 == 0 { u64::from(pages >> 7) * 4096 } else { u.arbitrary()? })
}

/// A descriptor: in RAM mostly.
fn part(u: &mut Unstructured<'_>) -> Result<Part> {
    let (kind, page): (u8, u8) = (u.arbitrary()?, u.arbitrary()?);
    let address = BASE + u64::from(page) * 4096;
    let (address, len) = match kind % 8 {
        0 => (address, 4096),
        1 => (address, 0x1_0000),
        2 => (address, u32::from(page) * 7),
        3 => (address + u64::from(kind), 4096 * 3),
        4 => (address & !0xffff, 0x1_0000),
        5 => (BASE + SIZE - 4096, 8192),
        6 => (address, u.arbitrary()?),
        _ => (u.arbitrary()?, u.arbitrary()?),
    };
    Ok(Part { address, len, is_write: kind & 0x80 != 0 })
}
