//! The emulated arm64 KVM host: a QEMU, and a wire to the first program in it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use lab_init::plan;
use lab_init::wire::{Exit, Frame, Start};

use crate::error::{Error, Result, at};
use crate::initramfs::Contents;
use crate::kernel::Kernel;
use crate::leash::leash;
use crate::module;
use crate::qemu::Qemu;
use crate::share;

/// How long a host may take to come up. A quiet two-core machine needs 5 s.
const BOOT_LIMIT: Duration = Duration::from_secs(240);

/// How much of what the host's kernel said is shown where a test has failed.
const SAID_LIMIT: u64 = 16 << 10;

/// What the host is made of.
#[derive(Debug, Clone)]
pub(crate) struct Parts {
    /// The emulator.
    pub(crate) qemu: Qemu,
    /// The kernel.
    pub(crate) kernel: Kernel,
    /// The first program.
    pub(crate) init: PathBuf,
    /// The shell and its tools.
    pub(crate) busybox: PathBuf,
}

/// Its size and its temper.
#[derive(Debug, Clone)]
pub(crate) struct Shape {
    /// RAM, as QEMU writes it (`6G`).
    pub(crate) memory: String,
    /// CPUs.
    pub(crate) cpus: u32,
    /// Virtual time counts instructions: slower or faster in wall time, but repeatable.
    pub(crate) deterministic: bool,
    /// Added to the kernel's command line.
    pub(crate) append: String,
    /// Nobody changes what is shared with it while it runs: it may keep what it has read.
    pub(crate) still: bool,
}

/// Where a program wrote something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    /// Its standard output.
    Output,
    /// Its standard error.
    Error,
}

/// A running host.
pub(crate) struct Host {
    qemu: Child,
    wire: Wire,
    frames: Receiver<Frame>,
    /// What QEMU and the host's kernel said. A file without a name: it goes when we do.
    console: File,
    /// Its kernel's release.
    pub(crate) release: String,
}

/// Our end for sending; shared with the thread that carries input.
#[derive(Clone)]
pub(crate) struct Wire(Arc<Mutex<UnixStream>>);

impl Wire {
    /// Sends a frame. Where the host has gone, whoever waits for its frames learns why.
    pub(crate) fn send(&self, frame: &Frame) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = frame.write(&mut *stream);
    }
}

impl Host {
    /// Starts one and waits until it is ready.
    ///
    /// # Errors
    /// Where QEMU does not start, or the host does not come up in time; with the end of its console.
    pub(crate) fn boot(parts: &Parts, shape: &Shape, folders: &[PathBuf]) -> Result<Host> {
        let shares = share::shares(folders)?;
        let modules = parts.kernel.modules(&module::HOST)?;
        let contents = Contents {
            init: &parts.init,
            busybox: &parts.busybox,
            modules: &modules,
            shares: &shares,
            still: shape.still,
        };
        let mut initramfs = tempfile::tempfile().map_err(at("a scratch file"))?;
        initramfs.write_all(&contents.archive()?).map_err(at("a scratch file"))?;
        let console = tempfile::tempfile().map_err(at("a scratch file"))?;
        let clone = |file: &File| file.try_clone().map_err(at("a descriptor"));
        let (ours, theirs) = UnixStream::pair().map_err(at("a socket"))?;
        let mut command = parts.qemu.command();
        command.args(machine(shape));
        command.arg("-kernel").arg(parts.kernel.image()).args(["-initrd", "/dev/fd/5"]);
        command
            .arg("-append")
            .arg(format!("console=ttyAMA0 rdinit=/init quiet kvm-arm.mode=nested panic=-1 {}", shape.append));
        command.args(["-chardev", "file,id=console,path=/dev/fd/4,append=on", "-serial", "chardev:console"]);
        command.args(["-chardev", "socket,id=lab,fd=3"]);
        command.args(["-device", "virtio-serial-pci"]);
        command.args(["-device", &format!("virtserialport,chardev=lab,name={}", plan::PORT)]);
        for share in &shares {
            let (tag, path) = (&share.tag, &share.path);
            let device = format!("local,id={tag},path={path},security_model=none,multidevs=remap");
            command.arg("-fsdev").arg(device);
            command.arg("-device").arg(format!("virtio-9p-pci,fsdev={tag},mount_tag={tag}"));
        }
        command.stdin(Stdio::null());
        command.stdout(clone(&console)?).stderr(clone(&console)?);
        leash(&mut command);
        let given: [OwnedFd; 3] = [theirs.into(), clone(&console)?.into(), initramfs.into()];
        let mapping = |(parent_fd, child_fd)| FdMapping { parent_fd, child_fd };
        command
            .fd_mappings(given.into_iter().zip(3..).map(mapping).collect())
            .map_err(|error| Error::Usage(error.to_string()))?;
        let qemu = command.spawn().map_err(|source| Error::Spawn { program: "qemu".into(), source })?;
        // The command still holds QEMU's end: its death would not be heard.
        drop(command);

        let mut from = ours.try_clone().map_err(at("a descriptor"))?;
        let (to, frames) = channel();
        thread::spawn(move || {
            while let Ok(Some(frame)) = Frame::read(&mut from) {
                if to.send(frame).is_err() {
                    return;
                }
            }
        });
        let wire = Wire(Arc::new(Mutex::new(ours)));
        let mut host = Host { qemu, wire, frames, console, release: String::new() };
        match host.next(BOOT_LIMIT)? {
            Some(Frame::Ready(release)) => host.release = release,
            Some(Frame::Refused(why)) => return Err(host.dead(&format!("did not come up: {why}"))),
            Some(frame) => return Err(host.dead(&format!("began with an odd frame, {frame:?}"))),
            None => {
                let what = format!("was not ready after {} s", BOOT_LIMIT.as_secs());
                return Err(host.dead(&what));
            }
        }
        Ok(host)
    }

    /// For sending frames.
    pub(crate) fn wire(&self) -> Wire {
        self.wire.clone()
    }

    /// The next frame; `None` where none comes in time.
    ///
    /// # Errors
    /// Where the host has died; with the end of its console.
    pub(crate) fn next(&mut self, limit: Duration) -> Result<Option<Frame>> {
        match self.frames.recv_timeout(limit) {
            Ok(frame) => Ok(Some(frame)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let status = self.qemu.wait().map_err(at("qemu"))?;
                Err(self.dead(&format!("died (QEMU: {status})")))
            }
        }
    }

    /// Runs a program without input to its end, or until it has been silent for `silence`; gives
    /// its output away piece by piece. `None` where it had to be killed.
    ///
    /// # Errors
    /// Where it can't be started, or the host dies.
    pub(crate) fn run(
        &mut self,
        start: Start,
        silence: Duration,
        output: &mut dyn FnMut(Stream, &[u8]),
    ) -> Result<Option<Exit>> {
        self.wire.send(&Frame::Start(start));
        self.wire.send(&Frame::InputEnd);
        let mut killed = false;
        loop {
            // What was killed ends soon, or never will.
            let limit = if killed { Duration::from_secs(30) } else { silence };
            match self.next(limit)? {
                Some(Frame::Output(bytes)) => output(Stream::Output, &bytes),
                Some(Frame::Error(bytes)) => output(Stream::Error, &bytes),
                Some(Frame::Exited(exit)) => return Ok((!killed).then_some(exit)),
                Some(Frame::Refused(why)) => return Err(Error::Refused(why)),
                Some(_) => {}
                None if killed => return Err(self.dead("did not end a program that was killed")),
                None => {
                    killed = true;
                    self.wire.send(&Frame::Signal(9));
                }
            }
        }
    }

    /// How much the host's kernel has said so far, in bytes: for [`Host::said_since`].
    pub(crate) fn said(&self) -> u64 {
        self.console.metadata().map_or(0, |file| file.len())
    }

    /// The end of what the host's kernel has said since it had said `from` bytes.
    pub(crate) fn said_since(&self, from: u64) -> String {
        let to = self.said();
        let from = from.max(to.saturating_sub(SAID_LIMIT));
        let mut text = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or_default()];
        // What can't be read is left out, as in `dead`.
        let count = self.console.read_at(&mut text, from).unwrap_or(0);
        String::from_utf8_lossy(&text[..count]).into_owned()
    }

    fn dead(&self, what: &str) -> Error {
        let mut text = Vec::new();
        // An error about an error would help nobody: what can't be read is left out.
        let _ = (&self.console).rewind().and_then(|()| (&self.console).read_to_end(&mut text));
        Error::Host { what: what.into(), console: String::from_utf8_lossy(&text).into_owned() }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The agent has synced what programs wrote; there is nothing to shut down in order.
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// The machine's arguments, but for what differs from boot to boot.
fn machine(shape: &Shape) -> Vec<String> {
    let mut args: Vec<String> = Vec::new();
    let mut add = |list: &[&str]| args.extend(list.iter().map(|arg| (*arg).to_owned()));
    add(&["-M", "virt,virtualization=on,gic-version=3", "-cpu", cpu(shape)]);
    add(&["-nodefaults", "-nic", "none", "-display", "none", "-no-reboot"]);
    add(&["-m", &shape.memory, "-smp", &shape.cpus.to_string()]);
    if shape.deterministic {
        add(&["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off"]);
    } else {
        add(&["-accel", "tcg,thread=multi"]);
    }
    args
}

/// The CPU. The implementation-defined pointer authentication is the one that is cheap to emulate.
///
/// Without FEAT_LPA2 there are 48 bits of physical address, not 52. KVM gives the tables of a guest hypervisor's guests
/// as many, and walks all of that space in steps of 1 GiB (32 MiB where pages have 16 KiB) whenever it empties such
/// tables: seconds instead of a minute. What is measured keeps the CPU that it has always been measured with.
const fn cpu(shape: &Shape) -> &'static str {
    if shape.deterministic { "max,pauth-impdef=on" } else { "max,pauth-impdef=on,lpa2=off" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deterministic_host_counts_instructions_on_one_thread() {
        let mut shape =
            Shape { memory: "6G".into(), cpus: 2, deterministic: true, append: String::new(), still: false };
        let args = machine(&shape).join(" ");
        assert!(args.contains("-accel tcg,thread=single -icount shift=0,sleep=off"), "{args}");
        shape.deterministic = false;
        let args = machine(&shape).join(" ");
        assert!(args.contains("thread=multi") && !args.contains("icount"), "{args}");
        assert!(
            args.contains("virtualization=on") && args.contains("-smp 2") && args.contains("-m 6G"),
            "{args}"
        );
    }
}
