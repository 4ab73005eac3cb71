//! A running guest under one of the two VMMs: the same kernel, initramfs, memory and balloon.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use e2e::api::Api;
use e2e::measure::process;
use e2e::{Guest, Kernel, Userland, environment, userland};
use rustix::process::{Pid, Signal, setpriority_process};
use serde_json::{Value, json};

use crate::qmp::Qmp;

/// Which of the two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Quire,
    Qemu,
}

/// What the guest does: it obeys words typed at its console. `scatter` writes two files page by page, in turn, and
/// frees one of them, so that every other page of some of its memory is free.
const SCRIPT: &str = r#"
mount -t tmpfs -o size=100% tmpfs /mnt
while read what much; do
  case $what in
  touch) dd if=/dev/zero of=/mnt/file bs=1M count=$much 2>/dev/null; rm /mnt/file ;;
  scatter)
    awk -v pages=$((much * 256)) 'BEGIN {
      for (i = 0; i < pages; i++) {
        file = i % 2 ? "/mnt/odd" : "/mnt/even"
        printf "%4096s", "" > file
        fflush(file)
      }
    }'
    rm /mnt/odd ;;
  gather) rm /mnt/even ;;
  esac
  echo did-$what
done"#;

/// Where things are: all in the host's own memory. What it reads from elsewhere it waits for, and in a host that
/// counts instructions waiting is not time.
pub(crate) struct Place {
    folder: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    quire: PathBuf,
    peer: PathBuf,
}

/// What of Debian's packages QEMU needs to run, below `usr`.
const PEER: [&str; 4] =
    ["lib/ld-linux-aarch64.so.1", "lib/aarch64-linux-gnu", "bin/qemu-system-aarch64", "share/qemu"];

impl Place {
    /// Brings everything into `folder`.
    pub(crate) fn new(folder: &Path) -> Self {
        let peer = std::env::var_os("QUIRE_PEER_DIR").map(PathBuf::from).expect(
            "QUIRE_PEER_DIR names no folder with Debian's QEMU for arm64, unpacked: `cargo lab bench release` \
             brings it",
        );
        let userland = Userland::new(Kernel::New, SCRIPT).with_modules(&["virtio_balloon"]);
        let place = Self {
            folder: folder.into(),
            kernel: folder.join("vmlinuz"),
            initrd: userland.write(folder),
            quire: folder.join("quire"),
            peer: folder.join("peer"),
        };
        for part in PEER {
            let usr = |root: &Path| root.join("usr").join(part);
            copy(&usr(&peer), &usr(&place.peer)).unwrap_or_else(|error| panic!("{part} of QEMU: {error}"));
        }
        for (from, to) in [(Kernel::New.image(), &place.kernel), (environment::quire(), &place.quire)] {
            copy(&from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
        }
        place
    }

    /// What is measured, and on what.
    pub(crate) fn about(&self) -> BTreeMap<String, String> {
        let first_line = |command: &mut Command| {
            let output = command.output().expect("it can be started");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            text.lines().next().unwrap_or_default().to_owned()
        };
        let thp = fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or_default();
        let about = [
            ("host and guest kernel", rustix::system::uname().release().to_string_lossy().into_owned()),
            ("Quire", first_line(Command::new(&self.quire).arg("--version"))),
            ("QEMU", first_line(self.qemu().arg("--version"))),
            ("transparent huge pages", thp.trim().to_owned()),
        ];
        about.map(|(what, value)| (what.to_owned(), value)).into()
    }

    /// Debian's QEMU, by its own loader and libraries.
    fn qemu(&self) -> Command {
        let inner = |path: &str| self.peer.join(path);
        let mut command = Command::new(inner("usr/lib/ld-linux-aarch64.so.1"));
        command.arg("--library-path").arg(inner("usr/lib/aarch64-linux-gnu"));
        command.arg(inner("usr/bin/qemu-system-aarch64")).arg("-L").arg(inner("usr/share/qemu"));
        command
    }
}

/// Copies a file, or a folder with all that is in it. A link that leads nowhere stays behind.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder)?;
        }
        return fs::copy(from, to).map(drop);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        if let Some(name) = path.file_name().filter(|_| path.exists()) {
            copy(&path, &to.join(name))?;
        }
    }
    Ok(())
}

/// A guest under way.
pub(crate) struct Vmm {
    pub(crate) guest: Guest,
    kind: Kind,
    control: Control,
    memory: u64,
}

enum Control {
    Quire(Api),
    Qemu(Qmp),
}

impl Vmm {
    /// Starts a guest with `memory` bytes, and waits until its userland is up. `balloon` is what Quire's gets to
    /// its `--balloon`.
    pub(crate) fn start(kind: Kind, place: &Place, memory: u64, balloon: &str) -> Self {
        let socket = place.folder.join("control");
        // The VMM before may have left it.
        let _ = std::fs::remove_file(&socket);
        let name = socket.to_str().expect("a temporary folder has a plain name");
        let size = format!("{}M", memory >> 20);
        let mut command = match kind {
            Kind::Quire => {
                let mut command = Command::new(&place.quire);
                command.args(["run", "--memory", &size, "--balloon", balloon, "--api-sock", name]);
                command.arg("--kernel").arg(&place.kernel).arg("--initrd").arg(&place.initrd);
                command
            }
            Kind::Qemu => qemu(place, &size),
        };
        if kind == Kind::Qemu {
            command.args(["-qmp", &format!("unix:{name},server=on,wait=off")]);
        }
        let mut guest = Guest::spawn(&mut command);
        guest.wait_for(userland::READY);
        let control = match kind {
            Kind::Quire => Control::Quire(Api::at(&socket)),
            Kind::Qemu => Control::Qemu(Qmp::connect(&socket)),
        };
        Self { guest, kind, control, memory }
    }

    /// Lets whatever else wants a processor have it before this VMM, from now on: so that who waits for a word of its,
    /// on a host with one processor, sees it when it is said, and not when the VMM rests.
    pub(crate) fn yield_to_others(&self) {
        for thread in process::threads(self.pid()).expect("the VMM is there") {
            let thread = i32::try_from(thread).ok().and_then(Pid::from_raw).expect("threads have ids");
            setpriority_process(Some(thread), 19).expect("a thread can be made nicer");
        }
    }

    /// Lets the guest do something, and waits until it has.
    pub(crate) fn order(&mut self, what: &str, much: u64) {
        self.guest.send(&format!("{what} {much}\n"));
        self.guest.wait_for(&format!("did-{what}"));
    }

    /// Lets the guest write that many bytes of memory and free it again.
    pub(crate) fn touch(&mut self, bytes: u64) {
        self.order("touch", bytes >> 20);
    }

    pub(crate) fn pid(&self) -> u32 {
        self.guest.pid().as_raw_nonzero().get().unsigned_abs()
    }

    /// Asks for a balloon of that many bytes.
    pub(crate) fn set_balloon(&mut self, bytes: u64) {
        match &mut self.control {
            Control::Quire(api) => {
                api.order("PATCH", "/balloon", &json!({ "amount_mib": bytes >> 20 }).to_string())
            }
            Control::Qemu(qmp) => {
                qmp.ask("balloon", json!({ "value": self.memory - bytes }));
            }
        }
    }

    /// How many bytes the guest says that the balloon holds.
    pub(crate) fn balloon(&mut self) -> u64 {
        match &mut self.control {
            Control::Quire(_) => self.get("/quire/balloon")["actual"].as_u64().expect("bytes"),
            Control::Qemu(qmp) => {
                let left = qmp.ask("query-balloon", json!({}));
                self.memory - left["actual"].as_u64().expect("QEMU says how much the guest has")
            }
        }
    }

    /// Sends SIGTERM, and waits for the end; how long each took: until the VMM says that the guest has stopped (where
    /// it says so), and until the process has gone.
    pub(crate) fn terminate(mut self) -> (Option<Duration>, Duration) {
        let started = Instant::now();
        self.guest.signal(Signal::TERM);
        let said = (self.kind == Kind::Quire).then(|| {
            self.guest.wait_for("quire: stopped the guest");
            started.elapsed()
        });
        self.guest.wait_until_gone();
        (said, started.elapsed())
    }

    /// A document of Quire's API.
    pub(crate) fn get(&self, path: &str) -> Value {
        let Control::Quire(api) = &self.control else { panic!("{:?} has no {path}", self.kind) };
        let (status, body) = api.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}"))
    }
}

/// QEMU with the machine that comes closest to Quire's.
fn qemu(place: &Place, memory: &str) -> Command {
    let mut command = place.qemu();
    command.args(["-accel", "kvm", "-M", "virt,gic-version=3", "-cpu", "host", "-smp", "1", "-m", memory]);
    command.args(["-nodefaults", "-nic", "none", "-display", "none", "-no-reboot", "-serial", "stdio"]);
    command.args(["-global", "virtio-mmio.force-legacy=false", "-device", "virtio-balloon-device"]);
    command.arg("-kernel").arg(&place.kernel).arg("-initrd").arg(&place.initrd);
    command
}
