//! The device as a driver sees it.

mod contract;
mod control;
mod features;
mod hinting;
mod hostile;
mod reporting;
mod statistics;

use super::testing::{ALL, Call, Rig};
use crate::virtio::driver::{BASE, Part, SIZE};

/// Number of RAM's first page.
const FIRST: u32 = (BASE >> 12) as u32;

const INFLATE: usize = 0;
const DEFLATE: usize = 1;

/// The bytes of `count` pages from the `first` of RAM on.
fn pages(first: u64, count: u64) -> std::ops::Range<u64> {
    BASE + first * 4096..BASE + (first + count) * 4096
}
