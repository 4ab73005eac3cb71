//! An error and its causes, as they are printed.

use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use super::log::colour;
use crate::say::say;

/// An error that knows which exit code it means.
pub(super) trait Failure: Error {
    /// The exit code of the program.
    fn exit_code(&self) -> u8;
}

/// Prints an error, if there is one, and says how the program ends.
pub(super) fn report<E: Failure>(outcome: Result<ExitCode, E>) -> ExitCode {
    match outcome {
        Ok(code) => code,
        Err(error) => {
            say(format_args!("{}", render(&error)));
            ExitCode::from(error.exit_code())
        }
    }
}

/// Prints what is wrong with a command line, or the help that it asks for.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    if error.use_stderr() {
        let text = error.render();
        if colour(&io::stderr()) {
            say(format_args!("quire: {}", text.ansi()))
        } else {
            say(format_args!("quire: {text}"))
        }
    } else {
        // A reader that has seen enough of the help is no error.
        let _ = error.print();
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// `quire: error: ...`, and each cause on an indented line of its own.
///
/// A cause that the line above already tells is left out.
fn render(error: &dyn Error) -> String {
    let mut last = error.to_string();
    let mut text = format!("quire: error: {last}\n");
    let mut next = error.source();
    while let Some(cause) = next {
        let message = cause.to_string();
        if !last.contains(&message) {
            // Writing to a string does not fail.
            let _ = writeln!(text, "  caused by: {message}");
            last = message;
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn chain(texts: &[&'static str]) -> Link {
        let (text, rest) = texts.split_first().unwrap();
        Link { text, source: (!rest.is_empty()).then(|| Box::new(chain(rest))) }
    }

    #[test]
    fn an_error_without_a_cause_is_one_line() {
        assert_eq!(render(&chain(&["no memory"])), "quire: error: no memory\n");
    }

    #[test]
    fn every_cause_has_its_own_line() {
        assert_eq!(
            render(&chain(&["can't start", "can't read it", "permission denied"])),
            "quire: error: can't start\n  caused by: can't read it\n  caused by: permission denied\n"
        );
    }

    #[test]
    fn a_cause_is_not_told_twice() {
        assert_eq!(
            render(&chain(&["can't read a: permission denied", "permission denied", "EPERM"])),
            "quire: error: can't read a: permission denied\n  caused by: EPERM\n"
        );
    }
}
