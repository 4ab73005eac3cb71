//! What the device tree says about the machine. It comes from the VMM, which may be wrong: what
//! does not make sense is an error that names it, not a crash.

use arrayvec::ArrayVec;
use dtoolkit::error::{FdtParseError, PropertyError, StandardError};
use dtoolkit::fdt::{Fdt, FdtNode};
use dtoolkit::standard::{NodeStandard, Status};
use dtoolkit::{Node, Property};
use thiserror::Error;

use crate::ram::{Ram, Span, TooManySpans};
use crate::uart::{Model, Port};

/// The most virtio-mmio windows that are looked at.
pub const MAX_VIRTIO: usize = 64;

/// The most vCPUs: what a GICv3 of KVM serves.
pub const MAX_CPUS: usize = 512;

/// How PSCI is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conduit {
    /// By HVC, as under a hypervisor.
    Hvc,
    /// By SMC, as where EL2 belongs to the guest.
    Smc,
}

/// A machine that an image can't use.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BoardError {
    /// It is not a device tree.
    #[error("device tree: {0}")]
    Tree(#[from] FdtParseError),
    /// A property is not what it should be.
    #[error("device tree: {0}")]
    Standard(#[from] StandardError),
    /// A property is not what it should be.
    #[error("device tree: {0}")]
    Property(#[from] PropertyError),
    /// Memory is in too many pieces.
    #[error("{0}")]
    Spans(#[from] TooManySpans),
    /// No memory node, or none with a size.
    #[error("device tree: no memory")]
    NoMemory,
    /// No CPU node that is usable.
    #[error("device tree: no cpu")]
    NoCpus,
    /// More CPUs than there is room for.
    #[error("device tree: more than {MAX_CPUS} cpus")]
    TooManyCpus,
    /// The command line is not text.
    #[error("the command line is not UTF-8")]
    CommandLine,
}

/// The machine, as far as an image needs it.
#[derive(Clone, Debug)]
pub struct Board<'a> {
    /// MPIDR affinity of every usable CPU.
    pub cpus: ArrayVec<u64, MAX_CPUS>,
    /// All memory.
    pub memory: Ram,
    /// What of it belongs to someone else: reservations, the initial RAM disk.
    pub reserved: Ram,
    /// The command line.
    pub bootargs: &'a str,
}

/// The serial port that `/chosen` names, or the first one that can be driven.
///
/// Found before anything else is looked at, so that errors can be told; so it skips what it does
/// not understand.
pub fn console<'a>(fdt: &Fdt<'a>) -> Option<Port> {
    let chosen = fdt.find_node("/chosen").and_then(|chosen| {
        let path = chosen.property("stdout-path")?.value_as::<&'a str>().ok()?;
        // "path:options", and a path that starts without a slash starts with an alias.
        let path = path.split(':').next()?;
        let path = if path.starts_with('/') {
            path
        } else {
            fdt.find_node("/aliases")?.property(path)?.value_as::<&'a str>().ok()?
        };
        port(fdt.find_node(path)?)
    });
    chosen.or_else(|| fdt.root().children().find_map(port))
}

/// How PSCI is called, if there is PSCI.
pub fn conduit<'a>(fdt: &Fdt<'a>) -> Option<Conduit> {
    let method = fdt.find_node("/psci")?.property("method")?.value_as::<&'a str>().ok()?;
    match method {
        "hvc" => Some(Conduit::Hvc),
        "smc" => Some(Conduit::Smc),
        _ => None,
    }
}

/// The windows of virtio-mmio transports, whether or not there is a device in them. Beyond
/// [`MAX_VIRTIO`] they are left out, as is what makes no sense.
pub fn virtio(fdt: &Fdt<'_>) -> ArrayVec<Span, MAX_VIRTIO> {
    let nodes = fdt
        .root()
        .children()
        .filter(|node| node.is_compatible("virtio,mmio") && node.status() == Ok(Status::Okay));
    let windows = nodes.filter_map(|node| {
        let reg = node.reg().ok()??.next()?;
        let window = Span::new(reg.address::<u64>().ok()?, reg.size::<u64>().ok()?);
        (window.start != 0 && window.start.is_multiple_of(4) && window.size() >= 0x100).then_some(window)
    });
    windows.take(MAX_VIRTIO).collect()
}

impl<'a> Board<'a> {
    /// Reads the device tree.
    pub fn new(fdt: &Fdt<'a>) -> Result<Self, BoardError> {
        let mut board =
            Self { cpus: ArrayVec::new(), memory: Ram::default(), reserved: Ram::default(), bootargs: "" };
        for node in fdt.root().children() {
            let device_type = node.property("device_type").map(|p| p.value_as::<&str>()).transpose()?;
            if device_type == Some("memory") && node.status()? == Status::Okay {
                for span in spans(node)? {
                    board.memory.add(span?)?;
                }
            }
        }
        if board.memory.spans().is_empty() {
            return Err(BoardError::NoMemory);
        }
        for entry in fdt.memory_reservations() {
            board.reserved.add(Span::new(entry.address(), entry.size()).outer_pages())?;
        }
        if let Some(node) = fdt.find_node("/reserved-memory") {
            for child in node.children() {
                for span in spans(child)? {
                    board.reserved.add(span?.outer_pages())?;
                }
            }
        }
        for cpu in fdt.cpus()?.children().filter(|node| node.name_without_address() == "cpu") {
            if cpu.status()? == Status::Okay {
                for reg in cpu.reg()?.ok_or(StandardError::CpuMissingReg)? {
                    let affinity = reg.address::<u64>()?;
                    board.cpus.try_push(affinity).map_err(|_| BoardError::TooManyCpus)?;
                }
            }
        }
        if board.cpus.is_empty() {
            return Err(BoardError::NoCpus);
        }
        if let Some(chosen) = fdt.find_node("/chosen") {
            if let Some(bootargs) = chosen.property("bootargs") {
                board.bootargs = bootargs.value_as().map_err(|_| BoardError::CommandLine)?;
            }
            let start = chosen.property("linux,initrd-start").map(address).transpose()?;
            let end = chosen.property("linux,initrd-end").map(address).transpose()?;
            if let (Some(start), Some(end)) = (start, end)
                && start < end
            {
                board.reserved.add(Span { start, end }.outer_pages())?;
            }
        }
        Ok(board)
    }
}

/// The port that a node describes, if it is one.
fn port(node: FdtNode<'_>) -> Option<Port> {
    let address = node.reg().ok()??.next()?.address::<u64>().ok()?;
    let model = if node.is_compatible("ns16550a") || node.is_compatible("ns16550") {
        let shift = match node.property("reg-shift") {
            Some(shift) => shift.value_as::<u32>().ok()?,
            None => 0,
        };
        (shift <= 3).then_some(Model::Ns16550 { shift })?
    } else {
        node.is_compatible("arm,pl011").then_some(Model::Pl011)?
    };
    let usable = address != 0 && address % 4 == 0 && node.status() == Ok(Status::Okay);
    usable.then_some(Port { model, address })
}

/// The ranges of a node's `reg`.
fn spans<'a>(
    node: FdtNode<'a>,
) -> Result<impl Iterator<Item = Result<Span, StandardError>> + 'a, BoardError> {
    let reg = node.reg()?.into_iter().flatten();
    Ok(reg.map(|reg| Ok(Span::new(reg.address::<u64>()?, reg.size::<u64>()?))))
}

/// An address in one or two cells.
fn address(property: impl Property) -> Result<u64, PropertyError> {
    match property.value().len() {
        4 => property.value_as::<u32>().map(u64::from),
        _ => property.value_as::<u64>(),
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
