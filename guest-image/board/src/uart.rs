//! The serial ports that are driven: a 16550, as Quire has it, and a PL011, as the boards
//! of other machines have it. Both polled, both as the firmware left them: under a VMM a port
//! works from the first instruction, and setting one up costs an exit for each register.

#![expect(unsafe_code, reason = "the registers of a device are reached by address")]

use core::ptr::NonNull;

use safe_mmio::UniqueMmioPointer;
use safe_mmio::fields::ReadWrite;

use crate::ram::Span;

/// Receiver buffer and transmitter holding register of a 16550 (PC16550D, table II).
const DATA: u64 = 0;
/// Its line status register, and two of its bits: data ready, holding register empty.
const LSR: u64 = 5;
const LSR_DR: u8 = 1 << 0;
const LSR_THRE: u8 = 1 << 5;
/// Bytes that its transmitter takes at once when it is empty.
const FIFO: usize = 16;

/// Data and flag register of a PL011 (DDI 0183, 3.2), and two flags: receiver empty, transmitter full.
const DR: u64 = 0;
const FR: u64 = 0x18;
const FR_RXFE: u32 = 1 << 4;
const FR_TXFF: u32 = 1 << 5;

/// The register layout of a serial port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// A 16550 with byte registers, `1 << shift` bytes apart.
    Ns16550 {
        /// `reg-shift` of the device tree, at most 3.
        shift: u32,
    },
    /// An Arm PrimeCell PL011.
    Pl011,
}

/// A serial port as the device tree describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// How its registers lie.
    pub model: Model,
    /// Where they are.
    pub address: u64,
}

impl Port {
    /// The bytes that its registers take.
    pub const fn span(&self) -> Span {
        Span::new(
            self.address,
            match self.model {
                Model::Ns16550 { shift } => 8 << shift,
                Model::Pl011 => 0x1000,
            },
        )
    }
}

/// A serial port that may be used.
#[derive(Debug)]
pub struct Uart(Port);

impl Uart {
    /// Takes a port.
    ///
    /// # Safety
    ///
    /// The port's registers are mapped at their own address, as device memory, as long as the value
    /// lives, and nobody else uses them.
    pub const unsafe fn new(port: Port) -> Self {
        Self(port)
    }

    /// Sends all bytes, waiting while the port is busy.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.0.model {
            Model::Ns16550 { .. } => {
                for chunk in bytes.chunks(FIFO) {
                    while self.byte(LSR).read() & LSR_THRE == 0 {
                        core::hint::spin_loop();
                    }
                    for &byte in chunk {
                        self.byte(DATA).write(byte);
                    }
                }
            }
            Model::Pl011 => {
                for &byte in bytes {
                    while self.word(FR).read() & FR_TXFF != 0 {
                        core::hint::spin_loop();
                    }
                    self.word(DR).write(u32::from(byte));
                }
            }
        }
    }

    /// A byte that has come in, if any.
    pub fn receive(&mut self) -> Option<u8> {
        match self.0.model {
            Model::Ns16550 { .. } => (self.byte(LSR).read() & LSR_DR != 0).then(|| self.byte(DATA).read()),
            Model::Pl011 => {
                // The upper bits are error flags.
                (self.word(FR).read() & FR_RXFE == 0).then(|| self.word(DR).read() as u8)
            }
        }
    }

    fn byte(&mut self, index: u64) -> UniqueMmioPointer<'_, ReadWrite<u8>> {
        let shift = match self.0.model {
            Model::Ns16550 { shift } => shift,
            Model::Pl011 => 0,
        };
        self.register(index << shift)
    }

    fn word(&mut self, offset: u64) -> UniqueMmioPointer<'_, ReadWrite<u32>> {
        self.register(offset)
    }

    fn register<T>(&mut self, offset: u64) -> UniqueMmioPointer<'_, ReadWrite<T>> {
        let address = self.0.address + offset;
        let pointer = NonNull::new(core::ptr::with_exposed_provenance_mut(address as usize));
        let pointer = pointer.expect("no port is at address 0: the board refuses one");
        // SAFETY: the registers are mapped, and ours alone, by the contract of `new`; the borrow of
        // `self` keeps a second pointer from being made.
        unsafe { UniqueMmioPointer::new(pointer) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers in memory: they keep what was written last.
    #[repr(C, align(8))]
    struct Registers([u8; 64]);

    fn uart(registers: &mut Registers, model: Model) -> Uart {
        let address = registers.0.as_mut_ptr().expose_provenance() as u64;
        // SAFETY: it points at the array, which outlives it in each test.
        unsafe { Uart::new(Port { model, address }) }
    }

    #[test]
    fn sends_when_the_16550_is_empty() {
        for shift in [0, 2] {
            let mut registers = Registers([0; 64]);
            registers.0[5 << shift] = LSR_THRE;
            uart(&mut registers, Model::Ns16550 { shift }).send(b"hi");
            assert_eq!(registers.0[0], b'i');
        }
    }

    #[test]
    fn receives_only_what_the_16550_has() {
        let mut registers = Registers([0; 64]);
        registers.0[0] = b'x';
        assert_eq!(uart(&mut registers, Model::Ns16550 { shift: 0 }).receive(), None);
        registers.0[5] = LSR_DR;
        assert_eq!(uart(&mut registers, Model::Ns16550 { shift: 0 }).receive(), Some(b'x'));
    }

    #[test]
    fn the_pl011_says_when_it_has_nothing() {
        let mut registers = Registers([0; 64]);
        uart(&mut registers, Model::Pl011).send(b"ok");
        assert_eq!(uart(&mut registers, Model::Pl011).receive(), Some(b'k'));
        registers.0[0x18] = FR_RXFE as u8;
        assert_eq!(uart(&mut registers, Model::Pl011).receive(), None);
    }
}
