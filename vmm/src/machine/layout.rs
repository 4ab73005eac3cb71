//! The guest-physical address map, and the numbers of the interrupts.
//!
//! ```text
//! 0x0800_0000  GIC distributor
//! 0x0801_0000  GICv2 CPU interface
//! 0x0900_0000  serial port (16550)
//! 0x0901_0000  real-time clock (PL031)
//! 0x0a00_0000  virtio-mmio, 4 KiB each
//! 0x1000_0000  GICv3 redistributors, 128 KiB per vCPU
//! 0x4000_0000  RAM, up to the end of the IPA space
//! ```
//!
//! RAM begins at 1 GiB so that stage 2 can map it in level-1 blocks; everything below is devices,
//! and an address there that no device claims traps to the VMM.

/// A half-open range of guest-physical addresses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
}

impl Window {
    /// The first address behind it.
    pub const fn end(self) -> u64 {
        self.base + self.size
    }
}

/// The distributor of either GIC.
pub const GIC_DISTRIBUTOR: Window = Window { base: 0x0800_0000, size: 0x1_0000 };
/// The CPU interface of a GICv2.
pub const GIC_CPU_INTERFACE: Window = Window { base: 0x0801_0000, size: 0x2000 };
/// The redistributors of a GICv3: [`GIC_REDISTRIBUTOR_SIZE`] for each vCPU from here.
pub const GIC_REDISTRIBUTORS: u64 = 0x1000_0000;
/// RD_base and SGI_base frames of one vCPU.
pub const GIC_REDISTRIBUTOR_SIZE: u64 = 0x2_0000;
/// The serial port.
pub const SERIAL: Window = Window { base: 0x0900_0000, size: 0x1000 };
/// The real-time clock.
pub const RTC: Window = Window { base: 0x0901_0000, size: 0x1000 };
/// Where virtio-mmio transports lie.
pub const VIRTIO: Window = Window { base: 0x0a00_0000, size: 0x10_0000 };
/// One virtio-mmio transport.
pub const VIRTIO_SIZE: u64 = 0x1000;
/// Where RAM begins.
pub const RAM_BASE: u64 = 0x4000_0000;

/// The most vCPUs that the map has redistributors for; KVM may allow fewer.
pub const MAX_CPUS: u32 = 512;

/// Interrupt ids that the GIC is told to have: 32 private ones and 96 shared ones.
pub const INTERRUPTS: u32 = 128;
/// Shared interrupts, as irqfd and the device tree count them (interrupt id less 32).
pub const SPI_SERIAL: u32 = 0;
/// The clock's shared interrupt.
pub const SPI_RTC: u32 = 1;
/// The first and the last shared interrupt for virtio devices.
pub const SPI_VIRTIO: (u32, u32) = (16, INTERRUPTS - 33);
/// The private interrupt by which the GIC tells a hypervisor in the guest that a list register needs its
/// care, counted as [`PPI_PMU`] is.
pub const PPI_GIC_MAINTENANCE: u32 = 9;
/// The private interrupts of the timers, which KVM has fixed: EL3's, EL1 physical, EL1 virtual, EL2
/// physical, EL2 virtual; in the order of the device tree's binding.
pub const PPI_TIMERS: [u32; 5] = [13, 14, 11, 10, 12];
/// The PMU's private interrupt, as the device tree counts it (interrupt id less 16).
pub const PPI_PMU: u32 = 7;

/// The smallest number of IPA bits with which `ram_size` bytes of RAM fit; KVM takes no fewer than
/// 32. Destroying a VM walks its whole IPA space, so a bit too many is paid for at every exit.
/// `None` where the sum overflows.
pub fn ipa_bits(ram_size: u64) -> Option<u32> {
    let last = RAM_BASE.checked_add(ram_size)?.checked_sub(1)?;
    Some((u64::BITS - last.leading_zeros()).max(32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_ipa_space_that_fits() {
        assert_eq!(ipa_bits(1 << 20), Some(32));
        assert_eq!(ipa_bits(3 << 30), Some(32));
        assert_eq!(ipa_bits((3 << 30) + 1), Some(33));
        assert_eq!(ipa_bits(1 << 40), Some(41));
        assert_eq!(ipa_bits(u64::MAX), None);
    }

    #[test]
    fn nothing_overlaps() {
        let redistributors =
            Window { base: GIC_REDISTRIBUTORS, size: GIC_REDISTRIBUTOR_SIZE * u64::from(MAX_CPUS) };
        let map = [GIC_DISTRIBUTOR, GIC_CPU_INTERFACE, SERIAL, RTC, VIRTIO, redistributors];
        for pair in map.windows(2) {
            assert!(pair[0].end() <= pair[1].base, "{pair:x?}");
        }
        assert!(redistributors.end() <= RAM_BASE);
    }
}
