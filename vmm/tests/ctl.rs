//! `quire ctl` as a person calls it.
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use quire::config::{BalloonConfig, MemoryConfig, VmConfig};
use quire::machine::control::State;
use serde_json::Value;
use vm_memory::{Bytes, GuestAddress};

use api::client::Api;
use api::guest::BASE;

const MIB: u64 = 1 << 20;

fn start(path: &Path, words: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_quire"))
        .arg("ctl")
        .arg("--api-sock")
        .arg(path)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Exit code, standard output, standard error.
fn end(child: Child) -> (i32, String, String) {
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn ctl(path: &Path, words: &[&str]) -> (i32, String, String) {
    end(start(path, words))
}

#[track_caller]
fn done(api: &Api, words: &[&str]) -> String {
    let (code, out, err) = ctl(&api.path, words);
    assert_eq!((code, err.as_str()), (0, ""), "{words:?}: {out}");
    out
}

#[track_caller]
fn refused(path: &Path, words: &[&str]) -> String {
    let (code, out, err) = ctl(path, words);
    assert_eq!((code, out.as_str()), (1, ""), "{words:?}: {err}");
    assert!(err.starts_with("quire: error: "), "{err}");
    err
}

fn with_balloon() -> Api {
    let memory = MemoryConfig { size: 64 * MIB, ..MemoryConfig::default() };
    let balloon = Some("stats=60".parse::<BalloonConfig>().unwrap());
    let api = Api::of(VmConfig { memory, balloon, ..VmConfig::default() });
    api.machine.guest.drive();
    api
}

#[test]
fn status_is_what_a_person_asks_first() {
    let api = with_balloon();
    let text = done(&api, &["status"]);
    for expected in ["state    running", "vCPUs    1", "memory   64M, backing=anon", "balloon  0", "quire-"] {
        assert!(text.contains(expected), "no {expected:?} in {text}");
    }
    api.machine.guest.balloon().set_target(8 * MIB).unwrap();
    assert!(done(&api, &["status"]).contains("balloon  0 on its way to 8M"));
    let json: Value = serde_json::from_str(&done(&api, &["status", "--json"])).unwrap();
    assert_eq!(json["state"], "Running");
    assert_eq!(json["balloon"]["target"], 8 * MIB);
    assert!(done(&Api::start(), &["status"]).contains("balloon  none"));
}

#[test]
fn pause_resume_and_stop_do_what_they_say() {
    let api = Api::start();
    assert_eq!(done(&api, &["pause"]), "the guest is paused\n");
    assert_eq!(api.machine.control.state(), State::Paused);
    assert!(done(&api, &["status"]).contains("state    paused"));
    assert_eq!(done(&api, &["resume"]), "the guest goes on\n");
    assert_eq!(api.machine.control.state(), State::Running);
    assert_eq!(done(&api, &["pause", "--json"]), "");
    assert_eq!(done(&api, &["stop"]), "the guest is being stopped\n");
    let Api { machine, .. } = api;
    assert_eq!(machine.join(), "asked");
}

#[test]
fn what_is_tracked_is_shown_changed_and_asked() {
    let api = Api::start();
    let memory = api.machine.guest.ram.memory();
    memory.write_slice(&[1; 4096], GuestAddress(BASE + 8 * MIB)).unwrap();
    assert!(done(&api, &["track"]).contains("dirty  off: all of memory counts as written"));
    assert!(refused(&api.path, &["collect"]).contains("no dirty log is on"));
    assert_eq!(
        done(&api, &["track", "--dirty", "on"]),
        "dirty  on\nyoung  off: all of memory counts as used\n"
    );
    assert_eq!(api.get("/vm/config").json()["machine-config"]["track_dirty_pages"], true);
    let collected: Value = serde_json::from_str(&done(&api, &["collect", "--json"])).unwrap();
    assert!(collected["dirty"].as_u64() >= Some(4096), "{collected}");
    assert!(done(&api, &["collect"]).contains("written since the last time  0\n"));
    memory.write_slice(&[2; 4096], GuestAddress(BASE + 8 * MIB)).unwrap();
    let collected: Value = serde_json::from_str(&done(&api, &["collect", "--json"])).unwrap();
    assert!(collected["dirty"].as_u64() >= Some(4096), "{collected}");
    assert!(done(&api, &["age"]).contains("nobody watches"));
    let words = refused(&api.path, &["track", "--young", "presence"]);
    assert!(words.contains("young=presence") && words.contains("backing=memfd"), "{words}");
    let (code, _, words) = ctl(&api.path, &["track", "--young", "zap"]);
    assert_eq!(code, 2, "{words}");
    assert!(words.contains("off, presence, faults or damon"), "{words}");
    assert!(api.ask("PATCH", "/quire/track", "{}").fault().contains("nothing is to be changed"));
    done(&api, &["track", "--dirty", "off"]);
    assert!(refused(&api.path, &["collect"]).contains("no dirty log is on"));
}

#[test]
fn a_balloon_is_watched_until_the_guest_has_followed() {
    let api = with_balloon();
    let guest = &api.machine.guest;
    let child = start(&api.path, &["balloon", "16M"]);
    while guest.balloon().target() != 16 * MIB {
        thread::yield_now();
    }
    for mib in [3, 7, 16] {
        guest.say_actual(mib * MIB);
    }
    let (code, out, err) = end(child);
    assert_eq!((code, out.as_str()), (0, "the balloon holds 16M\n"), "{err}");
    // No terminal: lines, and nothing that moves a cursor.
    assert!(err.starts_with("balloon: ") && err.contains(" of 16M\n") && !err.contains('\x1b'), "{err}");
}

#[test]
fn a_guest_that_gets_no_further_is_told_and_where_it_stands() {
    let api = with_balloon();
    api.machine.guest.say_actual(3 * MIB);
    let err = end(start(&api.path, &["balloon", "16M", "--patience", "0"])).2;
    assert!(err.contains("the balloon holds 3M of 16M, and the guest got no further"), "{err}");
    assert!(err.contains("it may have no more to give"), "{err}");
    assert_eq!(done(&api, &["pause"]), "the guest is paused\n");
    let (code, _, err) = end(start(&api.path, &["balloon", "8M", "--patience", "0"]));
    assert_eq!(code, 1);
    assert!(err.contains("it is paused: `quire ctl resume` lets it go on"), "{err}");
}

#[test]
fn another_size_meanwhile_is_told() {
    let api = with_balloon();
    let child = start(&api.path, &["balloon", "16M"]);
    while api.machine.guest.balloon().target() != 16 * MIB {
        thread::yield_now();
    }
    api.machine.guest.balloon().set_target(8 * MIB).unwrap();
    let (code, _, err) = end(child);
    assert_eq!(code, 1);
    assert!(err.contains("asked for a balloon of 8M before it reached 16M"), "{err}");
}

#[test]
fn what_the_api_refuses_is_said_in_its_words() {
    let api = with_balloon();
    let err = refused(&api.path, &["balloon", "65M"]);
    assert_eq!(err, "quire: error: a balloon of 65M is larger than the guest's memory of 64M\n");
    let err = refused(&Api::start().path, &["balloon", "1M"]);
    assert!(err.contains("no balloon: start it with --balloon"), "{err}");
    let err = refused(&Api::start().path, &["stats"]);
    assert!(err.contains("no balloon"), "{err}");
}

#[test]
fn stats_map_check_and_release_are_text_and_json() {
    let api = with_balloon();
    api.machine.guest.say_actual(4 * MIB);
    assert!(done(&api, &["stats"]).contains("actual_mib    4\n"));
    let map = done(&api, &["map"]);
    assert!(map.starts_with("guest memory 64M\n"), "{map}");
    let check = done(&api, &["check"]);
    assert!(check.ends_with("The ledger and the host agree.\n"), "{check}");
    assert_eq!(done(&api, &["settle"]), "parts of blocks have been given back\n");
    for words in [["stats", "--json"], ["map", "--json"], ["check", "--json"], ["release", "--json"]] {
        assert!(serde_json::from_str::<Value>(&done(&api, &words)).unwrap().is_object(), "{words:?}");
    }
}

#[test]
fn a_map_that_is_watched_ends_with_its_vm_and_with_its_reader() {
    let watch = |api: &Api| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
        command.args(["map", "--watch", "1", "--api-sock"]).arg(&api.path).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let mut api = with_balloon();
    let mut child = watch(&api);
    let mut line = String::new();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "guest memory 64M\n");
    api.close();
    out.read_to_string(&mut line).unwrap();
    let (code, _, err) = end(child);
    assert_eq!((code, err.as_str()), (0, ""));

    let api = with_balloon();
    let mut child = watch(&api);
    drop(child.stdout.take());
    let (code, _, err) = end(child);
    assert_eq!((code, err.as_str()), (0, ""), "a reader that has seen enough is no error");
}

#[test]
fn a_check_that_does_not_hold_is_exit_code_1() {
    let api = with_balloon();
    let guest = &api.machine.guest;
    // Held by the balloon, and written behind the ledger's back.
    let block = BASE + 32 * MIB..BASE + 34 * MIB;
    guest
        .parts
        .release
        .inflate(std::slice::from_ref(&block), quire::memory::release::Contract::MustTell)
        .unwrap();
    guest.parts.release.settle().unwrap();
    vm_memory::Bytes::write_slice(guest.ram.memory(), &[1; 8], vm_memory::GuestAddress(block.start)).unwrap();
    let (code, out, err) = ctl(&api.path, &["check"]);
    assert_eq!((code, err.as_str()), (1, ""), "{out}");
    assert!(out.contains("released, and not zero: 0x42000000.."), "{out}");
    assert!(out.ends_with("The ledger and the host do not agree.\n"), "{out}");
}

#[test]
fn what_is_wrong_with_the_path_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    assert!(refused(&path, &["status"]).contains("there is no API socket"));
    fs::write(&path, "words").unwrap();
    assert!(refused(&path, &["status"]).contains("is no socket"));
    fs::remove_file(&path).unwrap();
    drop(UnixListener::bind(&path).unwrap());
    let err = refused(&path, &["status"]);
    assert!(err.contains("nobody answers at") && err.contains("without removing it"), "{err}");
    let output = Command::new(env!("CARGO_BIN_EXE_quire")).args(["ctl", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Add --api-sock PATH"));
}

#[test]
fn a_server_that_hangs_up_or_speaks_something_else_is_told_from_one_that_refuses() {
    for (answer, expected) in [
        ("", "the VM ended before it answered"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "is not quire"),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "is not quire"),
        ("HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\n{}", "without a reason"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n[1]", "is not quire"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("api.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            use std::io::Write;
            let (mut stream, _) = listener.accept().unwrap();
            assert_ne!(stream.read(&mut [0; 4096]).unwrap(), 0);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let err = refused(&path, &["stats"]);
        assert!(err.contains(expected), "{answer:?}: {err}");
        server.join().unwrap();
    }
}

#[test]
fn a_size_that_is_none_is_a_matter_of_the_command_line() {
    let (code, _, err) = ctl(Path::new("/nowhere"), &["balloon", "lots"]);
    assert_eq!(code, 2);
    assert!(err.contains("as in 512M"), "{err}");
}
