//! `quire doctor` on a host that has everything.
#![cfg(target_arch = "aarch64")]

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
    assert!(report.to_string().contains("ipa"), "{report}");
}
