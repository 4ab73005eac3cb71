//! `quire stress balloon`: short storms on every backing, and what it says.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use e2e::Guest;
use e2e::guest::run;
use e2e::hugepages::Pool;
use e2e::{Kernel, Userland};
use rustix::process::Signal;

/// A storm that has to pass: by steps, so that it is the same on every machine; its report.
fn passes(seed: u32, steps: u32, memory: &str, more: &[&str]) -> serde_json::Value {
    let (seed, steps) = (seed.to_string(), steps.to_string());
    let args = ["stress", "balloon", "--json", "--seconds", "120", "--memory", memory];
    let args = [&args[..], &["--seed", &seed, "--steps", &steps], more].concat();
    let (code, text) = run(args);
    assert_eq!(code, 0, "{memory}: {text}");
    let json = text.find('{').map(|at| &text[at..]).unwrap_or_default();
    // What is said on standard error comes behind.
    let report = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>().next();
    let report = report.unwrap_or_else(|| panic!("no report: {text}")).unwrap();
    assert_eq!(report["verdict"], "passed", "{text}");
    for vm in report["vms"].as_array().unwrap() {
        assert_eq!(vm["progress"]["steps"].to_string(), steps, "{text}");
        assert!(vm["progress"]["inflated"].as_u64() > Some(0), "{text}");
        assert!(vm["release"]["discarded"].as_u64() > Some(0), "{text}");
        assert!(vm["canaries"].as_u64() > Some(0) && vm["checks"].as_u64() > Some(0), "{text}");
    }
    report
}

#[test]
fn anonymous_memory_survives_a_storm() {
    let report = passes(1, 300, "64M", &[]);
    // What the host does follows from the seed, too: with this one it looks.
    assert!(report["vms"][0]["checks"].as_u64() > Some(1), "{report}");
    passes(2, 150, "64M,block=4K", &[]);
}

#[test]
fn a_storm_that_is_too_short_for_the_host_to_act_is_looked_at_all_the_same() {
    let args = ["stress", "balloon", "--json", "--seed", "1", "--steps", "3", "--memory", "64M"];
    let (code, text) = run(args);
    assert_eq!(code, 0, "{text}");
    for expected in ["\"actions\": 0,", "\"checks\": 1,", "\"canaries\": 2,"] {
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn a_memfd_survives_a_storm() {
    passes(3, 200, "64M,backing=memfd", &[]);
}

#[test]
fn a_file_survives_a_storm() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    passes(4, 150, &format!("64M,backing=file:{}", file.display()), &[]);
}

#[test]
fn huge_pages_survive_a_storm() {
    // The larger the pages, the rarer is one all of which the balloon holds: with this seed there are some of either size.
    let (kib, block) = match rustix::param::page_size() {
        16384 => (2048, "2M"),
        _ => (64, "64K"),
    };
    let pages = (64 << 10) / kib;
    let _pool = Pool::with_free(kib, pages).expect("this host has huge pages to give");
    passes(13, 200, &format!("64M,backing=hugetlb,block={block}"), &[]);
}

#[test]
fn several_vms_storm_at_once() {
    let report = passes(6, 60, "64M", &["--vms", "2"]);
    let seeds: Vec<_> = report["vms"].as_array().unwrap().iter().map(|vm| vm["seed"].clone()).collect();
    assert_eq!(seeds, [6, 7]);
}

#[test]
fn a_storm_says_what_it_does_and_stops_when_asked() {
    let mut guest =
        Guest::start(["stress", "balloon", "--seed", "7", "--seconds", "3600", "--memory", "64M"]);
    guest.wait_for("quire: storming 1 VM of 64M for 3600 s, seed 7\n");
    guest.wait_for("steps, ");
    guest.signal(Signal::TERM);
    let text = guest.expect_exit(0);
    assert!(text.contains("interrupted: seed 7"), "{text}");
}

#[test]
fn a_storm_of_vms_that_can_not_be_made_is_an_error_and_no_finding() {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap();
    let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap();
    let total: u64 = total.trim().trim_end_matches(" kB").parse().unwrap();
    let quarter = format!("{}M", total >> 12);
    for (args, expected) in [
        (["--memory", "64M,backing=file:/no/such/folder/ram"], "/no/such/folder/ram"),
        (["--memory", "512G,backing=hugetlb,block=2M"], "hugepages-2048kB"),
        // Sixteen times what this host has, though each of them would fit.
        (["--memory", &quarter], "a storm uses all of its guests' memory, "),
    ] {
        let (code, text) = run([&["stress", "balloon", "--vms", "64"], &args[..]].concat());
        assert_eq!(code, 1, "{text}");
        assert!(text.contains("quire: error: ") && text.contains(expected), "{text}");
        assert!(!text.contains("FAILED"), "{text}");
    }
}

#[test]
fn a_stock_linux_guest_survives_a_storm() {
    let folder = tempfile::tempdir().unwrap();
    // Something that uses memory, and gives it back, all the time.
    let script = "mount -t tmpfs -o size=40% tmpfs /mnt; while :; do dd if=/dev/urandom of=/mnt/a bs=64k count=400; \
                  cp /mnt/a /mnt/b; cmp /mnt/a /mnt/b || echo 'BUG: differs'; rm /mnt/a /mnt/b; done";
    let userland = Userland::new(Kernel::of_host(), script).with_modules(&["virtio_balloon"]);
    let initrd = userland.write(folder.path());
    let args =
        ["stress", "balloon", "--guest", "linux", "--seed", "8", "--seconds", "25", "--memory", "256M"];
    let mut args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
    args.extend(["--kernel".into(), Kernel::of_host().image().into(), "--initrd".into(), initrd.into()]);
    let (code, text) = run(args);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("passed: seed 8"), "{text}");
}
