//! Lines on the serial port, and the end of a run that failed.

#![expect(unsafe_code, reason = "takes a serial port, and its lock where its owner will not return")]

use core::fmt::{self, Write};

use arrayvec::ArrayVec;
use spin::{Mutex, Once};

use crate::power;
use crate::uart::{Port, Uart};

/// Bytes of the longest line; what is longer is cut.
const LINE: usize = 1024;

static CONSOLE: Mutex<Option<Uart>> = Mutex::new(None);
static VOICE: Once<Voice> = Once::new();

/// How the lines of an image begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voice {
    /// Every line.
    pub line: &'static str,
    /// The last line of a run that failed.
    pub failure: &'static str,
}

/// Prints a line: `say!("word key={value}")`.
#[macro_export]
macro_rules! say {
    ($($argument:tt)*) => { $crate::console::print(format_args!($($argument)*)) };
}

/// Takes a port. Until then lines go nowhere.
///
/// # Safety
///
/// As [`Uart::new`], for good.
pub unsafe fn open(port: Port, voice: Voice) {
    VOICE.call_once(|| voice);
    // SAFETY: the caller keeps the promise that this asks for.
    *CONSOLE.lock() = Some(unsafe { Uart::new(port) });
}

/// Prints the image's prefix, the text, and the end of the line, in one piece.
pub fn print(text: fmt::Arguments<'_>) {
    let line = Line::new(VOICE.get().map_or("", |voice| voice.line), text);
    if let Some(uart) = CONSOLE.lock().as_mut() {
        uart.send(&line.0);
    }
}

/// A byte of input, if any has come.
pub fn receive() -> Option<u8> {
    CONSOLE.lock().as_mut()?.receive()
}

/// Prints why the run failed, and ends it.
pub fn fail(reason: fmt::Arguments<'_>) -> ! {
    let line = Line::new(VOICE.get().map_or("", |voice| voice.failure), reason);
    // Whoever holds the lock sends a line at most; if it is this CPU, interrupted by a trap in the
    // middle of one, it will never give it back.
    for _ in 0..10_000_000 {
        if let Some(mut console) = CONSOLE.try_lock() {
            end(console.as_mut(), &line);
        }
        core::hint::spin_loop();
    }
    // SAFETY: the owner is not going on, or the port has hung; a mixed line is better than none.
    unsafe { CONSOLE.force_unlock() };
    end(CONSOLE.lock().as_mut(), &line)
}

/// Keeps the lock, so that nothing follows the last line.
fn end(uart: Option<&mut Uart>, line: &Line) -> ! {
    if let Some(uart) = uart {
        uart.send(&line.0);
    }
    power::off()
}

/// One line, built before it is sent.
struct Line(ArrayVec<u8, LINE>);

impl Line {
    fn new(prefix: &str, text: fmt::Arguments<'_>) -> Self {
        let mut line = Self(ArrayVec::new());
        // A cut line is all that an error means here.
        let _cut = write!(line, "{prefix}{text}");
        line.0.truncate(LINE - 2);
        line.0.extend(*b"\r\n");
        line
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let byte = if byte.is_ascii_control() { b' ' } else { byte };
            self.0.try_push(byte).map_err(|_| fmt::Error)?;
        }
        Ok(())
    }
}
