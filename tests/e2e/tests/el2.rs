//! Guests that start at EL2, on hosts that can have them and on those that can't.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use e2e::environment::linux;
use e2e::guest::run;
use e2e::{Guest, Kernel, Userland, userland};

/// What `quire doctor` says of EL2 here.
fn offered() -> String {
    let (_, text) = run(["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    let probes = report["probes"].as_array().unwrap();
    let probe = probes.iter().find(|probe| probe["name"] == "EL2 guests");
    probe.and_then(|probe| probe["found"].as_str()).unwrap().to_owned()
}

/// `quire run` with `--el2=WORD` refuses to start, with all of `words`.
#[track_caller]
fn refused(word: &str, words: &[&str]) {
    let kernel = Kernel::of_host().image().display().to_string();
    let (code, text) = run(["run", &format!("--el2={word}"), "--kernel", &kernel]);
    assert_eq!(code, 1, "{text}");
    for expected in words {
        assert!(text.contains(expected), "it does not say {expected:?}: {text}");
    }
}

#[test]
fn a_kernel_at_el2_has_a_kvm_of_its_own_or_the_error_says_what_it_takes() {
    if offered() == "no" {
        assert_ne!(Kernel::of_host(), Kernel::New, "the newest kernel has nested virtualisation");
        return refused("on", &["FEAT_NV2", "6.16", "kvm-arm.mode=nested"]);
    }
    let folder = tempfile::tempdir().unwrap();
    let initrd = Userland::new(Kernel::of_host(), "ls /dev/kvm").write(folder.path());
    let args = ["--el2", "--cpus", "2", "--memory", "512M"];
    let mut guest = Guest::start(linux(Kernel::of_host(), &initrd, &args));
    guest.wait_for(userland::READY);
    // The second was started by PSCI, which EL2 calls with SMC.
    guest.wait_for(" 2 cpus,");
    let text = guest.expect_exit(0);
    for found in ["CPU: All CPU(s) started at EL2", "VHE mode initialized successfully", "\r\n/dev/kvm"] {
        assert!(text.contains(found), "it does not say {found:?}: {text}");
    }
    for complaint in ["WARNING:", "BUG:", "OF: fdt", "OF: ERROR", "Firmware Bug", "Unable to"] {
        assert!(!text.contains(complaint), "it says {complaint:?}: {text}");
    }
}

/// What the host's own kernel says until it looks for PSCI, with `--el2=WORD`, where it is told to run
/// at EL1 below a hypervisor of its own.
fn told_to_run_below(word: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let initrd = Userland::new(Kernel::of_host(), "").write(folder.path());
    let el2 = format!("--el2={word}");
    let args = [&el2, "--memory", "512M", "--cmdline", "console=ttyS0 earlycon kvm-arm.mode=nvhe"];
    let mut guest = Guest::start(linux(Kernel::of_host(), &initrd, &args));
    guest.wait_for("psci: PSCIv1")
}

#[test]
fn only_e2h0_lets_the_guests_kernel_leave_el2_to_its_hypervisor() {
    match offered().as_str() {
        "no" => refused("e2h0", &["FEAT_NV2"]),
        "yes" => refused("e2h0", &["E2H", "--el2"]),
        _ => {
            // The kernel refuses the option where it finds that it can't leave EL2.
            let refusal = "Malformed early option 'kvm-arm.mode'";
            let text = told_to_run_below("e2h0");
            assert!(!text.contains(refusal), "{text}");
            let text = told_to_run_below("on");
            assert!(text.contains(refusal), "{text}");
        }
    }
}

#[test]
fn a_kernel_with_e2h0_has_a_kvm_without_vhe() {
    match offered().as_str() {
        "no" => return refused("e2h0", &["FEAT_NV2"]),
        "yes" => return refused("e2h0", &["E2H", "--el2"]),
        _ => {}
    }
    if Kernel::of_host() == Kernel::Pages16k {
        // Its KVM begins with invalidations that this host's KVM answers by walks in steps of 32 MiB: minutes.
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let initrd = Userland::new(Kernel::of_host(), "ls /dev/kvm").write(folder.path());
    let mut guest =
        Guest::start(linux(Kernel::of_host(), &initrd, &["--el2=e2h0", "--cpus", "2", "--memory", "512M"]));
    guest.wait_for("CPU: All CPU(s) started at EL2");
    guest.wait_for("Hyp nVHE mode initialized successfully");
    guest.wait_for("\r\n/dev/kvm");
    guest.expect_exit(0);
}
