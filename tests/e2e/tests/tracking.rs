//! What a guest writes and uses, as it is told over the API: KVM's dirty log, and who sees pages used.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::path::Path;

use e2e::api::Api;
use e2e::environment::linux_soon;
use e2e::{Guest, Kernel, Userland};
use rustix::process::Signal;
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// What the guest writes, reads and has, in bytes.
const FILE: u64 = 64 * MIB;

/// What the rest of a Linux guest that has nothing to do may write or use meanwhile, in bytes: huge pages count whole, and
/// a page that is read counts with what the host maps around it.
const NOISE: u64 = 40 * MIB;

/// A Linux guest that does what it is told, one command a line.
struct Told {
    guest: Guest,
    api: Api,
}

impl Told {
    fn start(folder: &Path, memory: &str, track: &str) -> Self {
        let script = "mkdir /work; mount -t tmpfs tmpfs /work; while read line; do eval \"$line\"; echo \"did it\"; done";
        let initrd = Userland::new(Kernel::of_host(), script).write(folder);
        let socket = folder.join("api.sock");
        let args =
            ["--cpus", "2", "--memory", memory, "--track", track, "--api-sock", socket.to_str().unwrap()];
        let mut guest = Guest::start(linux_soon(Kernel::of_host(), &initrd, &args));
        guest.wait_for(e2e::userland::READY);
        let mut told = Self { guest, api: Api::at(&socket) };
        told.does("dd if=/dev/zero of=/work/a bs=1M count=64 2> /dev/null");
        told
    }

    fn does(&mut self, command: &str) {
        self.guest.send(&format!("{command}\n"));
        self.guest.wait_for("did it");
    }

    /// The answer to a request that takes something, and a number in it.
    #[track_caller]
    fn take(&self, what: &str, key: &str) -> u64 {
        let (status, body) = self.api.ask("PUT", &format!("/quire/{what}"), "");
        assert_eq!(status, 200, "{body}");
        let body: Value = serde_json::from_str(&body).unwrap();
        body[key].as_u64().unwrap_or_else(|| panic!("{body}"))
    }

    #[track_caller]
    fn assert_holds(&self) {
        let (status, body) = self.api.ask("GET", "/quire/check", "");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("\"holds\":true"), "{body}");
    }

    fn end(self) {
        self.api.order("PUT", "/quire/stop", "");
        self.guest.expect_exit(0);
    }
}

#[track_caller]
fn assert_written(written: u64) {
    assert!((FILE..FILE + NOISE).contains(&written), "{written} bytes");
}

#[track_caller]
fn assert_little(bytes: u64) {
    assert!(bytes < NOISE, "{bytes} bytes");
}

fn what_is_written_is_collected_once(memory: &str) {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::start(folder.path(), memory, "dirty=on");
    let first = told.take("collect", "dirty");
    assert!(first > FILE, "{first} bytes");
    assert_little(told.take("collect", "dirty"));
    told.does("dd if=/dev/zero of=/work/a bs=1M count=64 conv=notrunc 2> /dev/null");
    assert_written(told.take("collect", "dirty"));
    assert_little(told.take("collect", "dirty"));
    // Reading writes nothing.
    told.does("md5sum /work/a");
    assert_little(told.take("collect", "dirty"));
    assert!(told.take("collect", "clean") > FILE);
    told.assert_holds();
    // Off, nobody knows; on again, everything is written to begin with.
    told.api.order("PATCH", "/quire/track", "{\"dirty\": false}");
    let (status, body) = told.api.ask("PUT", "/quire/collect", "");
    assert!(status == 400 && body.contains("no dirty log is on"), "{body}");
    told.api.order("PATCH", "/quire/track", "{\"dirty\": true}");
    assert!(told.take("collect", "dirty") > FILE);
    told.does("dd if=/dev/zero of=/work/a bs=1M count=64 conv=notrunc 2> /dev/null");
    assert_written(told.take("collect", "dirty"));
    told.end();
}

#[test]
fn what_is_written_to_anonymous_memory_is_collected_once() {
    what_is_written_is_collected_once("256M");
}

#[test]
fn what_is_written_to_a_memfd_is_collected_once() {
    what_is_written_is_collected_once("256M,backing=memfd");
}

#[test]
fn what_is_used_of_shared_memory_is_young_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::start(folder.path(), "256M,backing=memfd,block=4K", "young=presence");
    assert!(told.take("age", "young") > FILE);
    assert_little(told.take("age", "young"));
    told.does("md5sum /work/a");
    let used = told.take("age", "young");
    assert!((FILE..FILE + NOISE).contains(&used), "{used} bytes");
    assert!(told.take("age", "old") > FILE);
    told.assert_holds();
    told.end();
}

#[test]
fn first_uses_of_anonymous_memory_are_young() {
    let folder = tempfile::tempdir().unwrap();
    let mut told = Told::start(folder.path(), "256M,block=4K", "young=off");
    told.api.order("PATCH", "/quire/track", "{\"young\": \"faults\"}");
    told.take("age", "young");
    // What anonymous memory does not have is refused, and what watches goes on to.
    let (status, body) = told.api.ask("PATCH", "/quire/track", "{\"young\": \"presence\"}");
    assert!(status == 400 && body.contains("backing=memfd"), "{body}");
    let (_, body) = told.api.ask("GET", "/quire/track", "");
    assert!(body.contains("\"young\":\"faults\""), "{body}");
    let idle = told.take("age", "young");
    assert!(idle < 4 * MIB, "{idle} bytes");
    // Not all of it: some was used before, and freed.
    told.does("dd if=/dev/zero of=/work/b bs=1M count=32 2> /dev/null");
    let used = told.take("age", "young");
    assert!(used > 8 * MIB, "{used} bytes");
    told.does("cmp /work/b /work/b && rm /work/b");
    told.api.order("PATCH", "/quire/track", "{\"young\": \"off\"}");
    told.does("dd if=/dev/zero of=/work/b bs=1M count=32 2> /dev/null");
    told.assert_holds();
    told.end();
}

#[test]
fn a_guest_whose_first_uses_are_seen_is_whole_and_stops_on_a_signal() {
    let args = ["run", "--memory", "16M", "--cpus", "2", "--track", "young=faults"];
    let mut guest = Guest::start(args.iter().chain(&["--cmdline", "generations=1000000"]));
    guest.wait_for("generation=2 bad=0");
    guest.signal(Signal::TERM);
    guest.expect_exit(0);
}

#[test]
fn a_guest_that_resets_is_logged_in_every_life() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let args = ["run", "--memory", "64M", "--cpus", "2", "--track", "dirty=on", "--cmdline", "reset=1000000"];
    let mut guest = Guest::start(args.iter().chain(&["--api-sock", socket.to_str().unwrap()]));
    guest.wait_for("stamper: boot");
    let api = Api::at(&socket);
    for _ in 0..4 {
        guest.wait_for("stamper: boot");
        let (status, body) = api.ask("PUT", "/quire/collect", "");
        // Between two lives there is no log.
        assert!(status == 200 || body.contains("no dirty log is on"), "{body}");
    }
    api.order("PUT", "/quire/stop", "");
    guest.expect_exit(0);
}
