//! `quire doctor` on a host that has everything.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use e2e::guest::run;

#[test]
fn the_table_has_a_verdict_for_every_line_of_the_machine() {
    let (_, text) = run(["doctor"]);
    for subject in [
        "/dev/kvm",
        "IPA",
        "GIC",
        "block sizes",
        "EL2",
        "dirty log",
        "SVE",
        "PMU",
        "page size",
        "hugetlb",
        "THP",
        "process_madvise",
        "userfaultfd",
        "PAGEMAP_SCAN",
    ] {
        assert!(text.to_lowercase().contains(&subject.to_lowercase()), "no line on {subject}: {text}");
    }
}

#[test]
fn json_says_the_same() {
    let (_, text) = run(["doctor", "--json"]);
    let report: serde_json::Value =
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
    let probes = report["probes"].as_array().unwrap_or_else(|| panic!("no probes: {report}"));
    let verdict = |name: &str| {
        let probe = probes.iter().find(|probe| probe["name"] == name);
        probe.unwrap_or_else(|| panic!("no probe {name}: {report}"))["verdict"].clone()
    };
    // On any arm64 KVM host; a host that lacks one of them runs no guest.
    for name in ["/dev/kvm", "IPA size", "GIC", "vCPUs"] {
        assert_eq!(verdict(name), "ok", "{name}: {report}");
    }
}
