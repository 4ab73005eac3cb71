//! How fast memory goes back to the host, side by side with QEMU.
//!
//! `cargo lab bench release` runs it in an emulated host that counts instructions instead of time (1 ns of virtual
//! time each), where the ratios repeat. Goals are judged, not enforced: a measurement that could be made ends with 0.

#[cfg(target_arch = "aarch64")]
mod balloon;
#[cfg(target_arch = "aarch64")]
mod library;
#[cfg(target_arch = "aarch64")]
mod measured;
#[cfg(target_arch = "aarch64")]
mod plot;
#[cfg(target_arch = "aarch64")]
mod qmp;
#[cfg(target_arch = "aarch64")]
mod vmm;

fn main() {
    #[cfg(target_arch = "aarch64")]
    measured::main();
    #[cfg(not(target_arch = "aarch64"))]
    println!("this measures guests on arm64 KVM: `cargo lab bench release` sets up a host for it");
}
