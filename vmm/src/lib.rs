//! Quire, a small VMM for arm64 KVM hosts that treats guest memory the way the hardware does:
//! in blocks and contiguous-bit groups, and never loses on the way out what the hardware knew
//! about a page.
//!
//! # The house
//!
//! A folder per concern, one noun per file. Imports run downward only:
//! [`cli`] > [`api`], [`stress`] > [`machine`] > [`virtio`], `kvm` > [`devices`], [`memory`] > [`config`].
//! What a lower floor must tell an upper one goes through a trait that the lower one owns.
//!
//! | module | concern | builds on |
//! |---|---|---|
//! | [`cli`] | one file per subcommand | any Linux |
//! | [`api`] | HTTP on a Unix socket: routes and shapes, no logic | any Linux |
//! | [`config`] | what a VM is: plain, validated, serde types, no side effects | any Linux |
//! | [`stress`] | storms of releases, and what they must not harm | arm64, but for its pure parts |
//! | [`report`] | what a person or a program is shown of a VM's memory | any Linux |
//! | [`machine`] | assembly and life cycle of a VM | arm64, but for its pure parts |
//! | `kvm` | what kvm-ioctls does not wrap | arm64 |
//! | [`memory`] | what backs guest RAM, what is known of each page, and its way back to the host | any Linux |
//! | [`faults`] | what can be put wrong on purpose, by a feature for tests | any Linux |
//! | `lock` | locking a mutex whose holder may have panicked | any Linux |
//! | `say` | words on standard error, which nobody may read | any Linux |
//! | [`devices`] | MMIO bus, serial port, clock, console | any Linux |
//! | [`virtio`] | virtio-mmio transport, block, entropy | any Linux |

// They panic where nobody reads: `say` and `cli::print` do not.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod api;
pub mod cli;
pub mod config;
pub mod devices;
pub mod faults;
#[cfg(target_arch = "aarch64")]
pub mod kvm;
mod lock;
pub mod machine;
pub mod memory;
pub mod report;
mod say;
pub mod stress;
pub mod virtio;
