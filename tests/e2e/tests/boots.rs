//! Stock Debian kernels, to a userland in an initramfs.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::ffi::OsString;
use std::fs::{self, File};

use e2e::environment::linux;
use e2e::{Guest, Kernel, Userland, userland};

fn boots(kernel: Kernel, cpus: u32) {
    let folder = tempfile::tempdir().unwrap();
    let initrd =
        Userland::new(kernel, "cat /proc/cmdline; grep -m 1 Features /proc/cpuinfo").write(folder.path());
    let cpus = cpus.to_string();
    let mut guest = Guest::start(linux(kernel, &initrd, &["--cpus", &cpus, "--memory", "512M"]));
    guest.wait_for(userland::READY);
    guest.wait_for(&format!(" {cpus} cpus,"));
    let text = guest.expect_exit(0);
    assert!(text.contains("\nconsole=ttyS0 earlycon\r\n"), "{text}");
    // What a kernel says of the parts of the device tree that it has found good.
    for found in [
        "Machine model: quire",
        "psci: PSCIv1",
        "arch_timer: cp15 timer",
        "rtc-pl031 9010000.rtc: setting system clock",
        "9000000.serial: ttyS0",
        "armv8_pmuv3",
        "GICv3: ",
    ] {
        assert!(text.contains(found), "the kernel does not say {found:?}: {text}");
    }
    // And of those that it has not.
    for complaint in [
        "WARNING:",
        "BUG:",
        "OF: fdt",
        "OF: ERROR",
        "Firmware Bug",
        "failed with error",
        "Unable to",
        "no virtio",
    ] {
        assert!(!text.contains(complaint), "it says {complaint:?}: {text}");
    }
    // SVE and pointer authentication, where the host has them.
    let host = fs::read_to_string("/proc/cpuinfo").unwrap();
    for feature in [" sve ", " paca ", " pacg "] {
        let has = |text: &str| text.lines().any(|line| line.contains("Features") && line.contains(feature));
        assert_eq!(has(&host), has(&text), "{feature}: {text}");
    }
}

#[test]
fn debian_7_boots_on_one_vcpu() {
    boots(Kernel::New, 1);
}

#[test]
fn debian_7_boots_on_four_vcpus() {
    boots(Kernel::New, 4);
}

#[test]
fn debian_6_12_boots_on_one_vcpu() {
    boots(Kernel::Lts, 1);
}

#[test]
fn debian_6_12_boots_on_four_vcpus() {
    boots(Kernel::Lts, 4);
}

#[test]
fn a_kernel_with_16_kib_pages_boots() {
    boots(Kernel::Pages16k, 2);
}

#[test]
fn a_gzipped_image_and_a_zboot_boot_like_the_image() {
    // Whatever form Debian ships, the same bytes gzip'ed are another form.
    let folder = tempfile::tempdir().unwrap();
    let packed = folder.path().join("vmlinuz.gz");
    let mut encoder =
        flate2::write::GzEncoder::new(File::create(&packed).unwrap(), flate2::Compression::fast());
    std::io::copy(&mut File::open(Kernel::Lts.image()).unwrap(), &mut encoder).unwrap();
    encoder.finish().unwrap();
    // And behind the header of an EFI zboot file, its payload from byte 64 on, another.
    let payload = fs::read(&packed).unwrap();
    let size = u32::try_from(payload.len()).unwrap();
    let mut header = [0; 64];
    header[..8].copy_from_slice(b"MZ\0\0zimg");
    header[8..12].copy_from_slice(&64u32.to_le_bytes());
    header[12..16].copy_from_slice(&size.to_le_bytes());
    header[24..28].copy_from_slice(b"gzip");
    let zboot = folder.path().join("vmlinuz.efi");
    fs::write(&zboot, [&header[..], &payload].concat()).unwrap();
    let initrd = Userland::new(Kernel::Lts, "").write(folder.path());
    for file in [packed, zboot] {
        let mut args: Vec<OsString> = vec!["run".into(), "--kernel".into(), file.into()];
        args.extend(["--initrd".into(), initrd.clone().into()]);
        let mut guest = Guest::start(args);
        guest.wait_for(userland::READY);
        guest.expect_exit(0);
    }
}
