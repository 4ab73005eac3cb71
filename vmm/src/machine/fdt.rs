//! The device tree: what the guest is told about the machine.
//!
//! Pure: a [`Board`] in, a blob out. Bindings are those of Documentation/devicetree/bindings.

use vm_fdt::{Error, FdtWriter};

use super::cache::{Kind, Level};
use super::layout::{self, Window};

/// What the tree describes.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// Kernel command line.
    pub cmdline: &'a str,
    /// RAM.
    pub ram: Window,
    /// The initial RAM disk, where there is one.
    pub initrd: Option<Window>,
    /// MPIDR_EL1's affinity fields, one per vCPU, in order.
    pub cpus: &'a [u64],
    /// The caches of every vCPU, level by level; from the second on, all vCPUs share one.
    pub caches: &'a [Level],
    /// Which interrupt controller.
    pub gic: Gic,
    /// Whether vCPUs have EL2.
    pub el2: bool,
    /// Whether vCPUs have a PMUv3.
    pub pmu: bool,
    /// The virtio-mmio transports, in order.
    pub virtio: &'a [VirtioSlot],
    /// Entropy for the guest's random number generator and its KASLR.
    pub seed: [u8; 64],
}

/// The interrupt controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gic {
    /// GICv3: a distributor and a redistributor per vCPU.
    V3,
    /// GICv2: a distributor and a CPU interface.
    V2,
}

/// Where a virtio-mmio transport lies and which shared interrupt it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VirtioSlot {
    /// Its registers.
    pub window: Window,
    /// Its interrupt, counted from the first shared one.
    pub spi: u32,
}

const PHANDLE_GIC: u32 = 1;
const PHANDLE_CLOCK: u32 = 2;
/// Of the caches of level 0, were there any; each level has the next one.
const PHANDLE_CACHES: u32 = 16;

const SPI: u32 = 0;
const PPI: u32 = 1;
const EDGE_RISING: u32 = 1;
const LEVEL_HIGH: u32 = 4;

/// Baud clock of the serial port, in Hz: the rate that every 16550 driver assumes.
const SERIAL_CLOCK: u32 = 1_843_200;
/// PCLK of the AMBA peripherals, in Hz.
const PERIPHERAL_CLOCK: u32 = 24_000_000;

/// Writes the tree of `board`.
///
/// # Errors
/// [`vm_fdt::Error`] where a value has no form in a tree, such as a command line with a NUL.
pub fn write(board: &Board<'_>) -> Result<Vec<u8>, Error> {
    let mut fdt = FdtWriter::new()?;
    let root = fdt.begin_node("")?;
    fdt.property_string("compatible", "linux,dummy-virt")?;
    fdt.property_string("model", "quire")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_u32("interrupt-parent", PHANDLE_GIC)?;

    chosen(&mut fdt, board)?;
    memory(&mut fdt, board.ram)?;
    cpus(&mut fdt, board.cpus, board.caches)?;
    psci(&mut fdt, board.el2)?;
    gic(&mut fdt, board)?;
    timer(&mut fdt, board.el2)?;
    if board.pmu {
        let node = fdt.begin_node("pmu")?;
        fdt.property_string("compatible", "arm,armv8-pmuv3")?;
        fdt.property_array_u32("interrupts", &[PPI, layout::PPI_PMU, LEVEL_HIGH])?;
        fdt.end_node(node)?;
    }
    clock(&mut fdt)?;
    serial(&mut fdt)?;
    rtc(&mut fdt)?;
    for slot in board.virtio {
        let node = fdt.begin_node(&format!("virtio_mmio@{:x}", slot.window.base))?;
        fdt.property_string("compatible", "virtio,mmio")?;
        reg(&mut fdt, &[slot.window])?;
        fdt.property_array_u32("interrupts", &[SPI, slot.spi, EDGE_RISING])?;
        fdt.property_null("dma-coherent")?;
        fdt.end_node(node)?;
    }
    fdt.end_node(root)?;
    fdt.finish()
}

fn reg(fdt: &mut FdtWriter, windows: &[Window]) -> Result<(), Error> {
    let cells: Vec<u64> = windows.iter().flat_map(|w| [w.base, w.size]).collect();
    fdt.property_array_u64("reg", &cells)
}

fn chosen(fdt: &mut FdtWriter, board: &Board<'_>) -> Result<(), Error> {
    let node = fdt.begin_node("chosen")?;
    fdt.property_string("bootargs", board.cmdline)?;
    fdt.property_string("stdout-path", &format!("/serial@{:x}", layout::SERIAL.base))?;
    if let Some(initrd) = board.initrd {
        fdt.property_u64("linux,initrd-start", initrd.base)?;
        fdt.property_u64("linux,initrd-end", initrd.end())?;
    }
    let (kaslr, rng) = board.seed.split_at(8);
    fdt.property("kaslr-seed", kaslr)?;
    fdt.property("rng-seed", rng)?;
    fdt.end_node(node)
}

fn memory(fdt: &mut FdtWriter, ram: Window) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("memory@{:x}", ram.base))?;
    fdt.property_string("device_type", "memory")?;
    reg(fdt, &[ram])?;
    fdt.end_node(node)
}

fn cpus(fdt: &mut FdtWriter, mpidrs: &[u64], caches: &[Level]) -> Result<(), Error> {
    let node = fdt.begin_node("cpus")?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 0)?;
    for &mpidr in mpidrs {
        let cpu = fdt.begin_node(&format!("cpu@{mpidr:x}"))?;
        fdt.property_string("device_type", "cpu")?;
        fdt.property_string("compatible", "arm,armv8")?;
        fdt.property_string("enable-method", "psci")?;
        fdt.property_u64("reg", mpidr)?;
        if let Some(first) = caches.first() {
            level(fdt, first, 1, caches.len())?;
        }
        fdt.end_node(cpu)?;
    }
    for (number, caches_of_level) in (1..).zip(caches).skip(1) {
        let cache = fdt.begin_node(&format!("l{number}-cache"))?;
        fdt.property_string("compatible", "cache")?;
        fdt.property_u32("cache-level", number)?;
        fdt.property_phandle(PHANDLE_CACHES + number)?;
        level(fdt, caches_of_level, number, caches.len())?;
        fdt.end_node(cache)?;
    }
    fdt.end_node(node)
}

/// The caches of level `number` of `count`, in the node that stands for it.
fn level(fdt: &mut FdtWriter, caches: &Level, number: u32, count: usize) -> Result<(), Error> {
    for (kind, geometry) in caches {
        let name = match kind {
            Kind::Instruction => "i-cache",
            Kind::Data => "d-cache",
            Kind::Unified => {
                fdt.property_null("cache-unified")?;
                "cache"
            }
        };
        if let Some(geometry) = geometry {
            fdt.property_u32(&format!("{name}-size"), geometry.size)?;
            for (what, value) in [("line-size", geometry.line), ("sets", geometry.sets)] {
                if let Some(value) = value {
                    fdt.property_u32(&format!("{name}-{what}"), value)?;
                }
            }
        }
    }
    if (number as usize) < count {
        fdt.property_u32("next-level-cache", PHANDLE_CACHES + number + 1)?;
    }
    Ok(())
}

fn psci(fdt: &mut FdtWriter, el2: bool) -> Result<(), Error> {
    let node = fdt.begin_node("psci")?;
    fdt.property_string_list("compatible", vec!["arm,psci-1.0".into(), "arm,psci-0.2".into()])?;
    // From EL2, HVC is a call to EL2 itself.
    fdt.property_string("method", if el2 { "smc" } else { "hvc" })?;
    fdt.end_node(node)
}

fn gic(fdt: &mut FdtWriter, board: &Board<'_>) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("intc@{:x}", layout::GIC_DISTRIBUTOR.base))?;
    match board.gic {
        Gic::V3 => {
            fdt.property_string("compatible", "arm,gic-v3")?;
            let size = layout::GIC_REDISTRIBUTOR_SIZE * board.cpus.len() as u64;
            reg(fdt, &[layout::GIC_DISTRIBUTOR, Window { base: layout::GIC_REDISTRIBUTORS, size }])?;
        }
        Gic::V2 => {
            fdt.property_string("compatible", "arm,gic-400")?;
            reg(fdt, &[layout::GIC_DISTRIBUTOR, layout::GIC_CPU_INTERFACE])?;
        }
    }
    if board.el2 {
        fdt.property_array_u32("interrupts", &[PPI, layout::PPI_GIC_MAINTENANCE, LEVEL_HIGH])?;
    }
    fdt.property_null("interrupt-controller")?;
    fdt.property_u32("#interrupt-cells", 3)?;
    fdt.property_u32("#address-cells", 2)?;
    fdt.property_u32("#size-cells", 2)?;
    fdt.property_phandle(PHANDLE_GIC)?;
    fdt.end_node(node)
}

fn timer(fdt: &mut FdtWriter, el2: bool) -> Result<(), Error> {
    let node = fdt.begin_node("timer")?;
    fdt.property_string("compatible", "arm,armv8-timer")?;
    // The last is that of EL2's virtual timer, which only a hypervisor with VHE has a use for.
    let timers = &layout::PPI_TIMERS[..if el2 { 5 } else { 4 }];
    let cells: Vec<u32> = timers.iter().flat_map(|&ppi| [PPI, ppi, LEVEL_HIGH]).collect();
    fdt.property_array_u32("interrupts", &cells)?;
    fdt.property_null("always-on")?;
    fdt.end_node(node)
}

fn clock(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node("apb-pclk")?;
    fdt.property_string("compatible", "fixed-clock")?;
    fdt.property_u32("#clock-cells", 0)?;
    fdt.property_u32("clock-frequency", PERIPHERAL_CLOCK)?;
    fdt.property_string("clock-output-names", "clk24mhz")?;
    fdt.property_phandle(PHANDLE_CLOCK)?;
    fdt.end_node(node)
}

fn serial(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("serial@{:x}", layout::SERIAL.base))?;
    fdt.property_string("compatible", "ns16550a")?;
    reg(fdt, &[layout::SERIAL])?;
    fdt.property_u32("clock-frequency", SERIAL_CLOCK)?;
    fdt.property_array_u32("interrupts", &[SPI, layout::SPI_SERIAL, EDGE_RISING])?;
    fdt.end_node(node)
}

fn rtc(fdt: &mut FdtWriter) -> Result<(), Error> {
    let node = fdt.begin_node(&format!("rtc@{:x}", layout::RTC.base))?;
    fdt.property_string_list("compatible", vec!["arm,pl031".into(), "arm,primecell".into()])?;
    reg(fdt, &[layout::RTC])?;
    fdt.property_array_u32("interrupts", &[SPI, layout::SPI_RTC, LEVEL_HIGH])?;
    fdt.property_u32("clocks", PHANDLE_CLOCK)?;
    fdt.property_string("clock-names", "apb_pclk")?;
    fdt.end_node(node)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::cache::Geometry;

    fn board<'a>(caches: &'a [Level]) -> Board<'a> {
        Board {
            cmdline: "",
            ram: Window { base: layout::RAM_BASE, size: 64 << 20 },
            initrd: None,
            cpus: &[0, 1],
            caches,
            gic: Gic::V3,
            el2: false,
            pmu: false,
            virtio: &[],
            seed: [0; 64],
        }
    }

    /// How often `bytes` are in `blob`.
    fn times(blob: &[u8], bytes: &[u8]) -> usize {
        blob.windows(bytes.len()).filter(|window| *window == bytes).count()
    }

    /// Level-triggered private interrupts, as cells.
    fn interrupts(ppis: &[u32]) -> Vec<u8> {
        ppis.iter().flat_map(|&ppi| [PPI, ppi, LEVEL_HIGH]).flat_map(u32::to_be_bytes).collect()
    }

    /// How often each name of a cache's property or node is in the tree of a board with two vCPUs.
    fn count(caches: &[Level], name: &str) -> usize {
        // A name ends with a NUL; those of properties stand once, in the block of strings.
        times(&write(&board(caches)).unwrap(), &[b"\0", name.as_bytes(), b"\0"].concat())
    }

    #[test]
    fn caches_are_described_level_by_level() {
        let geometry = Some(Geometry { size: 64 << 10, line: Some(64), sets: None });
        let split = vec![(Kind::Data, geometry), (Kind::Instruction, geometry)];
        let caches = [split, vec![(Kind::Unified, None)]];
        for name in ["d-cache-size", "i-cache-line-size", "next-level-cache", "cache-unified"] {
            assert_eq!(count(&caches, name), 1, "{name}");
        }
        assert_eq!(count(&caches, "i-cache-sets") + count(&caches, "cache-size"), 0);
        assert_eq!(count(&caches[1..], "cache-unified"), 1);
        assert_eq!(count(&caches[1..], "next-level-cache"), 0);
    }

    #[test]
    fn without_caches_there_is_no_word_of_them() {
        for name in ["cache-unified", "cache-level", "next-level-cache"] {
            assert_eq!(count(&[], name), 0, "{name}");
        }
    }

    #[test]
    fn a_guest_at_el2_has_its_timers_the_maintenance_interrupt_and_calls_by_smc() {
        let at_el1 = write(&board(&[])).unwrap();
        let at_el2 = write(&Board { el2: true, ..board(&[]) }).unwrap();
        // As KVM has them: the hypervisor's physical timer is interrupt 26, its virtual one 28.
        let (without, with) = (interrupts(&[13, 14, 11, 10]), interrupts(&[13, 14, 11, 10, 12]));
        let maintenance = interrupts(&[9]);
        for (found, expected) in [
            ((&at_el1, b"hvc\0"), 1),
            ((&at_el1, b"smc\0"), 0),
            ((&at_el2, b"hvc\0"), 0),
            ((&at_el2, b"smc\0"), 1),
        ] {
            assert_eq!(times(found.0, found.1), expected, "{:?}", found.1);
        }
        assert_eq!((times(&at_el1, &with), times(&at_el1, &without)), (0, 1));
        assert_eq!((times(&at_el2, &with), times(&at_el2, &maintenance)), (1, 1));
        assert_eq!(times(&at_el1, &maintenance), 0);
    }
}
