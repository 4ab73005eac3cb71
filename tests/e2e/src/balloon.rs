//! A Linux guest with a balloon, data that it keeps, and its API.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use serde_json::Value;

use crate::api::Api;
use crate::environment::{self, Kernel};
use crate::footprint;
use crate::guest::{LIMIT, run};
use crate::shell::Shell;

/// Guest memory: room for a kernel, and for a balloon that is worth the name.
pub const RAM: u64 = 384 << 20;
/// What the balloon is asked to hold.
pub const BALLOON: u64 = 160 << 20;
/// What of it comes back at the least: the guest has left some memory untouched, which never cost anything.
pub const LEAST: u64 = BALLOON - (56 << 20);
/// The same of huge pages of 2 MiB: Linux fills its balloon page by page, and what it holds of a huge page stays where
/// it does not hold all of it.
pub const LEAST_IN_HUGE_PAGES: u64 = LEAST - (32 << 20);

/// Leaves a pattern that is not zero in nearly all of the guest's free memory, in a number of `cat`s. The
/// guest's kernel is told not to clear what it hands out: only the host can make it zero.
pub const FILL: &str = "n=$((($(awk '/MemFree/ {print $2}' /proc/meminfo) - 40960) / 2048)); \
    (while [ $n -gt 0 ]; do cat /pattern; n=$((n - 1)); done) > /mnt/fill && rm /mnt/fill";
/// See [`FILL`]: with `init_on_alloc=0`.
const CMDLINE: &str = environment::SOON;

/// A guest with a balloon, data that it keeps, and its API.
#[derive(Debug)]
pub struct BalloonedGuest {
    /// Its shell.
    pub shell: Shell,
    socket: PathBuf,
    /// Its API.
    pub api: Api,
}

impl BalloonedGuest {
    /// Boots `kernel` with `--memory MEMORY` and `--balloon BALLOON`; its files lie in `folder`.
    ///
    /// # Panics
    /// Where it does not come up.
    #[track_caller]
    pub fn boot(kernel: Kernel, folder: &Path, memory: &str, balloon: &str) -> Self {
        let socket = folder.join("api.sock");
        let mut args: Vec<OsString> = Vec::new();
        args.extend(["--cpus", "2", "--cmdline", CMDLINE, "--memory", memory].map(Into::into));
        args.extend(["--balloon".into(), balloon.into(), "--api-sock".into(), socket.clone().into()]);
        let mut shell = Shell::boot(kernel, &["virtio_balloon"], folder, &args);
        shell.tell("mount -t tmpfs -o size=100% tmpfs /mnt");
        shell.tell("tr '\\0' x < /dev/zero | head -c 2097152 > /pattern");
        shell.tell("head -c 8388608 /dev/urandom > /mnt/keep; md5sum /mnt/keep > /sum");
        let api = Api::at(&socket);
        Self { shell, socket, api }
    }

    /// The process that runs it.
    pub fn pid(&self) -> Pid {
        self.shell.guest().pid()
    }

    /// What the guest keeps is what it was.
    ///
    /// # Panics
    /// Where it is not.
    #[track_caller]
    pub fn keeps(&mut self) {
        self.shell.tell("md5sum -c /sum");
    }

    /// `quire ctl WORDS`, which succeeds.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn ctl(&self, words: &[&str]) -> String {
        let (code, text) = run([&["ctl", "--api-sock", &self.socket.to_string_lossy()], words].concat());
        assert_eq!(code, 0, "{words:?}: {text}");
        text
    }

    /// The document at `path` of its API.
    ///
    /// # Panics
    /// Where there is none.
    #[track_caller]
    pub fn get(&self, path: &str) -> Value {
        let (status, text) = self.api.ask("GET", path, "");
        assert_eq!(status, 200, "{path}: {text}");
        serde_json::from_str(&text).expect("the API answers JSON")
    }

    /// Waits until `true` is what `condition` says.
    ///
    /// # Panics
    /// Where it never is.
    #[track_caller]
    pub fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}: {:#}", self.get("/quire/release"));
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Inflates, and holds what comes back to the host against [`LEAST`], by `cost`; deflates, and has the
    /// guest use all of it again.
    ///
    /// # Panics
    /// Where any of that is not so.
    #[track_caller]
    pub fn gives_and_takes(&mut self, cost: &dyn Fn(Pid) -> u64) {
        self.gives_at_least(LEAST, cost);
    }

    /// The same, where `least` is to come back.
    #[track_caller]
    fn gives_at_least(&mut self, least: u64, cost: &dyn Fn(Pid) -> u64) {
        self.shell.tell(FILL);
        let pid = self.pid();
        let (cost_before, zeros_before) = (cost(pid), footprint::zeros(pid, RAM));

        let said = self.ctl(&["balloon", "160M"]);
        assert!(said.contains("the balloon holds 160M"), "{said}");
        self.ctl(&["settle"]);
        let cost_after = cost(pid);
        let freed = cost_before.saturating_sub(cost_after);
        assert!(
            freed >= least,
            "{freed:#x} of {cost_before:#x} bytes are back: {:#}",
            self.get("/quire/release")
        );
        self.ctl(&["check"]);
        let zeros = footprint::zeros(pid, RAM).saturating_sub(zeros_before);
        assert!(zeros >= least, "{zeros:#x} bytes have become zero, {freed:#x} are back");
        self.keeps();

        // The guest's time stands still while it is paused, and the balloon with it.
        self.ctl(&["pause"]);
        assert_eq!(self.get("/quire/balloon")["actual"], BALLOON);
        self.ctl(&["resume"]);

        let said = self.ctl(&["balloon", "0"]);
        assert!(said.contains("the balloon holds 0"), "{said}");
        self.shell.tell(FILL);
        self.keeps();
        self.ctl(&["check"]);
    }
}

/// A guest with `--memory MEMORY` gives and takes, says what its memory is, and powers itself off.
///
/// # Panics
/// Where any of that is not so.
#[track_caller]
pub fn gives_and_takes(kernel: Kernel, memory: &str, cost: &dyn Fn(Pid) -> u64) {
    gives_at_least(LEAST, kernel, memory, cost);
}

/// The same, where `least` is to come back.
///
/// # Panics
/// Where any of that is not so.
#[track_caller]
pub fn gives_at_least(least: u64, kernel: Kernel, memory: &str, cost: &dyn Fn(Pid) -> u64) {
    let folder = tempfile::tempdir().expect("the host has room for a folder");
    let mut guest = BalloonedGuest::boot(kernel, folder.path(), memory, "stats=1");
    guest.gives_at_least(least, cost);
    let figures = guest.get("/balloon/statistics");
    let total = figures["total_memory"].as_u64().unwrap_or_else(|| panic!("no total: {figures:#}"));
    assert!(total < RAM && total > RAM / 2, "{figures:#}");
    for name in ["free_memory", "available_memory", "major_faults", "minor_faults"] {
        assert!(figures[name].is_u64(), "no {name}: {figures:#}");
    }
    guest.shell.end();
}
