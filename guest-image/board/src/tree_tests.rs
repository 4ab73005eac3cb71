use dtoolkit::fdt::Fdt;
use vm_fdt::{FdtReserveEntry, FdtWriter};

use super::*;

type Result<T = ()> = std::result::Result<T, vm_fdt::Error>;

/// A tree of which each test changes one part.
struct Tree {
    memory: Vec<u64>,
    cpus: Vec<(u32, &'static str)>,
    stdout: &'static str,
    serial: &'static str,
    chosen: fn(&mut FdtWriter) -> Result,
    extra: fn(&mut FdtWriter) -> Result,
    reserve: Vec<FdtReserveEntry>,
}

impl Default for Tree {
    fn default() -> Self {
        Self {
            memory: vec![0x4000_0000, 0x2000_0000],
            cpus: vec![(0, "okay"), (1, "okay")],
            stdout: "/serial@9000000",
            serial: "ns16550a",
            chosen: |_| Ok(()),
            extra: |_| Ok(()),
            reserve: Vec::new(),
        }
    }
}

impl Tree {
    fn write(&self) -> Result<Vec<u8>> {
        let mut fdt = FdtWriter::new_with_mem_reserv(&self.reserve)?;
        let root = fdt.begin_node("")?;
        fdt.property_u32("#address-cells", 2)?;
        fdt.property_u32("#size-cells", 2)?;
        let chosen = fdt.begin_node("chosen")?;
        fdt.property_string("stdout-path", self.stdout)?;
        (self.chosen)(&mut fdt)?;
        fdt.end_node(chosen)?;
        let memory = fdt.begin_node("memory@40000000")?;
        fdt.property_string("device_type", "memory")?;
        fdt.property_array_u64("reg", &self.memory)?;
        fdt.end_node(memory)?;
        let cpus = fdt.begin_node("cpus")?;
        fdt.property_u32("#address-cells", 1)?;
        fdt.property_u32("#size-cells", 0)?;
        for &(affinity, status) in &self.cpus {
            let cpu = fdt.begin_node(&format!("cpu@{affinity:x}"))?;
            fdt.property_u32("reg", affinity)?;
            fdt.property_string("status", status)?;
            fdt.end_node(cpu)?;
        }
        fdt.end_node(cpus)?;
        let serial = fdt.begin_node("serial@9000000")?;
        fdt.property_string("compatible", self.serial)?;
        fdt.property_array_u64("reg", &[0x900_0000, 0x1000])?;
        fdt.end_node(serial)?;
        (self.extra)(&mut fdt)?;
        fdt.end_node(root)?;
        fdt.finish()
    }

    fn with<T>(&self, look: impl FnOnce(&Fdt<'_>) -> T) -> T {
        let bytes = self.write().unwrap();
        look(&Fdt::new(&bytes).unwrap())
    }

    fn error(&self) -> BoardError {
        self.with(|fdt| Board::new(fdt).map(|_| ()).unwrap_err())
    }
}

#[test]
fn memory_cpus_and_command_line_are_read() {
    let tree = Tree {
        memory: vec![0x8000_0000, 0x1000, 0x4000_0000, 0x2000_0000],
        cpus: vec![(0, "okay"), (1, "disabled"), (0x100, "okay")],
        chosen: |fdt| fdt.property_string("bootargs", "stamp full"),
        ..Tree::default()
    };
    tree.with(|fdt| {
        let board = Board::new(fdt).unwrap();
        assert_eq!(board.memory.to_string(), "0x40000000+0x20000000,0x80000000+0x1000");
        assert_eq!(board.cpus.as_slice(), [0, 0x100]);
        assert_eq!(board.bootargs, "stamp full");
        assert_eq!(board.reserved, Ram::default());
    });
}

#[test]
fn what_belongs_to_others_is_reserved_in_whole_pages() {
    let tree = Tree {
        chosen: |fdt| {
            fdt.property_u64("linux,initrd-start", 0x4800_0000)?;
            fdt.property_u32("linux,initrd-end", 0x4800_1001)
        },
        extra: |fdt| {
            let reserved = fdt.begin_node("reserved-memory")?;
            fdt.property_u32("#address-cells", 2)?;
            fdt.property_u32("#size-cells", 2)?;
            let pool = fdt.begin_node("pool@50000000")?;
            fdt.property_array_u64("reg", &[0x5000_0000, 0x1_0000])?;
            fdt.end_node(pool)?;
            fdt.end_node(reserved)
        },
        reserve: vec![FdtReserveEntry::new(0x4400_0800, 0x1000).unwrap()],
        ..Tree::default()
    };
    tree.with(|fdt| {
        let reserved = Board::new(fdt).unwrap().reserved;
        assert_eq!(reserved.to_string(), "0x44000000+0x2000,0x48000000+0x2000,0x50000000+0x10000");
    });
}

#[test]
fn the_console_is_the_one_that_chosen_names() {
    let second: fn(&mut FdtWriter) -> Result = |fdt| {
        let serial = fdt.begin_node("serial@a000000")?;
        fdt.property_string("compatible", "ns16550a")?;
        fdt.property_array_u64("reg", &[0xa00_0000, 0x1000])?;
        fdt.property_u32("reg-shift", 2)?;
        fdt.end_node(serial)?;
        let aliases = fdt.begin_node("aliases")?;
        fdt.property_string("serial1", "/serial@a000000")?;
        fdt.end_node(aliases)
    };
    let first = Port { model: Model::Ns16550 { shift: 0 }, address: 0x900_0000 };
    let shifted = Port { model: Model::Ns16550 { shift: 2 }, address: 0xa00_0000 };
    for (stdout, port) in [
        ("/serial@9000000", first),
        ("/serial@a000000:115200n8", shifted),
        ("serial1", shifted),
        ("serial1:9600", shifted),
        ("/nowhere", first),
        ("", first),
    ] {
        let tree = Tree { stdout, extra: second, ..Tree::default() };
        assert_eq!(tree.with(console), Some(port), "{stdout:?}");
    }
}

#[test]
fn ports_of_another_make_are_left_alone() {
    let pl011 = Port { model: Model::Pl011, address: 0x900_0000 };
    assert_eq!(Tree { serial: "arm,pl011", ..Tree::default() }.with(console), Some(pl011));
    assert_eq!(Tree { serial: "acme,uart", ..Tree::default() }.with(console), None);
}

#[test]
fn psci_is_called_as_the_tree_says() {
    fn psci(fdt: &mut FdtWriter, method: &str) -> Result {
        let psci = fdt.begin_node("psci")?;
        fdt.property_string("method", method)?;
        fdt.end_node(psci)
    }
    assert_eq!(Tree::default().with(conduit), None);
    let hvc = Tree { extra: |fdt| psci(fdt, "hvc"), ..Tree::default() };
    let smc = Tree { extra: |fdt| psci(fdt, "smc"), ..Tree::default() };
    let odd = Tree { extra: |fdt| psci(fdt, "call"), ..Tree::default() };
    assert_eq!(hvc.with(conduit), Some(Conduit::Hvc));
    assert_eq!(smc.with(conduit), Some(Conduit::Smc));
    assert_eq!(odd.with(conduit), None);
}

#[test]
fn trees_that_make_no_sense_are_errors() {
    assert_eq!(Tree { memory: vec![0x4000_0000, 0], ..Tree::default() }.error(), BoardError::NoMemory);
    assert!(matches!(Tree { memory: vec![1, 2, 3], ..Tree::default() }.error(), BoardError::Property(_)));
    assert_eq!(Tree { cpus: vec![(0, "fail")], ..Tree::default() }.error(), BoardError::NoCpus);
    let cpus = (0..=MAX_CPUS as u32).map(|affinity| (affinity, "okay")).collect();
    assert_eq!(Tree { cpus, ..Tree::default() }.error(), BoardError::TooManyCpus);
    let chosen = |fdt: &mut FdtWriter| fdt.property("bootargs", b"\xff\0");
    assert_eq!(Tree { chosen, ..Tree::default() }.error(), BoardError::CommandLine);
}

#[test]
fn windows_of_virtio_transports_are_found() {
    let extra = |fdt: &mut FdtWriter| {
        for (address, size, status) in [
            (0xa00_0000, 0x200, "okay"),
            (0xa00_0200, 0x200, "disabled"),
            (0, 0x200, "okay"),
            (0xa00_1000, 8, "okay"),
        ] {
            let node = fdt.begin_node(&format!("virtio_mmio@{address:x}"))?;
            fdt.property_string("compatible", "virtio,mmio")?;
            fdt.property_array_u64("reg", &[address, size])?;
            fdt.property_string("status", status)?;
            fdt.end_node(node)?;
        }
        Ok(())
    };
    let tree = Tree { extra, ..Tree::default() };
    tree.with(|fdt| assert_eq!(virtio(fdt).as_slice(), [Span::new(0xa00_0000, 0x200)]));
    Tree::default().with(|fdt| assert!(virtio(fdt).is_empty()));
}
