//! The `quire` program: parse and dispatch, nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    quire::cli::main()
}
