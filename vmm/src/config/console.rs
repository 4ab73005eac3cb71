//! Where the serial port's other end is.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer, ser};

use super::Error;

/// Where the serial port's other end is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ConsoleConfig {
    /// This terminal: raw while the guest runs, Ctrl-A x quits.
    #[default]
    Stdio,
    /// A new pseudo-terminal, its name printed.
    Pty,
    /// Output is appended to a file; there is no input.
    File(PathBuf),
    /// Output is dropped; there is no input.
    Null,
}

impl ConsoleConfig {
    /// The words that [`FromStr`] takes.
    pub(super) const VALUES: &'static [&'static str] = &["stdio", "pty", "file:PATH", "null"];
}

impl fmt::Display for ConsoleConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stdio => f.pad("stdio"),
            Self::Pty => f.pad("pty"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Null => f.pad("null"),
        }
    }
}

impl FromStr for ConsoleConfig {
    type Err = Error;

    /// Reads one of the words; a path is taken as it stands, commas included.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for another word, [`Error::EmptyPath`] for `file:` alone.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "stdio" => Ok(Self::Stdio),
            "pty" => Ok(Self::Pty),
            "null" => Ok(Self::Null),
            _ => match text.strip_prefix("file:") {
                Some("") => Err(Error::EmptyPath { what: "console file" }),
                Some(path) => Ok(Self::File(path.into())),
                None => {
                    Err(Error::UnknownValue { what: "console", value: text.to_owned(), valid: Self::VALUES })
                }
            },
        }
    }
}

impl Serialize for ConsoleConfig {
    /// # Errors
    /// Where the path of a file is not UTF-8: it could not be read back.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) if path.to_str().is_none() => Err(ser::Error::custom("the path is not UTF-8")),
            _ => serializer.collect_str(self),
        }
    }
}

super::json::deserialize_from_str!(ConsoleConfig, "a console such as \"stdio\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_console_is_read_and_written_back() {
        for text in ["stdio", "pty", "null", "file:out,1.log"] {
            assert_eq!(text.parse::<ConsoleConfig>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn unknown_consoles_list_the_valid_ones() {
        for text in ["stdout", "", "file", "out.log"] {
            let message = text.parse::<ConsoleConfig>().unwrap_err().to_string();
            assert!(message.contains("stdio, pty, file:PATH or null"), "{message}");
        }
        assert!(matches!("file:".parse::<ConsoleConfig>(), Err(Error::EmptyPath { .. })));
    }
}
