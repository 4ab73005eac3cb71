//! Entropy (virtio 1.3, 5.4), from the host's getrandom.

use std::sync::Arc;

use rustix::rand::{GetRandomFlags, getrandom};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use vm_memory::Bytes;

use crate::memory::GuestMemory;

use super::chain::Chain;
use super::device::{Activation, ConfigSpace, VirtioDevice};
use super::queue::{self, Progress, VirtQueue};

/// Bytes fetched at once.
const CHUNK: usize = 256;

/// Bytes given for one request: a driver that asks for gigabytes is to come again.
const MOST: u64 = 64 << 10;

/// An entropy device: one queue, whose buffers it fills.
#[derive(Debug, Default)]
pub struct Rng {
    queue: Option<VirtQueue>,
}

impl Rng {
    /// A device that nobody drives yet.
    pub fn new() -> Self {
        Self::default()
    }
}

impl VirtioDevice for Rng {
    fn id(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn config(&self) -> Arc<dyn ConfigSpace> {
        Arc::new(Vec::new())
    }

    fn activate(&mut self, activation: Activation) {
        self.queue = activation.queues.into_iter().next().flatten();
    }

    fn handle_queue(&mut self, _: usize) -> Result<Progress, queue::Error> {
        match &mut self.queue {
            Some(queue) => queue.serve(|memory, chain| Some(fill(memory, chain))),
            None => Ok(Progress::Idle),
        }
    }

    fn reset(&mut self) {
        self.queue = None;
    }
}

/// Fills the writable part; returns how much of it. A chain that is no chain gets nothing.
fn fill(memory: &GuestMemory, chain: &Chain) -> u32 {
    let mut written = 0;
    if !chain.is_sound() {
        return written;
    }
    for span in chain.writable.pieces(0, MOST, CHUNK as u32) {
        let mut bytes = [0; CHUNK];
        let wanted = &mut bytes[..span.len as usize];
        let Ok(got) = getrandom(&mut *wanted, GetRandomFlags::empty()) else { break };
        if memory.write_slice(&wanted[..got], span.address).is_err() {
            break;
        }
        written += got as u32;
        if got < span.len as usize {
            break;
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::virtio::driver::{Driver, Part};

    #[test]
    fn buffers_are_filled_with_different_bytes() {
        let mut driver = Driver::start(Box::new(Rng::new()), 0);
        let (one, two) = (driver.buffer(100), driver.buffer(1000));
        driver.post(0, &[Part::write(one, 100)]);
        driver.post(0, &[Part::write(two, 500), Part::write(two + 500, 500)]);
        driver.run();
        let used: Vec<_> = driver.used(0).into_iter().map(|(_, len)| len).collect();
        assert_eq!(used, [100, 1000]);
        let bytes = driver.bytes(two, 1000);
        assert!(bytes.chunks(50).all(|chunk| chunk.iter().any(|&byte| byte != 0)));
        assert_ne!(driver.bytes(one, 100), bytes[..100]);
    }

    #[test]
    fn hostile_buffers_come_back_with_what_was_written() {
        let mut driver = Driver::start(Box::new(Rng::new()), 0);
        let good = driver.buffer(64);
        driver.post(0, &[Part::read(good, 64)]);
        driver.post(0, &[Part::write(good, 64), Part::write(0x10, 64)]);
        driver.post(0, &[Part::write(u64::MAX - 3, u32::MAX)]);
        driver.post(0, &[Part::write(good, 0)]);
        driver.post(0, &[Part::write(good, 64), Part::read(good, 64)]);
        driver.run();
        let used: Vec<_> = driver.used(0).into_iter().map(|(_, len)| len).collect();
        assert_eq!(used, [0, 64, 0, 0, 0]);
    }
}
