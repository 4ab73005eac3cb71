//! What KVM offers, asked of /dev/kvm and of a scratch VM.

use std::ffi::c_ulong;
use std::fs::File;
use std::io;

use kvm_bindings as kb;
use kvm_ioctls::{Kvm, VmFd};

use super::Probe;
use super::probe_sys;
use crate::config::Size;

const SECTION: &str = "kvm";
/// KVM's API version since 2.6.22; there will be no other (Linux, Documentation/virt/kvm/api.rst, 4.1).
const API_VERSION: i32 = 12;
/// The smallest IPA space that a VM may have, for the scratch VM.
const SCRATCH_IPA_BITS: u64 = 32;
/// Capabilities that kvm-bindings does not know yet (Linux, include/uapi/linux/kvm.h).
const CAP_ARM_EL2: u32 = 240;
const CAP_ARM_EL2_E2H0: u32 = 241;

/// Opens /dev/kvm and asks it for everything that matters here.
pub(super) fn probes() -> Vec<Probe> {
    // Opened without KVM's API first: its errors are what a person can act on.
    if let Err(error) = File::options().read(true).write(true).open("/dev/kvm") {
        return vec![unopened(&error)];
    }
    let device = Probe::ok(SECTION, "/dev/kvm", "opens for reading and writing").needed();
    let kvm = match Kvm::new() {
        Ok(kvm) => kvm,
        Err(error) => return vec![unopened(&io::Error::from_raw_os_error(error.errno()))],
    };
    let mut probes = vec![device, api(kvm.get_api_version())];
    // Elsewhere its capabilities say nothing about guests for arm64.
    if cfg!(target_arch = "aarch64") {
        probes.extend(capabilities(&kvm));
    }
    probes
}

fn unopened(error: &io::Error) -> Probe {
    let probe = |found: &str| Probe::ok(SECTION, "/dev/kvm", found).needed();
    match error.kind() {
        io::ErrorKind::NotFound => probe("not there").missing(
            "boot the host at EL2 with a kernel that has CONFIG_KVM; in a container, pass the device in; in a virtual \
             machine, switch nested virtualisation on",
        ),
        io::ErrorKind::PermissionDenied => {
            probe("no permission").missing("join the group that owns it (often kvm), or run as root")
        }
        _ => probe(&error.to_string()).missing("it is there but does not work: see the kernel's log for kvm"),
    }
}

fn api(version: i32) -> Probe {
    let probe = Probe::ok(SECTION, "API", format!("version {version}")).needed();
    if version == API_VERSION {
        probe
    } else {
        probe.missing(format!("version {API_VERSION} is the only stable one"))
    }
}

/// The answers to KVM_CHECK_EXTENSION, of the system and of a VM.
fn capabilities(kvm: &Kvm) -> Vec<Probe> {
    let ipa_bits = kvm.check_extension_raw(c_ulong::from(kb::KVM_CAP_ARM_VM_IPA_SIZE));
    // Without the capability there is one size, and its number is 0.
    let vm = match kvm.create_vm_with_type(if ipa_bits > 0 { SCRATCH_IPA_BITS } else { 0 }) {
        Ok(vm) => vm,
        Err(error) => {
            let found = io::Error::from_raw_os_error(error.errno()).to_string();
            return vec![
                Probe::ok(SECTION, "a VM", found)
                    .needed()
                    .missing("KVM makes no VM: see the kernel's log for kvm"),
            ];
        }
    };
    let cap = |number: u32| vm.check_extension_raw(c_ulong::from(number));
    vec![
        ipa(ipa_bits),
        gic(
            probe_sys::can_create_device(&vm, kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V3),
            probe_sys::can_create_device(&vm, kb::kvm_device_type_KVM_DEV_TYPE_ARM_VGIC_V2),
        ),
        Probe::ok(SECTION, "vCPUs", format!("up to {}", kvm.get_max_vcpus())),
        block_sizes(cap(kb::KVM_CAP_ARM_SUPPORTED_BLOCK_SIZES)),
        optional(
            "EL2 guests",
            cap(CAP_ARM_EL2) > 0,
            if cap(CAP_ARM_EL2_E2H0) > 0 { "yes, with E2H0" } else { "yes" },
            "guests can't be hypervisors: needs FEAT_NV2, Linux 6.16 and kvm-arm.mode=nested on the host's command line",
        ),
        manual_protect(cap(kb::KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2)),
        dirty_ring(cap(kb::KVM_CAP_DIRTY_LOG_RING_ACQ_REL), cap(kb::KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP) > 0),
        optional(
            "dirty log: eager split",
            splits_eagerly(&vm),
            "yes",
            "a write to a block splits it while the guest waits: needs Linux 6.5",
        ),
        optional("SVE", cap(kb::KVM_CAP_ARM_SVE) > 0, "yes", "guests have no SVE: this CPU has none to give"),
        optional(
            "PMUv3",
            cap(kb::KVM_CAP_ARM_PMU_V3) > 0,
            "yes",
            "guests have no performance counters: this CPU or its firmware gives none",
        ),
        optional(
            "pointer authentication",
            cap(kb::KVM_CAP_ARM_PTRAUTH_ADDRESS) > 0 && cap(kb::KVM_CAP_ARM_PTRAUTH_GENERIC) > 0,
            "address and generic",
            "guests have none: this CPU has none to give",
        ),
        optional(
            "counter offset",
            cap(kb::KVM_CAP_COUNTER_OFFSET) > 0,
            "yes",
            "a restored guest sees its timer jump: needs Linux 6.4",
        ),
        optional(
            "guest_memfd",
            cap(kb::KVM_CAP_GUEST_MEMFD) > 0,
            "yes (not used)",
            "nothing is lost: quire does not use it",
        ),
    ]
}

/// Something that a guest can do without.
fn optional(name: &str, there: bool, found: &str, advice: &str) -> Probe {
    if there { Probe::ok(SECTION, name, found) } else { Probe::ok(SECTION, name, "no").missing(advice) }
}

fn ipa(bits: i32) -> Probe {
    let name = "IPA size";
    if bits > 0 {
        return Probe::ok(SECTION, name, format!("up to {bits} bits"));
    }
    Probe::ok(SECTION, name, "40 bits")
        .warn("it can't be chosen, which costs time when a guest ends: needs Linux 4.20")
}

fn gic(v3: bool, v2: bool) -> Probe {
    let probe = |found: &str| Probe::ok(SECTION, "GIC", found).needed();
    match (v3, v2) {
        (true, true) => probe("v3, v2"),
        (true, false) => probe("v3"),
        (false, true) => probe("v2").warn("a guest has at most 8 vCPUs"),
        (false, false) => {
            probe("none").missing("the host has no interrupt controller that KVM can virtualise")
        }
    }
}

/// The sizes are a bitmap of powers of two.
fn block_sizes(bitmap: i32) -> Probe {
    let name = "stage-2 block sizes";
    // A bitmap in the bits of a signed number.
    let bitmap = bitmap.cast_unsigned();
    let sizes: Vec<_> =
        (0..u32::BITS).filter(|bit| bitmap >> bit & 1 != 0).map(|bit| Size(1 << bit).to_string()).collect();
    if sizes.is_empty() {
        return Probe::ok(SECTION, name, "not told").warn("KVM tells them since Linux 6.5");
    }
    Probe::ok(SECTION, name, sizes.join(", "))
}

fn manual_protect(flags: i32) -> Probe {
    let name = "dirty log: manual protect";
    match flags {
        0 => Probe::ok(SECTION, name, "no")
            .missing("reading the log write-protects all of memory: needs Linux 5.0"),
        flags if flags & 2 != 0 => Probe::ok(SECTION, name, format!("{flags:#x}, initially set")),
        flags => Probe::ok(SECTION, name, format!("{flags:#x}"))
            .warn("switching the log on write-protects all of memory: needs Linux 5.8"),
    }
}

fn dirty_ring(bytes: i32, with_bitmap: bool) -> Probe {
    let name = "dirty log: ring";
    if bytes <= 0 {
        return Probe::ok(SECTION, name, "no").missing("the bitmap is used: the ring needs Linux 6.2");
    }
    let size = Size(u64::from(bytes.unsigned_abs()));
    if with_bitmap {
        return Probe::ok(SECTION, name, format!("up to {size}, with bitmap"));
    }
    Probe::ok(SECTION, name, format!("up to {size}, without bitmap"))
        .warn("what the interrupt controller writes is not in it: needs Linux 6.2")
}

/// Whether a VM takes a chunk size for eager splitting: it reads as 0 until it is set, so it is set.
fn splits_eagerly(vm: &VmFd) -> bool {
    let capability = kb::KVM_CAP_ARM_EAGER_SPLIT_CHUNK_SIZE;
    let chunk = 2u64 << 20;
    let mut request = kb::kvm_enable_cap { cap: capability, ..Default::default() };
    request.args[0] = chunk;
    vm.enable_cap(&request).is_ok()
        && u64::try_from(vm.check_extension_raw(c_ulong::from(capability))) == Ok(chunk)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn each_way_not_to_open_it_has_its_own_advice() {
        let advice = |number| unopened(&io::Error::from_raw_os_error(number)).advice.unwrap();
        assert!(advice(libc::ENOENT).contains("CONFIG_KVM"));
        assert!(advice(libc::EACCES).contains("group"));
        assert!(advice(libc::ENXIO).contains("log"));
        let probe = unopened(&io::Error::from_raw_os_error(libc::ENOENT));
        assert_eq!((probe.verdict, probe.needed), (Verdict::Missing, true));
    }

    #[test]
    fn another_api_version_is_refused() {
        assert_eq!(api(12).verdict, Verdict::Ok);
        assert_eq!(api(11).verdict, Verdict::Missing);
    }

    #[test]
    fn block_sizes_are_the_bits_of_the_bitmap() {
        assert_eq!(block_sizes(0x4020_1000).found, "4K, 2M, 1G");
        assert_eq!(block_sizes(i32::MIN).found, "2G");
        assert_eq!(block_sizes(0).verdict, Verdict::Warn);
    }

    #[test]
    fn any_gic_will_do_and_none_will_not() {
        assert_eq!(gic(true, false).verdict, Verdict::Ok);
        assert_eq!(gic(false, true).verdict, Verdict::Warn);
        let none = gic(false, false);
        assert_eq!((none.verdict, none.needed), (Verdict::Missing, true));
    }

    #[test]
    fn the_dirty_log_is_best_with_everything() {
        assert_eq!(manual_protect(3).found, "0x3, initially set");
        assert_eq!(manual_protect(1).verdict, Verdict::Warn);
        assert_eq!(manual_protect(0).verdict, Verdict::Missing);
        assert_eq!(dirty_ring(0x10_0000, true).found, "up to 1M, with bitmap");
        assert_eq!(dirty_ring(0x10_0000, false).verdict, Verdict::Warn);
        assert_eq!(dirty_ring(0, false).verdict, Verdict::Missing);
    }

    #[test]
    fn an_ipa_space_that_can_not_be_chosen_warns() {
        assert_eq!(ipa(52).found, "up to 52 bits");
        assert_eq!(ipa(0).verdict, Verdict::Warn);
    }
}
