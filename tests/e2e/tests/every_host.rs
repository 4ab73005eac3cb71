//! What runs on hosts of every kernel and page size: a guest with the host's own kernel.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use e2e::environment::linux;
use e2e::{Guest, Kernel, Userland, userland};

#[test]
fn the_hosts_own_kernel_boots_as_a_guest_and_uses_all_of_its_memory() {
    let folder = tempfile::tempdir().unwrap();
    // Every page that the guest can give is written, so that every kind of fault on it is taken.
    let script = "mount -t tmpfs -o size=100% tmpfs /mnt; dd if=/dev/zero of=/mnt/fill bs=64k count=2048 && echo filled";
    let initrd = Userland::new(Kernel::of_host(), script).write(folder.path());
    let mut guest = Guest::start(linux(Kernel::of_host(), &initrd, &["--cpus", "2", "--memory", "512M"]));
    guest.wait_for(userland::READY);
    guest.wait_for("filled");
    guest.expect_exit(0);
}
