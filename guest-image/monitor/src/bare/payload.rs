//! The payload as EL2 sees it: its routines and its home.
//!
//! The home is one page of the largest granule, mapped at the same IPA in every guest, always dirty and young,
//! so that nothing of the payload itself ever faults. Behind the code lie words for EL2 and EL1 to talk by, and
//! room for stage-1 tables.

#![expect(unsafe_code, reason = "writes into memory that is owned by address")]

use core::ptr;

use crate::bare::bed::bed;

/// Where the home is in every guest: the last but one MiB below 4 GiB, which the smallest input size holds.
pub const HOME: u64 = 0xffe0_0000;
/// Where the vectors of EL1 stand in it.
pub const VECTORS: u64 = HOME + 0x800;

/// In the home: the word that stops endless routines.
const STOP: u64 = 0x2000;
/// A page of data.
const DATA: u64 = 0x3000;
/// Three pages for stage-1 tables: the start level, and two tables of the next.
const TABLES: u64 = 0x4000;

/// A routine of the payload; its number is its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u64)]
pub enum Routine {
    /// Loads.
    Read,
    /// Stores.
    Write,
    /// Adds atomically.
    Add,
    /// Calls.
    Call,
    /// Loads along a stretch.
    SweepRead,
    /// Stores along a stretch.
    SweepWrite,
    /// Stores generations all over a stretch until it is stopped.
    Scatter,
    /// Adds 1 all over a stretch until it is stopped.
    AddUp,
    /// Counts down: as many instructions as are asked for.
    Calibrate,
}

impl Routine {
    /// Where it starts.
    pub const fn entry(self) -> u64 {
        HOME + self as u64 * 64
    }

    /// Whether it goes on until it is stopped.
    pub const fn is_endless(self) -> bool {
        matches!(self, Self::Scatter | Self::AddUp)
    }
}

/// The IPA of the word that stops endless routines.
pub const fn stop_ipa() -> u64 {
    HOME + STOP
}

/// The IPA of the page of data.
pub const fn data_ipa() -> u64 {
    HOME + DATA
}

/// The physical address of stage-1 table `index` of three, and the IPA of table 0.
pub fn table(index: u64) -> u64 {
    bed().home + TABLES + index * 0x1000
}

/// The IPA of the stage-1 start level.
pub const fn tables_ipa() -> u64 {
    HOME + TABLES
}

/// Lets endless routines run, or stops them.
pub fn stop(now: bool) {
    // SAFETY: a word of the home, which EL1 reads and EL2 alone writes.
    unsafe { ptr::write_volatile((bed().home + STOP) as *mut u64, u64::from(now)) };
}

/// Reads a word of memory that the tests map.
pub fn peek(address: u64) -> u64 {
    // SAFETY: memory of the arena or the home, mapped at its own address and only used by words.
    unsafe { ptr::read_volatile(address as *const u64) }
}

/// Writes one.
pub fn poke(address: u64, value: u64) {
    // SAFETY: as above.
    unsafe { ptr::write_volatile(address as *mut u64, value) };
}
