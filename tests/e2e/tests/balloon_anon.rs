//! The balloon of Linux guests with 4 KiB and with 16 KiB pages.
#![cfg(target_arch = "aarch64")]

use e2e::balloon::gives_and_takes;
use e2e::{Kernel, footprint};

#[test]
fn anonymous_memory_of_a_guest_with_4_kib_pages() {
    gives_and_takes(Kernel::New, "384M", &footprint::anonymous);
}

#[test]
fn anonymous_memory_of_a_guest_with_16_kib_pages() {
    gives_and_takes(Kernel::Pages16k, "384M", &footprint::anonymous);
}
