//! Frames for stage-2 tables: one piece of memory, mapped at its own address.

#![expect(unsafe_code, reason = "a frame is memory that is owned by address")]

use core::slice;

use board::console;
use board::ram::Span;
use spin::Mutex;
use stage2::{Entry, Frames};

use crate::units::{UNITS, Units};

/// Bytes of a unit: the smallest granule.
const UNIT: u64 = 4 << 10;
/// Bytes of the pool.
pub const SIZE: u64 = UNITS as u64 * UNIT;
/// Its alignment: that of the largest start level, sixteen tables of 64 KiB.
pub const ALIGN: u64 = 1 << 20;

static POOL: Mutex<State> = Mutex::new(State { base: 0, units: Units::new() });

struct State {
    base: u64,
    units: Units,
}

/// Gives the pool its memory.
pub fn set_up(memory: Span) {
    POOL.lock().base = memory.start;
}

/// Bytes of frames that are handed out.
pub fn in_use() -> u64 {
    POOL.lock().units.taken() as u64 * UNIT
}

/// The pool, as tables take frames from it.
#[derive(Clone, Copy, Debug)]
pub struct Pool;

impl Frames for Pool {
    fn allocate(&mut self, size: u64) -> Option<u64> {
        let mut state = POOL.lock();
        let unit = state.units.take((size / UNIT) as usize)? as u64;
        let frame = state.base + unit * UNIT;
        // SAFETY: memory of the pool that nobody has, mapped at its own address.
        unsafe { core::ptr::write_bytes(frame as *mut u8, 0, size as usize) };
        Some(frame)
    }

    fn free(&mut self, frame: u64, size: u64) {
        let mut state = POOL.lock();
        let unit = frame.wrapping_sub(state.base) / UNIT;
        if unit >= UNITS as u64 || !state.units.give(unit as usize, (size / UNIT) as usize) {
            console::fail(format_args!("frame {frame:#x}+{size:#x} was given back, but never taken"));
        }
    }

    fn table(&self, frame: u64, entries: usize) -> &[Entry] {
        // SAFETY: the tables ask for what they were given: memory of the pool, zeroed, aligned, and only ever
        // reached as atomics until it is given back.
        unsafe { slice::from_raw_parts(frame as *const Entry, entries) }
    }
}
