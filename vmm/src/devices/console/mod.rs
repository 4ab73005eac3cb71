//! The host's end of the serial port.
//!
//! | module | what it holds |
//! |---|---|
//! | [`output`] | the bounded buffer and the thread that writes it out |
//! | [`escape`] | Ctrl-A and what may follow it |
//! | [`terminal`] | raw mode, and the way back from it |
//! | `pty` | a pseudo-terminal of our own |

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::ConsoleConfig;

pub mod escape;
pub mod output;
mod pty;
pub mod terminal;

use output::{Full, Output};
use terminal::RawTerminal;

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file for the output can't be opened.
    #[error("can't open console file {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No pseudo-terminal.
    #[error("can't make a pseudo-terminal for the console")]
    Pty(#[source] io::Error),
    /// The terminal is one, but won't be raw.
    #[error("can't switch the terminal to raw mode: use --console pty or --console file:PATH")]
    Raw(#[source] io::Error),
    /// Standard output can't be used.
    #[error("can't use standard output for the console")]
    Stdout(#[source] io::Error),
    /// No thread for the output.
    #[error("can't start the console's thread")]
    Thread(#[source] io::Error),
}

/// Where the guest's console comes from and goes to.
pub struct Console {
    pub(super) source: Option<Source>,
    pub(super) output: Output,
    pub(super) terminal: Option<RawTerminal>,
    name: Option<PathBuf>,
}

/// Where input comes from.
pub(super) struct Source {
    pub(super) file: File,
    /// Somebody types: Ctrl-A is ours.
    pub(super) is_terminal: bool,
}

impl Console {
    /// Opens what `config` names. With `stdio` on a terminal that is ours to read, the terminal is raw
    /// from here on.
    ///
    /// # Errors
    ///
    /// [`Error`] names what could not be opened.
    pub fn open(config: &ConsoleConfig) -> Result<Self, Error> {
        match config {
            ConsoleConfig::Stdio => Self::stdio(),
            ConsoleConfig::Pty => Self::pty_pair(),
            ConsoleConfig::File(path) => Self::file(path),
            ConsoleConfig::Null => {
                Ok(Self { source: None, output: Output::null(), terminal: None, name: None })
            }
        }
    }

    /// The name of the terminal that a person attaches to, where we made one.
    pub fn pty(&self) -> Option<&Path> {
        self.name.as_deref()
    }

    fn stdio() -> Result<Self, Error> {
        let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(Error::Stdout)?;
        let output = Output::start(File::from(stdout), Full::Waits, None).map_err(Error::Thread)?;
        let is_terminal = io::stdin().is_terminal();
        let terminal = if is_terminal { RawTerminal::enter().map_err(Error::Raw)? } else { None };
        // In the background, reading a terminal would stop us; closed, there is nothing to read.
        let source = if is_terminal && terminal.is_none() {
            None
        } else {
            let file = io::stdin().as_fd().try_clone_to_owned().ok().map(File::from);
            file.map(|file| Source { file, is_terminal })
        };
        Ok(Self { source, output, terminal, name: None })
    }

    fn pty_pair() -> Result<Self, Error> {
        let pty = pty::Pty::open().map_err(Error::Pty)?;
        let file = pty.master.try_clone().map_err(Error::Pty)?;
        let output = Output::start(pty.master, Full::Drops, Some(pty.slave)).map_err(Error::Thread)?;
        let source = Some(Source { file, is_terminal: false });
        Ok(Self { source, output, terminal: None, name: Some(pty.name) })
    }

    fn file(path: &Path) -> Result<Self, Error> {
        // A FIFO that nobody reads is an error, not a wait for a reader; a terminal is not to be ours.
        let file = OpenOptions::new()
            .append(true)
            .create(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(path)
            .map_err(|source| Error::File { path: path.into(), source })?;
        let output = Output::start(file, Full::Waits, None).map_err(Error::Thread)?;
        Ok(Self { source: None, output, terminal: None, name: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::{Read, Write};
    use std::time::Duration;
    use vmm_sys_util::tempdir::TempDir;

    #[test]
    fn file_console_appends() {
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("log");
        fs::write(&path, "before\n").unwrap();
        let console = Console::open(&ConsoleConfig::File(path.clone())).unwrap();
        console.output.push(b"after\n");
        console.output.finish(Duration::from_secs(60));
        assert_eq!(fs::read(&path).unwrap(), b"before\nafter\n");
    }

    #[test]
    fn console_file_in_a_missing_folder_is_named() {
        let error = Console::open(&ConsoleConfig::File("/nowhere/at/all".into())).err().unwrap();
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
    }

    #[test]
    fn a_fifo_wants_its_reader_first() {
        use rustix::fs::{CWD, Mode, mkfifoat};
        let folder = TempDir::new().unwrap();
        let path = folder.as_path().join("fifo");
        mkfifoat(CWD, &path, Mode::RUSR | Mode::WUSR).unwrap();
        assert!(matches!(Console::open(&ConsoleConfig::File(path.clone())), Err(Error::File { .. })));
        // Opened for both, it has a reader at once.
        let mut reader = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let console = Console::open(&ConsoleConfig::File(path)).unwrap();
        // More than it holds: the rest waits for it to be read.
        let sent: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
        console.output.push(&sent);
        let mut seen = vec![0; sent.len()];
        reader.read_exact(&mut seen).unwrap();
        assert_eq!(seen, sent);
        console.output.finish(Duration::from_secs(60));
        assert_eq!(console.output.dropped(), 0);
    }

    #[test]
    fn pty_carries_bytes_unchanged_both_ways() {
        let mut console = Console::open(&ConsoleConfig::Pty).unwrap();
        let mut person = OpenOptions::new().read(true).write(true).open(console.pty().unwrap()).unwrap();
        console.output.push(b"login: \n");
        let mut seen = [0; 8];
        person.read_exact(&mut seen).unwrap();
        assert_eq!(&seen, b"login: \n");
        person.write_all(b"root\r\x03").unwrap();
        let mut typed = [0; 6];
        console.source.as_mut().unwrap().file.read_exact(&mut typed).unwrap();
        assert_eq!(&typed, b"root\r\x03");
    }

    #[test]
    fn pty_that_nobody_reads_drops_instead_of_blocking() {
        let console = Console::open(&ConsoleConfig::Pty).unwrap();
        for _ in 0..64 {
            console.output.wait_for_room();
            console.output.push(&[b'x'; 4096]);
        }
        console.output.finish(Duration::from_secs(60));
        assert!(console.output.dropped() > 0);
        // Nobody has opened it, and still it is no hang-up.
        let mut source = console.source.unwrap();
        let error = source.file.read(&mut [0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn null_console_has_no_input_and_takes_everything() {
        let console = Console::open(&ConsoleConfig::Null).unwrap();
        assert!(console.source.is_none() && console.pty().is_none());
        for _ in 0..1000 {
            console.output.wait_for_room();
            console.output.push(&[0; 4096]);
        }
    }
}
