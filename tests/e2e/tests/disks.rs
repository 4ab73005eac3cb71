//! Virtio devices under a stock kernel: a disk that the guest has made itself, one that it may only
//! read, and entropy.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::fs::{self, File};
use std::path::Path;

use e2e::environment::linux_soon;
use e2e::{Guest, Kernel, Userland};

/// The file system and, where it is a module, the checksum that it asks for by name.
const EXT: [&str; 2] = ["crc32c_generic", "ext4"];
/// What the guest leaves on its second disk for the test to find.
const MARK: &str = "written by the guest";

#[test]
fn guests_boot_from_the_disk_that_another_has_made() {
    let folder = tempfile::tempdir().unwrap();
    let (root, data) = (folder.path().join("root.img"), folder.path().join("data.img"));
    File::create(&root).unwrap().set_len(64 << 20).unwrap();
    let install = r#"
        mke2fs -q /dev/vda && mount -t ext2 /dev/vda /mnt || echo "install failed"
        mkdir -p /mnt/bin /mnt/dev /mnt/proc /mnt/sbin
        cp /bin/busybox /mnt/bin/busybox
        cat > /mnt/sbin/init <<'EOF'
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo "root is $(/bin/busybox grep ' / ' /proc/mounts | /bin/busybox tail -n 1)"
echo "written by the guest" | /bin/busybox dd of=/dev/vdb bs=512 conv=sync
/bin/busybox sync
/bin/busybox stty sane < /dev/console
/bin/busybox poweroff -f
EOF
        chmod +x /mnt/sbin/init
        umount /mnt && echo "install done"
    "#;
    let disk = |path: &Path| path.display().to_string();
    let make = Userland::new(Kernel::New, install).with_modules(&EXT).write(folder.path());
    let mut guest = Guest::start(linux_soon(Kernel::New, &make, &["--disk", &disk(&root)]));
    guest.wait_for("install done");
    guest.expect_exit(0);

    let switch = "mount -t ext2 /dev/vda /mnt && exec switch_root /mnt /sbin/init";
    for (kernel, cpus) in [(Kernel::New, "4"), (Kernel::Lts, "1")] {
        fs::write(&data, vec![0; 1 << 20]).unwrap();
        let boot = Userland::new(kernel, switch).with_modules(&EXT).write(folder.path());
        let options = ["--disk", &disk(&root), "--disk", &disk(&data), "--cpus", cpus];
        let mut guest = Guest::start(linux_soon(kernel, &boot, &options));
        guest.wait_for("root is /dev/vda / ext2");
        guest.expect_exit(0);
        let written = fs::read(&data).unwrap();
        assert!(written.starts_with(MARK.as_bytes()), "{kernel:?}: {:?}", &written[..64]);
        assert!(written[512..].iter().all(|&byte| byte == 0), "{kernel:?}: the guest wrote one sector");
    }
}

#[test]
fn a_read_only_disk_can_be_read_and_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk.img");
    let mut content = vec![0; 1 << 20];
    content[..6].copy_from_slice(b"sealed");
    fs::write(&disk, &content).unwrap();
    let script = "dd if=/dev/vda bs=6 count=1 2>/dev/null; echo; cat /sys/block/vda/ro; echo x > /dev/vda && echo wrote";
    let initrd = Userland::new(Kernel::New, script).write(folder.path());
    let option = format!("{},ro", disk.display());
    let text = Guest::start(linux_soon(Kernel::New, &initrd, &["--disk", &option])).expect_exit(0);
    assert!(text.contains("sealed\r\n1\r\n"), "{text}");
    assert!(!text.contains("\r\nwrote"), "{text}");
    assert_eq!(fs::read(&disk).unwrap(), content);
}

#[test]
fn the_entropy_device_feeds_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let script =
        "cat /sys/class/misc/hw_random/rng_current; dd if=/dev/hwrng bs=64 count=1 2>/dev/null | wc -c";
    let initrd = Userland::new(Kernel::New, script).write(folder.path());
    let text = Guest::start(linux_soon(Kernel::New, &initrd, &[])).expect_exit(0);
    assert!(text.contains("virtio_rng.0\r\n64\r\n"), "{text}");
}
