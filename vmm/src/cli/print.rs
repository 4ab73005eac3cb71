//! An answer on standard output.

use std::io::{self, Write};

/// Prints an answer, and says whether somebody is there to read more of it. A reader that has seen enough is no error.
///
/// # Errors
/// Standard output takes nothing for another reason.
pub(super) fn print(text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error),
    }
}
