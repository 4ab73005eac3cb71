//! From a guest-physical address to the device that claims it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::GuestAddress;

/// A device with registers. It is called from several vCPU threads at once and does its own locking.
pub trait MmioDevice: Send + Sync {
    /// Fills `data` with what is at `offset` from the start of the device's range. `data` has 1, 2, 4
    /// or 8 bytes and lies in the range; all of it is zero beforehand.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes `data`, written at `offset` from the start of the device's range, of lengths as above.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device could not be put on the bus.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The range is empty or wraps around.
    #[error("{name} can't have {size:#x} bytes at {base:#x}")]
    Range {
        /// The device.
        name: String,
        /// Its first address.
        base: u64,
        /// Its bytes.
        size: u64,
    },
    /// Another device has some of the range.
    #[error("{name} at {base:#x} overlaps {other}")]
    Overlap {
        /// The device.
        name: String,
        /// Its first address.
        base: u64,
        /// The device that is there already.
        other: String,
    },
}

struct Claim {
    base: u64,
    /// The first address behind.
    end: u64,
    name: String,
    device: Arc<dyn MmioDevice>,
}

/// The devices by address. Build it, then share it among the vCPU threads.
#[derive(Default)]
pub struct MmioBus {
    /// In ascending order, without overlaps.
    claims: Vec<Claim>,
    unclaimed: AtomicU64,
}

impl MmioBus {
    /// A bus without devices.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives `base..base + size` to a device.
    ///
    /// # Errors
    ///
    /// [`Error`] where the range is empty, wraps around or overlaps another.
    pub fn insert(
        &mut self,
        name: &str,
        base: GuestAddress,
        size: u64,
        device: Arc<dyn MmioDevice>,
    ) -> Result<(), Error> {
        let (name, base) = (name.to_owned(), base.0);
        let end = match base.checked_add(size) {
            Some(end) if size > 0 => end,
            _ => return Err(Error::Range { name, base, size }),
        };
        let at = self.claims.partition_point(|claim| claim.end <= base);
        match self.claims.get(at) {
            Some(next) if next.base < end => Err(Error::Overlap { name, base, other: next.name.clone() }),
            _ => {
                self.claims.insert(at, Claim { base, end, name, device });
                Ok(())
            }
        }
    }

    /// A guest's read. What nobody claims reads as zero.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0);
        match self.find(address, data.len()) {
            Some((claim, offset)) => claim.device.read(offset, data),
            None => self.count("read", address, data.len()),
        }
    }

    /// A guest's write. What nobody claims takes it without effect.
    pub fn write(&self, address: u64, data: &[u8]) {
        match self.find(address, data.len()) {
            Some((claim, offset)) => claim.device.write(offset, data),
            None => self.count("write", address, data.len()),
        }
    }

    /// Accesses that nobody claimed so far.
    pub fn unclaimed(&self) -> u64 {
        self.unclaimed.load(Ordering::Relaxed)
    }

    /// The device that claims all of an access, and where in its range.
    fn find(&self, address: u64, len: usize) -> Option<(&Claim, u64)> {
        let last = address.checked_add((len as u64).checked_sub(1)?)?;
        let claim = self.claims.get(self.claims.partition_point(|claim| claim.end <= address))?;
        (claim.base <= address && last < claim.end).then(|| (claim, address - claim.base))
    }

    /// Counts, and reports the first: a guest could fill the log otherwise.
    fn count(&self, access: &str, address: u64, len: usize) {
        if self.unclaimed.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::warn!(
                access,
                address = format_args!("{address:#x}"),
                len,
                "no device claims this address; more such accesses are only counted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lock;
    use proptest::prelude::*;
    use std::sync::Mutex;

    /// Answers with its own number and remembers where it was written.
    struct Probe(u8, Mutex<Vec<u64>>);

    impl Probe {
        fn new(number: u8) -> Arc<Self> {
            Arc::new(Self(number, Mutex::default()))
        }
    }

    impl MmioDevice for Probe {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(self.0);
            lock(&self.1).push(offset);
        }

        fn write(&self, offset: u64, _: &[u8]) {
            lock(&self.1).push(offset);
        }
    }

    #[test]
    fn access_reaches_the_device_at_its_own_offset() {
        let (low, high) = (Probe::new(1), Probe::new(2));
        let mut bus = MmioBus::new();
        bus.insert("high", GuestAddress(0x2000), 0x100, high.clone()).unwrap();
        bus.insert("low", GuestAddress(0x1000), 0x1000, low.clone()).unwrap();
        let mut data = [0; 4];
        bus.read(0x1ffc, &mut data);
        assert_eq!(data, [1; 4]);
        bus.write(0x2008, &data);
        assert_eq!((lock(&low.1).clone(), lock(&high.1).clone()), (vec![0xffc], vec![8]));
        assert_eq!(bus.unclaimed(), 0);
    }

    #[test]
    fn unclaimed_reads_as_zero_and_is_counted() {
        let mut bus = MmioBus::new();
        bus.insert("one", GuestAddress(0x1000), 0x10, Probe::new(1)).unwrap();
        let mut data = [0xff; 8];
        // Before, behind, across the end, and where the address wraps.
        for address in [0xff8, 0x1010, 0x100c, u64::MAX - 3] {
            data.fill(0xff);
            bus.read(address, &mut data);
            assert_eq!(data, [0; 8], "{address:#x}");
            bus.write(address, &data);
        }
        assert_eq!(bus.unclaimed(), 8);
    }

    #[test]
    fn overlaps_and_empty_ranges_are_refused() {
        let mut bus = MmioBus::new();
        bus.insert("one", GuestAddress(0x1000), 0x1000, Probe::new(1)).unwrap();
        for (base, size) in [(0xfff, 2), (0x1000, 0x1000), (0x1800, 1), (0x1fff, 0x1000), (0, 0x10000)] {
            let error = bus.insert("two", GuestAddress(base), size, Probe::new(2)).unwrap_err();
            assert!(matches!(error, Error::Overlap { .. }), "{error}");
        }
        for (base, size) in [(0x4000, 0), (u64::MAX, 2)] {
            let error = bus.insert("two", GuestAddress(base), size, Probe::new(2)).unwrap_err();
            assert!(matches!(error, Error::Range { .. }), "{error}");
        }
        bus.insert("below", GuestAddress(0xfff), 1, Probe::new(2)).unwrap();
        bus.insert("above", GuestAddress(0x2000), 1, Probe::new(2)).unwrap();
    }

    proptest! {
        #[test]
        fn exactly_the_claimant_answers(
            ranges in proptest::collection::vec((0u64..64, 1u64..16), 0..8),
            accesses in proptest::collection::vec((0u64..96, 1usize..9), 0..32),
        ) {
            let mut bus = MmioBus::new();
            let mut owner = [0u8; 128];
            for (number, (base, size)) in ranges.into_iter().enumerate() {
                let number = number as u8 + 1;
                let taken = &mut owner[base as usize..(base + size) as usize];
                let free = taken.iter().all(|&o| o == 0);
                let inserted = bus.insert("probe", GuestAddress(base), size, Probe::new(number));
                prop_assert_eq!(inserted.is_ok(), free);
                if free {
                    taken.fill(number);
                }
            }
            for (address, len) in accesses {
                let mut data = vec![0xff; len];
                bus.read(address, &mut data);
                let owners = &owner[address as usize..address as usize + len];
                let whole = owners.iter().all(|&o| o == owners[0]);
                prop_assert_eq!(data, vec![if whole { owners[0] } else { 0 }; len]);
            }
        }
    }
}
