//! The console: every kind of it, input, and a terminal that is left as it was found.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::fs::{self, OpenOptions};

use e2e::environment::linux_soon;
use e2e::guest::run;
use e2e::terminal::Terminal;
use e2e::{Guest, Kernel, Userland, userland};
use rustix::process::Signal;

const ECHO: [&str; 5] = ["run", "--memory", "64M", "--cmdline", "echo"];

#[test]
fn input_from_a_pipe_reaches_the_guest() {
    let mut guest = Guest::start(ECHO);
    guest.wait_for("stamper: echo ready");
    guest.send("one two\n");
    guest.wait_for("stamper: echo \"one two\"");
    guest.send("quit\n");
    guest.wait_for("stamper: echo lines=1");
    guest.expect_exit(0);
}

#[test]
fn input_that_comes_at_once_and_ends_is_not_lost() {
    let mut guest = Guest::start(ECHO);
    let lines: String = (0..200).map(|n| format!("line {n}\n")).collect();
    guest.send(&lines);
    guest.send("quit\n");
    guest.close_input();
    let text = guest.expect_exit(0);
    for n in 0..200 {
        assert!(text.contains(&format!("stamper: echo \"line {n}\"")), "line {n} is lost: {text}");
    }
}

#[test]
fn input_reaches_a_linux_shell() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = Userland::new(Kernel::New, "read line; echo \"it read $line\"").write(folder.path());
    let mut guest = Guest::start(linux_soon(Kernel::New, &initrd, &[]));
    guest.wait_for(userland::READY);
    guest.send("these words\n");
    guest.wait_for("it read these words");
    guest.expect_exit(0);
}

#[test]
fn ctrl_a_x_quits_and_the_terminal_is_as_before() {
    let terminal = Terminal::open();
    let before = terminal.settings();
    let mut guest = Guest::start_on(&terminal, ["run", "--memory", "64M", "--cmdline", "spin"]);
    guest.wait_for("stamper: spin");
    let raw = terminal.settings();
    assert_ne!(format!("{:?}", raw.local_modes), format!("{:?}", before.local_modes), "it is raw meanwhile");
    guest.send("\u{1}x");
    guest.expect_exit(0);
    assert_eq!(format!("{before:?}"), format!("{:?}", terminal.settings()));
}

#[test]
fn every_end_leaves_the_terminal_as_it_was() {
    for (words, signal, code) in [
        ("generations=1", None, Some(0)),
        ("crash=nisv", None, Some(1)),
        ("spin", Some(Signal::TERM), Some(0)),
        // The guest's words go on while the terminal is put back.
        ("spin", Some(Signal::ABORT), None),
    ] {
        let terminal = Terminal::open();
        let before = terminal.settings();
        let mut guest = Guest::start_on(&terminal, ["run", "--memory", "64M", "--cmdline", words]);
        if let Some(signal) = signal {
            guest.wait_for("stamper: spin");
            guest.signal(signal);
        }
        let (status, text) = guest.wait();
        assert_eq!(status.code(), code, "{words} {signal:?}: {text}");
        assert_eq!(format!("{before:?}"), format!("{:?}", terminal.settings()), "{words} {signal:?}");
    }
}

#[test]
fn a_file_gets_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("console.log");
    let option = format!("file:{}", file.display());
    let (code, text) = run(["run", "--memory", "64M", "--console", &option]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("stamper:"), "{text}");
    assert!(fs::read_to_string(&file).unwrap().contains("stamper: done ok"));
}

#[test]
fn null_drops_the_output() {
    let (code, text) = run(["run", "--memory", "64M", "--console", "null"]);
    assert_eq!(code, 0, "{text}");
    assert!(!text.contains("stamper:"), "{text}");
}

#[test]
fn a_pseudo_terminal_has_a_name_and_takes_both_directions() {
    let mut guest = Guest::start(ECHO.iter().chain(&["--console", "pty"]));
    let line = guest.wait_for("\n");
    let name = line.split_whitespace().last().unwrap().to_owned();
    assert!(name.starts_with("/dev/pts/"), "{line}");
    let pty = OpenOptions::new().read(true).write(true).open(&name).unwrap();
    guest.follow(pty.try_clone().unwrap());
    let mut pty = pty;
    std::io::Write::write_all(&mut pty, b"over the pty\nquit\n").unwrap();
    guest.wait_for("stamper: echo \"over the pty\"");
    guest.wait_for("stamper: echo lines=1");
    guest.expect_exit(0);
}
