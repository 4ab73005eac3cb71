//! Brings the host up: file systems, modules, shared folders.

use std::ffi::CString;
use std::fs;
use std::path::Path;

use lab_init::plan::{self, Plan};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};
use rustix::process::{WaitOptions, wait};
use rustix::system::RebootCommand;

/// What can go wrong before the agent runs.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file of the initramfs or of the kernel's file systems.
    #[error("{path}: {source}")]
    File { path: String, source: std::io::Error },
    /// The plan is not one.
    #[error("{}: {source}", plan::PATH)]
    Plan { source: serde_json::Error },
    /// A file system could not be mounted.
    #[error("cannot mount {kind} on {path}: {source}")]
    Mount { kind: &'static str, path: String, source: Errno },
}

/// What a program finds mounted, in this order: kind, path, options, needed.
const MOUNTS: [(&str, &str, &str, bool); 10] = [
    ("devtmpfs", "/dev", "", true),
    ("proc", "/proc", "", true),
    ("sysfs", "/sys", "", true),
    ("tmpfs", "/tmp", "mode=1777", true),
    ("tmpfs", "/run", "mode=755", true),
    ("devpts", "/dev/pts", "gid=5,mode=620,ptmxmode=666", true),
    ("tmpfs", "/dev/shm", "mode=1777", true),
    ("cgroup2", "/sys/fs/cgroup", "", false),
    ("debugfs", "/sys/kernel/debug", "", false),
    ("tracefs", "/sys/kernel/tracing", "", false),
];

/// From here on the kernel's console has everything, and a word on each program that a fault has ended: the
/// lab shows it where a test fails, and who was killed can't.
const TALKATIVE: [(&str, &str); 2] =
    [("/proc/sys/kernel/printk", "7"), ("/proc/sys/debug/exception-trace", "1")];

/// 9p, but for what it keeps.
const SHARE_OPTIONS: &str = "trans=virtio,version=9p2000.L,msize=512000,access=any";
/// Shows a file as the machine outside has it: nothing is kept but what is mapped, so that programs can be started and
/// files be mapped.
const AS_OUTSIDE: &str = "cache=mmap";
/// Keeps what was read. A program that is started a second time is there; without, most of the time of a short one
/// is that of bringing it again.
const STILL: &str = "cache=loose";

/// Mounts, loads, shares. What fails and is needed is the error; the agent reports it.
pub(crate) fn bring_up() -> Result<(), Error> {
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    for (kind, path, options, needed) in MOUNTS {
        let result = mount_at(kind, kind, path, options);
        if needed {
            result?;
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "fd/0"),
        ("/dev/stdout", "fd/1"),
        ("/dev/stderr", "fd/2"),
    ] {
        // A link that exists already is as good.
        let _ = std::os::unix::fs::symlink(target, link);
    }
    let _ = rustix::system::sethostname(b"quire-lab");
    // No crate that is here anyway wraps the ioctl; a host without loopback is still a host.
    let _ = std::process::Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]).status();
    let text = fs::read(plan::PATH).map_err(|source| Error::File { path: plan::PATH.into(), source })?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|source| Error::Plan { source })?;
    for module in &plan.modules {
        load(&Path::new(plan::MODULES).join(module))?;
    }
    let options = format!("{SHARE_OPTIONS},{}", if plan.still { STILL } else { AS_OUTSIDE });
    for share in &plan.shares {
        mount_at("9p", &share.tag, &share.path, &options)?;
    }
    for (file, value) in TALKATIVE {
        // A host that says less is still a host.
        let _ = fs::write(file, value);
    }
    Ok(())
}

fn mount_at(kind: &'static str, source: &str, path: &str, options: &str) -> Result<(), Error> {
    let error = |source| Error::Mount { kind, path: path.into(), source };
    fs::create_dir_all(path).map_err(|source| Error::File { path: path.into(), source })?;
    let options = CString::new(options).map_err(|_| error(Errno::INVAL))?;
    mount(source, path, kind, MountFlags::empty(), options.as_c_str()).map_err(error)
}

/// Loads one module. One that this machine has no use for is no error: a module is there for
/// whoever needs it, and says so on the console.
fn load(path: &Path) -> Result<(), Error> {
    let image = fs::read(path).map_err(|source| Error::File { path: path.display().to_string(), source })?;
    match rustix::system::init_module(&image, c"") {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => eprintln!("lab-init: {}: {errno}", path.display()),
    }
    Ok(())
}

/// Collects every process that ends, until the one with this id does.
pub(crate) fn reap_until(agent: u32) {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if pid.as_raw_nonzero().get() as u32 == agent => return,
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Switches the host off.
pub(crate) fn power_off() -> ! {
    rustix::fs::sync();
    loop {
        // Only a kernel without the call returns here; the lab's time limit ends that.
        let _ = rustix::system::reboot(RebootCommand::PowerOff);
        std::thread::park();
    }
}
