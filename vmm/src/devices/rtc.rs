//! The guest's wall clock: a PL031 (DDI 0224), by vm-superio. It has no alarm interrupt.

use std::sync::Mutex;

use vm_superio::rtc_pl031::NoEvents;

use super::bus::MmioDevice;
use crate::lock::lock;

/// A PL031. Its registers are 32 bits wide; an access of another width or alignment reads as zero and
/// writes nothing.
#[derive(Debug)]
pub struct Rtc(Mutex<vm_superio::Rtc<NoEvents>>);

impl Rtc {
    /// Bytes of address space.
    pub const SIZE: u64 = 0x1000;

    /// A clock that shows the host's time.
    pub fn new() -> Self {
        Self(Mutex::new(vm_superio::Rtc::new()))
    }
}

impl Default for Rtc {
    fn default() -> Self {
        Self::new()
    }
}

/// The register of an access that is one.
fn register(offset: u64) -> Option<u16> {
    u16::try_from(offset).ok().filter(|register| register.is_multiple_of(4) && offset < Rtc::SIZE)
}

impl MmioDevice for Rtc {
    fn read(&self, offset: u64, data: &mut [u8]) {
        if let (Some(register), Ok(data)) = (register(offset), <&mut [u8; 4]>::try_from(data)) {
            lock(&self.0).read(register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (Some(register), Ok(data)) = (register(offset), <&[u8; 4]>::try_from(data)) {
            lock(&self.0).write(register, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOAD: u64 = 0x8;
    const DATA: u64 = 0;

    fn word(rtc: &Rtc, offset: u64) -> u32 {
        let mut data = [0; 4];
        rtc.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn identifies_itself_as_a_pl031() {
        let rtc = Rtc::new();
        let ids: Vec<_> = (0..8).map(|n| word(&rtc, 0xfe0 + 4 * n)).collect();
        assert_eq!(ids, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
    }

    #[test]
    fn shows_the_time_that_was_loaded() {
        let rtc = Rtc::new();
        rtc.write(LOAD, &0x6000_0000u32.to_le_bytes());
        assert_eq!(word(&rtc, LOAD), 0x6000_0000);
        // It counts seconds from there; this test takes fewer than a minute's worth.
        assert!((0x6000_0000..0x6000_003c).contains(&word(&rtc, DATA)));
    }

    proptest! {
        #[test]
        fn no_access_panics_and_odd_ones_read_as_zero(
            accesses in proptest::collection::vec((0u64..0x1100, 1usize..9, any::<[u8; 8]>()), 0..64),
        ) {
            let rtc = Rtc::new();
            for (offset, len, bytes) in accesses {
                rtc.write(offset, &bytes[..len]);
                let mut data = vec![0; len];
                rtc.read(offset, &mut data);
                if len != 4 || offset % 4 != 0 || offset >= Rtc::SIZE {
                    prop_assert_eq!(data, vec![0; len]);
                }
            }
        }
    }
}
