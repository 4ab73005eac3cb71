//! Bad input: a clear error, and nothing half-started.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use e2e::guest::{Guest, run};
use e2e::{Kernel, environment};

/// A user and a group that own nothing.
const NOBODY: u32 = 65534;

/// `quire run ARGS` fails, says all of `words`, and no guest has said anything.
#[track_caller]
fn refused(args: &[&str], words: &[&str]) {
    let (code, text) = run([&["run"], args].concat());
    assert_ne!(code, 0, "{args:?} was accepted: {text}");
    assert!(!text.contains("stamper:") && !text.contains("panicked"), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?} does not say {word:?}: {text}");
    }
}

fn write(folder: &Path, name: &str, content: &[u8]) -> String {
    let path = folder.join(name);
    fs::write(&path, content).unwrap();
    path.display().to_string()
}

#[test]
fn kernels_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    let image = fs::read(Kernel::Lts.image()).unwrap();
    let mut big_endian = image.clone();
    big_endian[24] |= 1;
    let mut bz_image = vec![0; 1 << 20];
    bz_image[0x1fe..0x200].copy_from_slice(&[0x55, 0xaa]);
    bz_image[0x202..0x206].copy_from_slice(b"HdrS");
    for (name, content, word) in [
        ("empty", Vec::new(), "empty"),
        ("truncated", image[..1 << 20].to_vec(), "truncated"),
        ("bzimage", bz_image, "x86"),
        ("big-endian", big_endian, "big-endian"),
        ("text", b"just words".to_vec(), "text"),
    ] {
        let path = write(folder.path(), name, &content);
        refused(&["--kernel", &path], &[&path, word]);
    }
    refused(&["--kernel", "/no/such/kernel"], &["/no/such/kernel", "no such file"]);
    refused(&["--kernel", "/proc"], &["/proc", "directory"]);
    let path = Kernel::Lts.image().display().to_string();
    refused(&["--kernel", &path, "--memory", "16M"], &["the kernel needs", "16 MiB"]);
}

#[test]
fn a_memory_file_that_was_created_goes_where_a_later_step_fails() {
    let folder = tempfile::tempdir().unwrap();
    let ram = folder.path().join("ram");
    let memory = format!("64M,backing=file:{}", ram.display());
    refused(&["--memory", &memory, "--console", "file:/no/such/folder/log"], &["/no/such/folder/log"]);
    assert!(!ram.exists(), "the memory of a guest that never was is left behind");
}

#[test]
fn an_initrd_that_does_not_fit_or_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = folder.path().join("initrd");
    fs::File::create(&initrd).unwrap().set_len(600 << 20).unwrap();
    let (kernel, initrd) = (Kernel::Lts.image().display().to_string(), initrd.display().to_string());
    refused(
        &["--kernel", &kernel, "--initrd", &initrd, "--memory", "512M"],
        &["initrd", "600 MiB", "at least"],
    );
    refused(&["--kernel", &kernel, "--initrd", "/no/such/initrd"], &["/no/such/initrd"]);
}

#[test]
fn amounts_of_memory_that_can_not_be() {
    refused(&["--memory", "0"], &["memory size"]);
    refused(&["--memory", "3M,block=2M"], &["3M", "not a multiple", "2M"]);
    refused(&["--memory", "8388608T,block=4K"], &["memory"]);
    refused(&["--memory", "64T"], &["memory"]);
    // As large as the largest IPA space, whose first GiB is not RAM.
    refused(&["--memory", "4P"], &["do not fit", "bits of guest-physical address"]);
}

#[test]
fn a_pool_of_huge_pages_that_is_short() {
    refused(
        &["--memory", "512G,backing=hugetlb,block=2M"],
        &["/sys/kernel/mm/hugepages/hugepages-2048kB", "262144"],
    );
}

#[test]
fn numbers_of_vcpus_that_can_not_be() {
    refused(&["--cpus", "0"], &["cpus"]);
    refused(&["--cpus", "100000"], &["cpus"]);
    refused(&["--cpus", "513", "--memory", "64M"], &["513", "512"]);
}

#[test]
fn disks_that_are_none() {
    let folder = tempfile::tempdir().unwrap();
    refused(&["--disk", "/no/such/disk"], &["/no/such/disk"]);
    refused(&["--disk", "/proc"], &["/proc", "directory"]);
    let odd = write(folder.path(), "odd", &[0; 1000]);
    refused(&["--disk", &odd], &[&odd, "512"]);
    let disk = write(folder.path(), "disk", &[0; 4096]);
    let mut guest = Guest::start(["run", "--memory", "64M", "--cmdline", "spin", "--disk", &disk]);
    guest.wait_for("stamper: spin");
    refused(&["--disk", &disk], &[&disk, "locked by another process"]);
}

#[test]
fn keys_that_are_unknown_name_the_nearest() {
    refused(&["--memory", "64M,bakcing=memfd"], &["bakcing", "backing"]);
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "vm.json", br#"{"cpu": 2}"#);
    refused(&["--config", &config], &["cpu", "cpus"]);
    let config = write(folder.path(), "vm2.json", br#"{"memory": {"size": "64M", "blok": "2M"}}"#);
    refused(&["--config", &config], &["blok", "block"]);
}

#[test]
fn a_configuration_file_is_the_same_as_options() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(
        folder.path(),
        "vm.json",
        br#"{"cpus": 2, "memory": {"size": "64M"}, "cmdline": "generations=1"}"#,
    );
    let (code, text) = run(["run", "--config", &config]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("stamper: ready cpus=2 ram=0x40000000+0x4000000"), "{text}");
}

#[test]
fn a_host_without_kvm_says_so() {
    // In a mount namespace of its own the device is gone.
    let quire = environment::quire();
    let script =
        format!("mount --make-rprivate / && mount -t tmpfs tmpfs /dev && exec {} run", quire.display());
    let (status, text) =
        Guest::spawn(Command::new(environment::busybox()).args(["unshare", "-m", "sh", "-c", &script]))
            .wait();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("there is no /dev/kvm") && text.contains("cargo lab run"), "{text}");
}

#[test]
fn a_user_without_permission_is_told_which_group_to_join() {
    // Wherever the program lies, this user can execute a copy of it.
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let program = folder.path().join("quire");
    fs::copy(environment::quire(), &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let (status, text) = Guest::spawn(Command::new(&program).arg("run").uid(NOBODY).gid(NOBODY)).wait();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("no permission to open /dev/kvm: join the group"), "{text}");
}
