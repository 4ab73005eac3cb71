//! Words on standard error, which nobody may read.

use std::fmt::Arguments;
use std::io::{self, Write};

/// Says `words` on standard error, as they are. Where it takes none, because its reader has gone or its disk is full,
/// they are lost: that is no reason to end a guest, and `eprint!` would.
pub(crate) fn say(words: Arguments) {
    let _ = io::stderr().lock().write_fmt(words);
}
