//! A `quire` with a fault is caught by the guest or by the audit of `quire stress`.
#![cfg(target_arch = "aarch64")]

use std::process::Command;

use e2e::Guest;
use e2e::environment::quire_with_faults;

/// `quire` with a fault in, which ends with 1; what was said.
#[track_caller]
fn fails<'a>(fault: &str, words: impl IntoIterator<Item = &'a str>) -> String {
    let mut command = Command::new(quire_with_faults());
    Guest::spawn(command.args(words).env("QUIRE_FAULT", fault)).expect_exit(1)
}

/// Storms with a fault in; what was said.
#[track_caller]
fn caught(fault: &str, memory: &str, balloon: &str) -> String {
    let limits = ["stress", "balloon", "--seed", "1", "--steps", "2000", "--seconds", "100"];
    let text = fails(fault, limits.into_iter().chain(["--memory", memory, "--balloon", balloon]));
    assert!(text.contains("FAILED: seed 1"), "{fault}: {text}");
    assert!(text.contains("FAILED at step "), "{fault}: {text}");
    text
}

/// What a failed storm says to type leads to the same step again.
#[track_caller]
fn leads_there_again(fault: &str, text: &str) {
    let again = text.lines().find_map(|line| line.trim().strip_prefix("again: quire ")).unwrap_or_default();
    let second = fails(fault, again.split_ascii_whitespace());
    let step =
        text.split("FAILED at step ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap_or_default();
    assert!(second.contains(&format!("FAILED at step {step} (seed 1)")), "{fault}: {again}: {second}");
}

const FREE: &str = "must-tell-host=off,report=on";
const MUST_TELL: &str = "report=on";

#[test]
fn fault_round_up_is_caught_by_the_guest() {
    let text = caught("round-up", "64M,block=4K", FREE);
    assert!(text.contains("kind="), "{text}");
    leads_there_again("round-up", &text);
}

#[test]
fn fault_forget_deflate_is_caught_by_the_guest() {
    let text = caught("forget-deflate", "64M", MUST_TELL);
    assert!(text.contains("kind="), "{text}");
}

#[test]
fn fault_tell_first_is_caught_by_the_guest() {
    let text = caught("tell-first", "64M,block=4K", FREE);
    assert!(text.contains("kind="), "{text}");
}

#[test]
fn fault_dontneed_shared_is_caught() {
    let text = caught("dontneed-shared", "64M,backing=memfd", FREE);
    assert!(text.contains("kind=kept") || text.contains("kind=used-not-cleared"), "{text}");
}

#[test]
fn fault_report_nothing_is_caught_by_the_guest() {
    let text = caught("report-nothing", "64M", FREE);
    assert!(text.contains("kind=used-not-cleared"), "{text}");
}

#[test]
fn fault_return_twice_is_caught_by_the_driver() {
    let text = caught("return-twice", "64M", MUST_TELL);
    assert!(text.contains("kind=returned-twice"), "{text}");
}

#[test]
fn fault_forget_release_is_caught_by_the_audit() {
    let text = caught("forget-release", "64M,block=4K", MUST_TELL);
    assert!(text.contains("the host holds nothing there"), "{text}");
    leads_there_again("forget-release", &text);
}
