//! What the bare-metal images share: the first instructions, the device tree, the console, PSCI.
//!
//! An image boots like a Linux kernel (an arm64 Image, the device tree in x0), at whatever 2 MiB aligned
//! address it was loaded, and takes the machine from the device tree. What can be tested anywhere is
//! kept apart from what needs the machine.
//!
//! | module | what it holds |
//! |---|---|
//! | [`ram`] | ranges of memory: what is owned, and whose share is which |
//! | [`tree`] | what the device tree says |
//! | [`uart`] | the serial ports that are driven |
//! | `console` (arm64) | lines on the serial port, and the end of a run that failed |
//! | `power` (arm64) | PSCI |
//! | `clock` (arm64) | the virtual counter |
//! | `frames` (arm64) | pages for stage-1 tables |
//!
//! Beside the crate lie the parts that are no Rust: `asm/boot.s` (from the first instruction to the image's
//! `primary`), `asm/memory.s` (what the compiler calls for copies), `image.ld` (the layout), and
//! `build/image.rs`, which every image's build script includes.

#![cfg_attr(not(test), no_std)]

#[cfg(target_arch = "aarch64")]
pub mod clock;
#[cfg(target_arch = "aarch64")]
pub mod console;
#[cfg(target_arch = "aarch64")]
pub mod frames;
#[cfg(target_arch = "aarch64")]
pub mod power;
pub mod ram;
pub mod tree;
pub mod uart;
