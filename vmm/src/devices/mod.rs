//! The MMIO bus and the simple devices on it: serial port, clock, console.
//!
//! # Principles
//!
//! - **A vCPU's access waits for no other device.** The bus has no lock; each device has its own and
//!   holds it for as long as it takes to touch a register. Input and output happen elsewhere.
//! - **A slow terminal slows the guest's console and nothing else.** Output goes through a bounded
//!   buffer to a thread of its own; a vCPU that prints faster than the terminal takes it waits before
//!   it enters the serial port, so that the device thread never waits behind it.
//! - **The terminal comes back as it was**, however the program ends.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`bus`] | [`MmioBus`]: from a guest-physical address to the device that claims it |
//! | [`serial`] | [`Serial`]: a 16550 |
//! | [`input`] | [`SerialInput`]: what is typed, on its way to the serial port |
//! | [`rtc`] | [`Rtc`]: a PL031 |
//! | [`console`] | [`Console`]: the host's end of the serial port |

pub mod bus;
pub mod console;
pub mod input;
pub mod rtc;
pub mod serial;

pub use bus::{MmioBus, MmioDevice};
pub use console::Console;
pub use input::SerialInput;
pub use rtc::Rtc;
pub use serial::Serial;
