//! What a person sees who types something wrong, on any Linux machine: `quire` itself is run, and what
//! it prints and how it ends is compared. Nothing here starts a guest.
#![expect(clippy::unwrap_used, reason = "the helpers of tests are tests")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use tempfile::TempDir;

fn quire(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quire")).args(args).stdin(Stdio::null()).output().unwrap()
}

/// `quire` refuses these arguments as wrong, before anything else: code 2, nothing on standard output,
/// and a message on standard error.
#[track_caller]
fn refusal(args: &[&str]) -> String {
    let output = quire(args);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?} wrote to standard output");
    assert!(message.starts_with("quire: error: "), "{message}");
    message
}

/// The same with a configuration file.
#[track_caller]
fn file_refusal(json: &str) -> String {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("vm.json");
    fs::write(&path, json).unwrap();
    refusal(&["run", "--config", text(&path)])
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn an_unknown_memory_key_names_the_nearest() {
    let message = refusal(&["run", "--memory", "1G,blok=2M"]);
    assert!(message.contains("unknown key \"blok\" in --memory: did you mean \"block\"?"), "{message}");
}

#[test]
fn unknown_values_list_the_valid_ones() {
    for (args, expected) in [
        (["--memory", "1G,backing=memfs"], "anon, memfd, hugetlb, file:PATH or private:PATH"),
        (["--memory", "1G,block=3M"], "auto, 4K, 64K, 2M, 32M or 1G"),
        (["--memory", "1G,prefault=1"], "on or off"),
        (["--memory", "lots"], "as in 512M"),
        (["--console", "screen"], "stdio, pty, file:PATH or null"),
        (["--disk", "a.img,rw"], "the only one is \"ro\""),
        (["--log", "loud"], "off, error, warn, info, debug, trace"),
    ] {
        let message = refusal(&["run", args[0], args[1]]);
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}

#[test]
fn what_can_be_known_without_a_host_is_refused_in_one_line() {
    for (args, expected) in [
        (vec!["--memory", "0"], "memory size is 0"),
        (
            vec!["--memory", "3000004K,block=2M"],
            "memory size 3000004K is not a multiple of the 2M block size: use 2930M or block=4K",
        ),
        (vec!["--memory", "5P"], "larger than the largest IPA space"),
        (vec!["--memory", "1G,backing=hugetlb,block=4K"], "backing=hugetlb has no 4K pages"),
        (vec!["--cpus", "0"], "cpus is 0"),
        (vec!["--cpus", "513"], "512 is the most"),
        (vec!["--initrd", "initrd.img"], "an initrd needs a kernel"),
        (vec!["--cmdline", "é"], "only printable ASCII"),
        (vec!["--disk", "a.img", "--disk", "./a.img,ro"], "disk ./a.img is given twice"),
        (vec!["--disk", "a.img", "--console", "file:a.img"], "a.img is both disk and console file"),
    ] {
        let message = refusal(&[&["run"], args.as_slice()].concat());
        assert!(message.contains(expected), "{args:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn a_balloon_that_can_not_be_is_refused_in_one_line() {
    for (balloon, expected) in [
        ("size=513M", "a balloon of 513M is larger than the memory of 512M: use at most size=512M"),
        ("size=5000", "balloon size 5000 is not a multiple of 4K, the unit of balloons: use size=4K"),
        ("stats=100000", "stats=100000 is longer than 65535 seconds"),
        ("block=1G", "a balloon with block=1G gives nothing back of 512M of memory"),
        ("sice=1M", "unknown key \"sice\" in --balloon: did you mean \"size\"?"),
        ("report=maybe", "unknown report \"maybe\": use on or off"),
        ("repopulate=on", "unknown repopulate \"on\": use off or block"),
        ("stats=soon", "\"soon\" is not a number of seconds"),
    ] {
        let message = refusal(&["run", "--balloon", balloon]);
        assert!(message.contains(expected), "{balloon}: {message}");
        assert_eq!(message.lines().next().unwrap().matches(expected).count(), 1, "{message}");
    }
    let message = refusal(&["run", "--balloon", "1M", "--balloon", "2M"]);
    assert!(message.contains("--balloon") && message.contains("multiple times"), "{message}");
    let message = file_refusal("{ \"balloon\": { \"size\": \"1G\" } }");
    assert!(message.contains("a balloon of 1G is larger than the memory of 512M"), "{message}");
    let message = file_refusal("{ \"balloon\": { \"deflate\": true } }");
    assert!(
        message.contains("unknown key \"deflate\" in balloon: did you mean \"deflate-on-oom\"?"),
        "{message}"
    );
}

#[test]
fn a_command_line_longer_than_the_kernels_is_refused() {
    let message = refusal(&["run", "--cmdline", &"x".repeat(2048)]);
    assert!(message.contains("2048 bytes: 2047 is the most"), "{message}");
}

#[test]
fn a_wrong_configuration_file_is_named_with_the_place_and_the_cause() {
    for (json, cause) in [
        ("{ \"memroy\": \"1G\" }", "unknown key \"memroy\" in the configuration: did you mean \"memory\"?"),
        ("{ \"memory\": { \"blok\": \"2M\" } }", "unknown key \"blok\" in memory: did you mean \"block\"?"),
        ("{ \"disks\": [ { \"pth\": \"a\" } ] }", "unknown key \"pth\" in disks[0]: did you mean \"path\"?"),
        ("{\n \"console\": \"screen\" }", "line 2, column 20: unknown console \"screen\": use stdio, pty,"),
        ("{ \"cpus\": \"4\" }", "line 1, column 13: invalid type: string \"4\", expected u32"),
        ("{ \"cpus\": 1", "line 1, column 11: EOF while parsing an object"),
        ("[]", "a configuration is a JSON object"),
    ] {
        let message = file_refusal(json);
        let (first, rest) = message.split_once('\n').unwrap();
        assert!(first.starts_with("quire: error: can't use the configuration file "), "{message}");
        assert!(first.ends_with("vm.json"), "{message}");
        assert!(rest.starts_with(&format!("  caused by: {cause}")), "{message}");
    }
}

#[test]
fn a_configuration_that_is_wrong_as_a_whole_is_refused() {
    let message = file_refusal("{ \"memory\": \"3000004K,block=2M\" }");
    assert!(message.contains("use 2930M or block=4K"), "{message}");
}

#[test]
fn a_configuration_file_that_can_not_be_read_says_why() {
    let folder = TempDir::new().unwrap();
    let message = refusal(&["run", "--config", text(&folder.path().join("none.json"))]);
    assert!(message.contains("No such file"), "{message}");
    let message = refusal(&["run", "--config", text(folder.path())]);
    assert!(message.contains("Is a directory"), "{message}");
    let message = refusal(&["run", "--config", "/dev/zero"]);
    assert!(message.contains("is no configuration file"), "{message}");
}

#[test]
fn unknown_words_are_answered_with_the_ones_that_were_meant() {
    for (args, expected) in [
        (vec!["rum"], "'run'"),
        (vec!["run", "--memroy", "1G"], "'--memory'"),
        (vec!["doctor", "--jsno"], "'--json'"),
        (vec!["run", "-v", "--log", "info"], "cannot be used with"),
    ] {
        let message = refusal(&args);
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn no_subcommand_is_help_and_code_2() {
    let output = quire(&[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: quire"));
}

#[test]
fn help_tells_the_exit_codes_and_version_the_version() {
    let output = quire(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8(output.stdout).unwrap().contains("Exit codes:"));
    let output = quire(&["--version"]);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("quire {}\n", env!("CARGO_PKG_VERSION")));
}

#[cfg(not(target_arch = "aarch64"))]
#[test]
fn on_another_architecture_run_says_so_in_one_line_and_names_the_way_out() {
    let output = quire(&["run", "--memory", "1G"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(message.contains("arm64 KVM host") && message.contains("`cargo lab run`"), "{message}");
}

#[test]
fn doctor_says_the_same_in_json_and_in_its_exit_code() {
    let output = quire(&["doctor", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.success(), report["runs"].as_bool().unwrap());
    assert!(output.stderr.is_empty());
    let probes = report["probes"].as_array().unwrap();
    let table = String::from_utf8(quire(&["doctor"]).stdout).unwrap();
    for probe in probes {
        for key in ["section", "name", "verdict"] {
            let word = probe[key].as_str().unwrap();
            assert!(table.contains(word), "{word} is not in\n{table}");
        }
    }
    assert!(!table.contains('\x1b'), "colour where there is no terminal");
}

#[cfg(not(target_arch = "aarch64"))]
#[test]
fn doctor_names_the_missing_architecture() {
    let output = quire(&["doctor"]);
    assert_eq!(output.status.code(), Some(1));
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(table.contains("No guest can run here: architecture"), "{table}");
}

#[test]
fn a_reader_that_stops_early_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quire"))
        .arg("doctor")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", output.status);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Standard error takes nothing, as where its disk is full.
fn unheard(args: &[&str]) -> Option<i32> {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_quire"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(full).status().unwrap().code()
}

#[test]
fn what_nobody_can_read_ends_nothing_early() {
    for (args, code) in [
        (&["rum"][..], 2),
        (&["run", "--memory", "0"], 2),
        (&["ctl", "--api-sock", "/nowhere", "status"], 1),
        // It logs its configuration before it finds that there is no such disk, or no KVM.
        (&["run", "-vv", "--disk", "/nowhere"], 1),
    ] {
        assert_eq!(unheard(args), Some(code), "{args:?}");
    }
}

#[test]
fn a_storm_that_can_not_be_is_refused_before_it_is_announced() {
    for (args, expected) in [
        (vec!["--memory", "0"], "memory size is 0"),
        (vec!["--cpus", "0"], "cpus is 0"),
        (vec!["--memory", "64M", "--balloon", "size=65M"], "larger than the memory of 64M"),
        (vec!["--kernel", "Image"], "--kernel is for --guest linux"),
        (vec!["--guest", "linux"], "--kernel <FILE>"),
        (vec!["--vms", "65"], "65 is not in 1..=64"),
    ] {
        let message = refusal(&[&["stress", "balloon"], args.as_slice()].concat());
        assert!(message.contains(expected), "{args:?}: {message}");
    }
}
