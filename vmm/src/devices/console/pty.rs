//! A pseudo-terminal of our own.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

/// Both ends. The slave is kept open by us: without anybody on it the master would report a hang-up
/// over and over; so it holds the first few KiB of output for whoever comes, and drops the rest.
pub(super) struct Pty {
    /// Non-blocking: the description is ours alone.
    pub(super) master: File,
    pub(super) slave: OwnedFd,
    pub(super) name: PathBuf,
}

impl Pty {
    pub(super) fn open() -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = OsString::from_vec(ptsname(&master, Vec::new())?.into_bytes()).into();
        let slave = ioctl_tiocgptpeer(&master, flags)?;
        // Raw, above all without echo: it would send the guest's output back to the guest.
        let mut modes = tcgetattr(&slave)?;
        modes.make_raw();
        tcsetattr(&slave, OptionalActions::Now, &modes)?;
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        Ok(Self { master: File::from(master), slave, name })
    }
}
