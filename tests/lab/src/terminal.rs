//! This terminal: raw while a program in the host has it, as it was afterwards.

use std::io::{self, IsTerminal};
use std::sync::{Arc, Mutex, PoisonError};

use lab_init::wire::Size;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// Whether a person sits at both ends.
pub(crate) fn interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Its size.
pub(crate) fn size() -> Size {
    match tcgetwinsize(rustix::stdio::stdout()) {
        Ok(window) if window.ws_col > 0 => Size { columns: window.ws_col, rows: window.ws_row },
        _ => Size { columns: 80, rows: 24 },
    }
}

/// Raw mode, until restored or dropped.
#[derive(Clone)]
pub(crate) struct Raw(Arc<Mutex<Option<Termios>>>);

impl Raw {
    /// Enters raw mode; every key goes to the program, Ctrl-C too.
    pub(crate) fn enter() -> io::Result<Raw> {
        let before = tcgetattr(rustix::stdio::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &raw)?;
        Ok(Raw(Arc::new(Mutex::new(Some(before)))))
    }

    /// Puts the terminal back, once; also called from the thread that hears signals.
    pub(crate) fn restore(&self) {
        if let Some(before) = self.0.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &before);
        }
    }
}

/// Three times Ctrl-] in a row: the way out of a host that no longer answers.
#[derive(Debug, Default)]
pub(crate) struct Escape(u8);

impl Escape {
    /// The key.
    const KEY: u8 = 0x1d;

    /// Whether these bytes complete it.
    pub(crate) fn seen(&mut self, bytes: &[u8]) -> bool {
        for byte in bytes {
            self.0 = if *byte == Self::KEY { self.0 + 1 } else { 0 };
            if self.0 == 3 {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_in_a_row_escape() {
        let mut escape = Escape::default();
        assert!(!escape.seen(b"\x1d\x1dx\x1d"));
        assert!(!escape.seen(b"\x1d"));
        assert!(escape.seen(b"\x1d"));
    }
}
