//! A disk (virtio 1.3, 5.2) on a raw file or a block device.
//!
//! Requests are carried out one after the other on the device thread, by ordinary reads and writes of
//! the host's page cache; one that takes long holds up the other devices, but no vCPU.
//!
//! | module | what it holds |
//! |---|---|
//! | [`disk`] | the file: opened, checked, locked |
//! | `request` | what the driver asks for, and what comes of it |

pub mod disk;
mod request;

use std::sync::Arc;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use crate::config::DiskConfig;

use super::device::{Activation, ConfigSpace, Stop, VirtioDevice};
use super::queue::{self, Progress, VirtQueue};

pub use disk::{Disk, Error};
use request::{MAX_DISCARD, MAX_RANGES, MAX_ZEROES};

/// Entries of the one queue.
const QUEUE: u16 = 256;

/// A block device: one queue.
#[derive(Debug)]
pub struct Block {
    disk: Disk,
    driver: Option<Driver>,
}

#[derive(Debug)]
struct Driver {
    queue: VirtQueue,
    stop: Stop,
    /// The driver doesn't flush: what it has written has to be on the medium when it is told so
    /// (virtio 1.3, 5.2.6.2).
    writes_through: bool,
}

impl Block {
    /// Opens and locks the disk that `config` names.
    ///
    /// # Errors
    ///
    /// [`Error`] says what is wrong with it.
    pub fn open(config: &DiskConfig) -> Result<Self, Error> {
        Ok(Self { disk: Disk::open(config)?, driver: None })
    }
}

impl VirtioDevice for Block {
    fn id(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn features(&self) -> u64 {
        let always = 1 << VIRTIO_BLK_F_SEG_MAX | 1 << VIRTIO_BLK_F_BLK_SIZE | 1 << VIRTIO_BLK_F_FLUSH;
        always
            | if self.disk.is_read_only() {
                1 << VIRTIO_BLK_F_RO
            } else {
                1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES
            }
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE]
    }

    /// struct virtio_blk_config (virtio 1.3, 5.2.4) up to write_zeroes_may_unmap, little-endian.
    fn config(&self) -> Arc<dyn ConfigSpace> {
        let mut config = vec![0; 60];
        let mut put = |at: usize, bytes: &[u8]| config[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.disk.sectors().to_le_bytes());
        // Header and status take one descriptor each.
        put(12, &u32::from(QUEUE - 2).to_le_bytes());
        put(20, &(Disk::SECTOR as u32).to_le_bytes());
        put(36, &MAX_DISCARD.to_le_bytes());
        put(40, &MAX_RANGES.to_le_bytes());
        put(44, &1u32.to_le_bytes());
        put(48, &MAX_ZEROES.to_le_bytes());
        put(52, &MAX_RANGES.to_le_bytes());
        put(56, &[1]);
        Arc::new(config)
    }

    fn activate(&mut self, activation: Activation) {
        let Activation { features, queues, stop, .. } = activation;
        let writes_through = features & (1 << VIRTIO_BLK_F_FLUSH) == 0;
        let queue = queues.into_iter().next().flatten();
        self.driver = queue.map(|queue| Driver { queue, stop, writes_through });
    }

    fn handle_queue(&mut self, _: usize) -> Result<Progress, queue::Error> {
        let Self { disk, driver: Some(driver) } = self else { return Ok(Progress::Idle) };
        let Driver { queue, stop, writes_through } = driver;
        queue.serve(|memory, chain| request::carry_out(disk, memory, chain, stop, *writes_through))
    }

    fn reset(&mut self) {
        self.driver = None;
    }
}

#[cfg(test)]
mod tests;
