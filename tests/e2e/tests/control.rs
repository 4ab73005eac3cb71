//! Pause, resume and stop over the API, with clients that mean no good.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use e2e::api::Api;
use e2e::environment::linux_soon;
use e2e::guest::run;
use e2e::{Guest, Kernel, Userland, environment};
use rustix::process::Signal;

/// A user and a group that own nothing.
const NOBODY: u32 = 65534;

/// The built-in guest, which says something all the time, with its API at `socket`.
fn talking(socket: &Path) -> (Guest, Api) {
    let mut guest = Guest::start([
        "run",
        "--memory",
        "64M",
        "--cpus",
        "2",
        "--cmdline",
        "generations=1000000",
        "--api-sock",
        socket.to_str().unwrap(),
    ]);
    guest.wait_for("generation=2 bad=0");
    (guest, Api::at(socket))
}

/// Processor time of the vCPU threads, in ticks.
fn vcpu_ticks(guest: &Guest) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", guest.pid().as_raw_nonzero())).unwrap();
    let mut ticks = Vec::new();
    for task in tasks {
        let stat = fs::read_to_string(task.unwrap().path().join("stat")).unwrap();
        let (name, rest) = stat.rsplit_once(')').unwrap();
        if name.contains("(vcpu") {
            // utime and stime (proc_pid_stat(5)).
            let words: Vec<&str> = rest.split_whitespace().collect();
            ticks.push(words[11].parse::<u64>().unwrap() + words[12].parse::<u64>().unwrap());
        }
    }
    assert!(!ticks.is_empty());
    ticks
}

#[test]
fn pause_stops_the_guest_resume_lets_it_go_on_and_stop_ends_with_zero() {
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, api) = talking(&folder.path().join("api.sock"));
    for _ in 0..3 {
        api.vm("Paused");
        assert!(api.ask("GET", "/", "").1.contains("\"Paused\""));
        let ticks = vcpu_ticks(&guest);
        // What it had said before is still on its way out.
        thread::sleep(Duration::from_secs(1));
        let printed = guest.printed();
        thread::sleep(Duration::from_secs(1));
        assert_eq!(guest.printed(), printed, "it goes on talking");
        assert_eq!(vcpu_ticks(&guest), ticks, "it goes on running");
        api.vm("Resumed");
        // Only what comes after the last that was waited for counts.
        let seen = printed.matches(" bad=0").count();
        while guest.printed().matches(" bad=0").count() <= seen {
            guest.wait_for(" bad=0");
        }
    }
    api.order("PUT", "/quire/stop", "");
    let text = guest.expect_exit(0);
    assert!(text.contains("quire: stopped the guest as the API asked for it"), "{text}");
    assert!(!folder.path().join("api.sock").exists());
}

#[test]
fn a_paused_guest_stops_in_order_on_a_signal() {
    let folder = tempfile::tempdir().unwrap();
    let (guest, api) = talking(&folder.path().join("api.sock"));
    api.vm("Paused");
    guest.signal(Signal::TERM);
    let text = guest.expect_exit(0);
    assert!(text.contains("quire: stopped the guest on SIGTERM"), "{text}");
    assert!(!folder.path().join("api.sock").exists());
}

#[test]
fn a_guest_that_resets_all_the_time_can_be_paused() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let args = ["run", "--memory", "64M", "--cpus", "2", "--cmdline", "reset=1000000", "--api-sock"];
    let mut guest = Guest::start(args.iter().chain(&[socket.to_str().unwrap()]));
    guest.wait_for("stamper: boot");
    let api = Api::at(&socket);
    for _ in 0..5 {
        api.vm("Paused");
        let ticks = vcpu_ticks(&guest);
        thread::sleep(Duration::from_millis(500));
        assert_eq!(vcpu_ticks(&guest), ticks, "it goes on running");
        api.vm("Resumed");
        guest.wait_for("stamper: boot");
    }
    api.order("PUT", "/quire/stop", "");
    guest.expect_exit(0);
}

/// Pauses a Linux guest with `more` arguments, and compares what its clock and ours say of it.
#[track_caller]
fn assert_time_stands_still(more: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let script = "while read line; do echo \"uptime $(cut -d ' ' -f 1 /proc/uptime) s\"; done";
    let initrd = Userland::new(Kernel::New, script).write(folder.path());
    let args = [&["--cpus", "2", "--api-sock", socket.to_str().unwrap()], more].concat();
    let mut guest = Guest::start(linux_soon(Kernel::New, &initrd, &args));
    guest.wait_for(e2e::userland::READY);
    let mut uptime = || -> f64 {
        guest.send("\n");
        guest.wait_for("uptime ");
        guest.wait_for(" s").trim_end_matches(" s").trim().parse().unwrap()
    };
    let api = Api::at(&socket);
    let first = uptime();
    let start = Instant::now();
    api.vm("Paused");
    let paused = Instant::now();
    thread::sleep(Duration::from_secs(10));
    let paused = paused.elapsed().as_secs_f64();
    api.vm("Resumed");
    let last = uptime();
    // Half of the pause is left for what passed between its reading of a clock and ours.
    let most = start.elapsed().as_secs_f64() - paused / 2.0;
    assert!(last - first < most, "{first} {last} with {paused} s of pause between, at most {most} s");
    assert!(last >= first, "{first} {last}");
    api.order("PUT", "/quire/stop", "");
    let text = guest.expect_exit(0);
    for word in ["soft lockup", "rcu_sched", "self-detected stall"] {
        assert!(!text.contains(word), "{text}");
    }
}

#[test]
fn a_paused_linux_guest_does_not_see_the_time_go_by() {
    assert_time_stands_still(&[]);
}

#[test]
fn nor_does_one_at_el2_that_is_paused() {
    let (_, text) = run(["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let probes = report["probes"].as_array().unwrap();
    let offered = probes.iter().any(|probe| probe["name"] == "EL2 guests" && probe["found"] != "no");
    if offered {
        assert_time_stands_still(&["--el2", "--memory", "512M"]);
    } else {
        assert_ne!(Kernel::of_host(), Kernel::New, "the newest kernel has nested virtualisation");
    }
}

#[test]
fn hostile_clients_do_not_stop_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let (mut guest, api) = talking(&folder.path().join("api.sock"));
    let idle: Vec<_> = (0..100).map(|_| api.connect()).collect();
    let halves: Vec<_> = (0..20)
        .map(|n| {
            let mut stream = api.connect();
            let half = "PATCH /vm HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\n{\"state\"";
            stream.write_all(&half.as_bytes()[..half.len() - n]).unwrap();
            stream
        })
        .collect();
    for n in 0u8..20 {
        let mut stream = api.connect();
        let _ = stream.write_all(&[n; 100_000]);
        let _ = stream.read(&mut [0; 100]);
    }
    let mut deaf = api.connect();
    deaf.set_nonblocking(true).unwrap();
    while deaf.write_all(b"GET /vm/config HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() {}
    for _ in 0..5 {
        let seen = guest.printed().matches(" bad=0").count();
        while guest.printed().matches(" bad=0").count() <= seen {
            guest.wait_for(" bad=0");
        }
        assert_eq!(api.ask("GET", "/", "").0, 200);
    }
    api.vm("Paused");
    api.vm("Resumed");
    api.order("PUT", "/quire/stop", "");
    guest.expect_exit(0);
    drop((idle, halves));
}

#[test]
fn ctl_pauses_shows_and_stops_a_guest() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let (guest, _) = talking(&socket);
    let ctl = |words: &[&str]| run([&["ctl", "--api-sock", socket.to_str().unwrap()], words].concat());
    for (words, expected) in [
        (
            &["status"][..],
            "state    running\nvCPUs    2\nmemory   64M, backing=anon, block=auto\nballoon  none\n",
        ),
        (&["pause"], "the guest is paused\n"),
        (&["status"], "state    paused\n"),
        // All of it has been written, and nothing of it given back.
        (&["map"], "guest memory 64M\n"),
        (&["check"], "The ledger and the host agree.\n"),
        (&["release", "--json"], "\"discarded\": 0,"),
        (&["resume"], "the guest goes on\n"),
        (&["stop"], "the guest is being stopped\n"),
    ] {
        let (code, text) = ctl(words);
        assert_eq!(code, 0, "{words:?}: {text}");
        assert!(text.contains(expected), "{words:?}: {text}");
    }
    guest.expect_exit(0);
    let (code, text) = ctl(&["status"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("there is no API socket"), "{text}");
}

#[test]
fn another_user_is_told_whose_the_socket_is() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let socket = folder.path().join("api.sock");
    let (guest, api) = talking(&socket);
    // Wherever the program lies, this user can execute a copy of it.
    let program = folder.path().join("quire");
    fs::copy(environment::quire(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut ctl = Command::new(&program);
    ctl.args(["ctl", "stop", "--api-sock"]).arg(&socket).uid(NOBODY).gid(NOBODY);
    let (status, text) = Guest::spawn(&mut ctl).wait();
    assert_eq!(status.code(), Some(1), "{text}");
    let owner = fs::metadata(&socket).unwrap().uid();
    assert!(text.contains("no permission for") && text.contains(&format!("user {owner}")), "{text}");
    api.order("PUT", "/quire/stop", "");
    guest.expect_exit(0);
}

#[test]
fn a_socket_that_is_in_use_is_refused_and_one_left_behind_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let name = socket.to_str().unwrap();
    let (guest, api) = talking(&socket);
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    let (code, text) = run(["run", "--memory", "64M", "--api-sock", name]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is the API socket of a program that runs"), "{text}");
    assert!(!text.contains("stamper:"), "{text}");
    assert_eq!(api.ask("GET", "/version", "").0, 200);
    guest.signal(Signal::KILL);
    guest.wait();
    assert!(socket.exists());
    let (guest, api) = talking(&socket);
    api.order("PUT", "/quire/stop", "");
    guest.expect_exit(0);
    fs::write(&socket, "words").unwrap();
    let (code, text) = run(["run", "--memory", "64M", "--api-sock", name]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("is no socket"), "{text}");
}
