//! Power-off, reset, signals, crashes, and what is left behind.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::thread;

use e2e::environment::linux_soon;
use e2e::guest::run;
use e2e::hugepages::Pool;
use e2e::{Guest, Kernel, Userland};
use rustix::process::Signal;

#[test]
fn power_off_ends_with_zero() {
    let (code, text) = run(["run", "--memory", "64M", "--cmdline", "poweroff", "--cpus", "2"]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_reset_reboots_the_guest_in_place() {
    let (code, text) = run(["run", "--memory", "64M", "--cpus", "2", "--cmdline", "reset=2 generations=1"]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(text.matches("stamper: boot").count(), 3, "{text}");
    assert!(text.contains("generation=1 bad=0"), "{text}");
}

#[test]
fn linux_reboots_with_its_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    fs::write(&disk, vec![0; 1 << 20]).unwrap();
    // The first time it leaves a mark and reboots, the second time it finds the mark.
    let script = r#"
        if [ "$(dd if=/dev/vda bs=4 count=1 2>/dev/null)" = mark ]; then echo "second time"
        else echo "first time"; printf mark | dd of=/dev/vda conv=notrunc 2>/dev/null; sync; reboot -f; sleep 1000; fi
    "#;
    let initrd = Userland::new(Kernel::New, script).write(folder.path());
    let disk = disk.display().to_string();
    let mut guest = Guest::start(linux_soon(Kernel::New, &initrd, &["--disk", &disk]));
    guest.wait_for("first time");
    guest.wait_for("second time");
    guest.expect_exit(0);
}

#[test]
fn signals_stop_it_in_order() {
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        for words in ["spin", "idle"] {
            let mut guest = Guest::start(["run", "--memory", "64M", "--cpus", "3", "--cmdline", words]);
            guest.wait_for(&format!("stamper: {words}"));
            guest.signal(signal);
            let text = guest.expect_exit(0);
            assert!(text.contains("quire: stopped the guest on SIG"), "{text}");
        }
    }
}

#[test]
fn a_guest_that_is_stopped_while_its_memory_is_populated_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let (ram, socket) = (folder.path().join("ram"), folder.path().join("api.sock"));
    let memory = format!("2G,backing=file:{},prefault=on", ram.display());
    let guest = Guest::start(["run", "--memory", &memory, "--api-sock", socket.to_str().unwrap()]);
    let populated = || fs::metadata(&ram).is_ok_and(|file| file.blocks() > 0);
    while !populated() {
        thread::yield_now();
    }
    guest.signal(Signal::TERM);
    let text = guest.expect_exit(1);
    assert!(text.contains("asked to stop before the guest had started"), "{text}");
    assert!(!ram.exists() && !socket.exists());
}

#[test]
fn threads_are_named_for_what_they_do() {
    let mut guest = Guest::start(["run", "--memory", "64M", "--cpus", "2", "--cmdline", "idle"]);
    guest.wait_for("stamper: idle");
    let tasks = fs::read_dir(format!("/proc/{}/task", guest.pid().as_raw_nonzero())).unwrap();
    let names: BTreeSet<String> = tasks
        .map(|task| fs::read_to_string(task.unwrap().path().join("comm")).unwrap().trim().to_owned())
        .collect();
    for name in ["quire", "vcpu0", "vcpu1", "devices"] {
        assert!(names.contains(name), "no thread is called {name}: {names:?}");
    }
    guest.signal(Signal::TERM);
    guest.expect_exit(0);
}

#[test]
fn a_guest_that_can_not_go_on_is_an_error_that_says_where() {
    let (code, text) = run(["run", "--memory", "64M", "--cmdline", "crash=nisv"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("neither memory nor a device"), "{text}");
    assert!(text.contains("pc 0x4") && text.contains("esr_el1 0x"), "{text}");
}

#[test]
fn an_access_to_no_device_reads_zero_and_the_guest_goes_on() {
    let (code, text) = run(["run", "--memory", "64M", "--cmdline", "crash=unmapped"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamper: survived kind=unmapped value=0x0"), "{text}");
}

#[test]
fn the_timeline_is_in_order() {
    let (code, text) = run(["run", "--memory", "64M", "--timing"]);
    assert_eq!(code, 0, "{text}");
    let at = |what: &str| -> u64 {
        let line =
            text.lines().find(|line| line.ends_with(what)).unwrap_or_else(|| panic!("no {what}: {text}"));
        line.split_whitespace().next().unwrap().parse().unwrap()
    };
    let points = [
        "guest memory mapped",
        "VM created",
        "kernel loaded",
        "first guest instruction",
        "first console byte",
    ];
    assert!(points.map(at).is_sorted(), "{text}");
    assert!(at("guest memory mapped") > 0, "{text}");
}

/// Process ids, files of the temporary folder, and free huge pages.
fn belongings(pool: Option<&Pool>) -> (BTreeSet<String>, BTreeSet<String>, Option<u64>) {
    let processes = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| {
            let entry = entry.unwrap();
            let name = fs::read_to_string(entry.path().join("comm")).ok()?;
            name.starts_with("quire").then(|| entry.file_name().to_string_lossy().into_owned())
        })
        .collect();
    let files = ["/tmp", "/dev/shm", "/run"]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flatten()
        .map(|entry| entry.unwrap().path().display().to_string())
        .filter(|path| path.contains("quire"))
        .collect();
    (processes, files, pool.map(Pool::free))
}

#[test]
fn ten_guests_one_after_another_leave_nothing_behind() {
    let pool = Pool::with_free(2048, 32);
    // Other tests may run at the same time as this one: what counts is what these ten add.
    let mut pids = BTreeSet::new();
    let (_, files, pages) = belongings(pool.as_ref());
    for n in 0..10 {
        let memory = match (&pool, n % 3) {
            (Some(_), 0) => "64M,backing=hugetlb,block=2M",
            (_, 1) => "64M,backing=memfd",
            _ => "64M",
        };
        let guest = Guest::start(["run", "--memory", memory, "--cmdline", "generations=1"]);
        pids.insert(guest.pid().as_raw_nonzero().to_string());
        guest.expect_exit(0);
    }
    let (processes, files_after, pages_after) = belongings(pool.as_ref());
    assert!(processes.is_disjoint(&pids), "{processes:?} are left of {pids:?}");
    assert_eq!(files, files_after);
    assert_eq!(pages, pages_after, "huge pages");
}
