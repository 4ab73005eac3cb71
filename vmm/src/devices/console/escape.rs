//! Ctrl-A and what may follow it.

/// What a typed byte comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// For the guest.
    Send(u8),
    /// For the guest: a Ctrl-A that was no escape, and what followed it.
    SendBoth([u8; 2]),
    /// Print [`Escape::HELP`].
    Help,
    /// Stop the VM.
    Quit,
}

/// Whether the last byte was a Ctrl-A.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Escape {
    pending: bool,
}

impl Escape {
    const CTRL_A: u8 = 0x01;

    /// What Ctrl-A h prints.
    pub const HELP: &str = "\r\n\
        Ctrl-A x  stop the virtual machine and quit\r\n\
        Ctrl-A a  send Ctrl-A to the guest\r\n\
        Ctrl-A h  print this help\r\n";

    /// Takes one typed byte; `None` where it is the first of two.
    pub fn feed(&mut self, byte: u8) -> Option<Command> {
        if !std::mem::take(&mut self.pending) {
            if byte == Self::CTRL_A {
                self.pending = true;
                return None;
            }
            return Some(Command::Send(byte));
        }
        Some(match byte {
            b'x' | b'X' => Command::Quit,
            b'h' | b'H' | b'?' => Command::Help,
            b'a' | b'A' | Self::CTRL_A => Command::Send(Self::CTRL_A),
            other => Command::SendBoth([Self::CTRL_A, other]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(bytes: &[u8]) -> Vec<Command> {
        let mut escape = Escape::default();
        bytes.iter().filter_map(|&byte| escape.feed(byte)).collect()
    }

    #[test]
    fn ctrl_a_x_quits_and_nothing_of_it_reaches_the_guest() {
        assert_eq!(typed(b"a\x01x"), [Command::Send(b'a'), Command::Quit]);
    }

    #[test]
    fn ctrl_a_a_sends_one_ctrl_a() {
        assert_eq!(typed(b"\x01ax"), [Command::Send(1), Command::Send(b'x')]);
        assert_eq!(typed(b"\x01\x01x"), [Command::Send(1), Command::Send(b'x')]);
    }

    #[test]
    fn help_is_asked_for_with_h() {
        assert_eq!(typed(b"\x01h"), [Command::Help]);
    }

    #[test]
    fn an_unknown_escape_reaches_the_guest_whole() {
        assert_eq!(typed(b"\x01ex"), [Command::SendBoth([1, b'e']), Command::Send(b'x')]);
    }
}
