//! A bug ends the program, and leaves the terminal as it was.

use std::panic;
use std::process;

use crate::devices::console::terminal;
use crate::say::say;

/// Exit code after a panic, whichever thread it was in: the one that Rust's runtime uses.
const PANICKED: i32 = 101;

/// From now on a panic in any thread restores the terminal, says what happened, and ends the program:
/// a VM that has lost one of its threads would hang.
pub(super) fn install() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        terminal::restore();
        // Not `eprintln!`: a panic in here would end the program before it has said where the first one was.
        say(format_args!("quire: this is a bug in quire; please report it with the lines below\n"));
        print(info);
        process::exit(PANICKED);
    }));
}
