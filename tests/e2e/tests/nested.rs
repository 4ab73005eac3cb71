//! Three levels: a guest at EL2 whose kernel has a KVM of its own, and `quire` in it.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use e2e::environment::{linux, quire};
use e2e::{Guest, Kernel, Userland};

/// What the guest does. A third level is slow where all of it is emulated: its guest has little memory.
const SCRIPT: &str = r"
ls -l /dev/kvm
quire run --memory 16M < /dev/null
echo quire ended with $?
";

#[test]
fn a_guest_at_el2_is_a_hypervisor_and_quire_its_vmm() {
    let folder = tempfile::tempdir().unwrap();
    let initrd = Userland::new(Kernel::New, SCRIPT).with_program(quire()).write(folder.path());
    let mut guest = Guest::start(linux(Kernel::New, &initrd, &["--el2", "--memory", "320M"]));
    guest.wait_for("CPU: All CPU(s) started at EL2");
    guest.wait_for("VHE mode initialized successfully");
    guest.wait_for(" /dev/kvm");
    // The guest of the guest starts where its VMM says that it does, and finds its memory whole.
    guest.wait_for("stamper: boot image=0x40000000");
    guest.wait_for(" el=1 ");
    guest.wait_for("generation=2 bad=0");
    guest.wait_for("stamper: done ok");
    guest.wait_for("quire ended with 0");
    guest.expect_exit(0);
}
