//! The built-in guest, on every number of vCPUs and every amount of memory that is at hand.
#![cfg(target_arch = "aarch64")]

use e2e::guest::run;

#[test]
fn without_options_it_stamps_and_verifies_all_of_its_memory() {
    let (code, text) = run(["run"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamper: ready cpus=1 ram=0x40000000+0x20000000"), "{text}");
    assert!(text.contains("generation=2 bad=0"), "{text}");
    assert!(text.contains("stamper: done ok"), "{text}");
}

#[test]
fn four_vcpus_share_the_work() {
    let (code, text) = run(["run", "--cpus", "4", "--memory", "1G"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamper: ready cpus=4 ram=0x40000000+0x40000000"), "{text}");
    assert!(text.contains("stamper: done ok"), "{text}");
}

#[test]
fn the_seventeenth_vcpu_starts_the_second_row_of_affinities() {
    // MPIDR_EL1 counts 16 in Aff0, then goes on in Aff1.
    let (code, text) = run(["run", "--cpus", "17", "--memory", "64M"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamper: ready cpus=17 "), "{text}");
}

#[test]
fn a_command_line_chooses_the_workload() {
    let (code, text) = run(["run", "--memory", "64M", "--cmdline", "generations=3 full"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("generation=3 bad=0"), "{text}");
}

#[test]
fn an_unknown_word_is_named() {
    let (_, text) = run(["run", "--memory", "64M", "--cmdline", "stmap"]);
    assert!(text.contains("stamper: FAIL unknown word \"stmap\""), "{text}");
}
