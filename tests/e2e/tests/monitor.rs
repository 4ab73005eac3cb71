//! The monitor, the built-in guest at EL2: `stage2`'s tables under KVM's nested virtualisation.
#![cfg(target_arch = "aarch64")]

use e2e::Kernel;
use e2e::guest::run;

/// Runs the monitor with a command line; `None` where this host has no guests at EL2, which `quire` says.
fn monitor(words: &str) -> Option<(i32, String)> {
    let (code, text) = run(["run", "--el2", "--cpus", "2", "--memory", "512M", "--cmdline", words]);
    if code == 1 && text.contains("FEAT_NV2") {
        assert_ne!(Kernel::of_host(), Kernel::New, "the newest kernel has nested virtualisation: {text}");
        return None;
    }
    Some((code, text))
}

/// How many lines begin with `prefix`.
fn count(text: &str, prefix: &str) -> usize {
    text.lines().filter(|line| line.starts_with(prefix)).count()
}

/// The tests that `words` choose pass, whole, and `least` of them or more were not skipped: as many as there are for one
/// granule where KVM hides what it does. Races have fewer rounds than on an emulated board: every invalidation is
/// an exit to KVM.
#[track_caller]
fn passes(words: &str, least: usize) {
    let Some((code, text)) = monitor(&format!("only={words} rounds=10")) else { return };
    assert_eq!(code, 0, "{text}");
    let (ok, not_ok, skipped) =
        (count(&text, "ok "), count(&text, "not ok "), text.matches(" # SKIP ").count());
    assert_eq!(not_ok, 0, "{text}");
    assert!(text.contains("below=KVM's nested virtualisation"), "it does not know where it runs: {text}");
    // The plan is the last line but one, and counts what was skipped too.
    assert!(text.contains(&format!("\n1..{ok}\r\n# done: ")), "{ok} tests, and another plan: {text}");
    assert!(ok - skipped >= least, "{} tests have shown something, not {least}: {text}", ok - skipped);
}

// A test each: nearly every table is one more set of tables that KVM empties.
#[test]
fn nested_translations_and_faults_of_4_kib_granules_are_those_of_the_tables() {
    passes("translations granule=4K", 30);
}

#[test]
fn nested_translations_and_faults_of_16_kib_granules_are_those_of_the_tables() {
    passes("translations granule=16K", 20);
}

#[test]
fn nested_translations_and_faults_of_64_kib_granules_are_those_of_the_tables() {
    passes("translations granule=64K", 20);
}

#[test]
fn nested_guests_are_mapped_on_demand() {
    passes("demand", 3);
}

#[test]
fn nested_access_flags_are_set_and_age() {
    passes("access-flag", 6);
}

#[test]
fn nested_writes_are_reported_once() {
    passes("dirty", 18);
}

#[test]
fn nested_stale_translations_are_seen_and_go() {
    passes("stale", 6);
}

#[test]
fn nested_conversions_lose_no_write() {
    passes("conversions", 2);
}

#[test]
fn nested_races_lose_no_generation() {
    passes("race", 6);
}

#[test]
fn nested_invalidations_cover_what_they_say() {
    passes("invalidation", 4);
}

#[test]
fn nested_teardown_returns_everything() {
    passes("teardown", 2);
}

#[test]
fn the_monitor_says_which_word_it_does_not_know() {
    let Some((code, text)) = monitor("quick") else { return };
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("Bail out! unknown word \"quick\" on the command line: expected test, bench"),
        "{text}"
    );
}
