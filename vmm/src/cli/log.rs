//! What goes to standard error while the program works.

use std::io::{self, IsTerminal};

use clap::{ArgAction, Args, ValueEnum};
use tracing::level_filters::LevelFilter;

/// The options that every subcommand has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Messages")]
pub(super) struct LogArgs {
    /// Say more on standard error: -v what is done, -vv how, -vvv everything.
    #[arg(short, long, action = ArgAction::Count, global = true, conflicts_with = "log")]
    verbose: u8,
    /// What to say on standard error, by its least level.
    #[arg(long, value_name = "LEVEL", global = true)]
    log: Option<Level>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Level {
    Off,
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArgs {
    /// The least level that is printed; warnings where nothing was asked for.
    fn level(&self) -> LevelFilter {
        match (self.log, self.verbose) {
            (Some(Level::Off), _) => LevelFilter::OFF,
            (Some(Level::Error), _) => LevelFilter::ERROR,
            (Some(Level::Warn), _) | (None, 0) => LevelFilter::WARN,
            (Some(Level::Info), _) | (None, 1) => LevelFilter::INFO,
            (Some(Level::Debug), _) | (None, 2) => LevelFilter::DEBUG,
            (Some(Level::Trace), _) | (None, _) => LevelFilter::TRACE,
        }
    }

    /// Sends what the program logs to standard error from now on.
    pub(super) fn install(&self) {
        tracing_subscriber::fmt()
            .with_max_level(self.level())
            .with_writer(io::stderr)
            .with_ansi(colour(&io::stderr()))
            .with_target(false)
            // Or what can't be written would be said again, by `eprintln!`, which panics then.
            .log_internal_errors(false)
            .without_time()
            .init();
    }
}

/// Whether a stream takes colour: a terminal does, unless NO_COLOR is set (no-color.org).
pub(super) fn colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_v_says_more() {
        let level = |verbose| LogArgs { verbose, log: None }.level();
        assert_eq!(
            [level(0), level(1), level(2), level(3), level(9)],
            [
                LevelFilter::WARN,
                LevelFilter::INFO,
                LevelFilter::DEBUG,
                LevelFilter::TRACE,
                LevelFilter::TRACE
            ]
        );
    }

    #[test]
    fn a_named_level_is_that_level() {
        let level = |log| LogArgs { verbose: 0, log: Some(log) }.level();
        assert_eq!(level(Level::Off), LevelFilter::OFF);
        assert_eq!(level(Level::Error), LevelFilter::ERROR);
        assert_eq!(level(Level::Info), LevelFilter::INFO);
    }
}
