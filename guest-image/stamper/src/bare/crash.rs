//! The fatal actions, for tests of what a VMM says when its guest does them.

#![expect(unsafe_code, reason = "instructions that must not be executed")]

use core::arch::asm;

use board::console;
use board::ram::Span;
use board::say;

use crate::bare::paging::Stage1;
use crate::stamp::PAGE_SIZE;
use crate::words::Crash;

/// Does it. `below` is where memory starts: the page below it is where nothing is. Returns if the
/// access came back.
pub fn crash(kind: Crash, below: u64, tables: &mut Stage1) {
    let word = kind.word();
    if kind == Crash::Undefined {
        say!("crash kind={word}");
        // SAFETY: traps; the vectors end the run.
        unsafe { asm!("udf #0", options(noreturn)) }
    }
    let Some(address) = below.checked_sub(PAGE_SIZE) else {
        console::fail(format_args!("memory starts at 0: there is no page below it to crash={word} at"));
    };
    let page = Span::new(address, PAGE_SIZE);
    say!("crash kind={word} address={address:#x}");
    match kind {
        Crash::Undefined => {}
        Crash::Unmapped => {
            tables.map_device(page);
            let value: u32;
            // SAFETY: a load changes no memory of ours.
            unsafe { asm!("ldr {:w}, [{}]", out(reg) value, in(reg) address, options(nostack)) };
            say!("survived kind={word} value={value:#x}");
        }
        Crash::NoSyndrome => {
            tables.map_device(page);
            let (first, second): (u64, u64);
            // SAFETY: as above.
            unsafe {
                asm!("ldp {}, {}, [{}]", out(reg) first, out(reg) second, in(reg) address, options(nostack));
            }
            say!("survived kind={word} value={first:#x},{second:#x}");
        }
        Crash::Fetch => {
            tables.map_code(page);
            // SAFETY: traps, or ends in whatever is there: that is what was asked for.
            unsafe { asm!("br {}", in(reg) address, options(noreturn)) }
        }
    }
}
