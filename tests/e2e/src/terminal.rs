//! A pseudo-terminal to run `quire` in.

use std::fs::File;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, open};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, tcgetattr};

use crate::guest::duplicate;

/// A pseudo-terminal: `quire` has the user's end, the test the far one.
#[derive(Debug)]
pub struct Terminal {
    far: OwnedFd,
    user: OwnedFd,
}

impl Terminal {
    /// A new one.
    ///
    /// # Panics
    /// Where the host has none to give.
    pub fn open() -> Self {
        let far = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("/dev/ptmx opens");
        grantpt(&far).expect("the terminal can be granted");
        unlockpt(&far).expect("the terminal can be unlocked");
        let name = ptsname(&far, Vec::new()).expect("the terminal has a name");
        let user = open(name, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).expect("the terminal opens");
        Self { far, user }
    }

    /// The end that a program takes for a terminal.
    pub fn user_end(&self) -> OwnedFd {
        duplicate(&self.user)
    }

    /// The end at which the test types and reads.
    pub fn far_end(&self) -> File {
        duplicate(&self.far).into()
    }

    /// Its present settings.
    ///
    /// # Panics
    /// Where the kernel does not tell.
    pub fn settings(&self) -> Termios {
        tcgetattr(&self.user).expect("a terminal has settings")
    }
}
