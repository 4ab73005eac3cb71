//! The command line: which words there are, and what they choose.

use thiserror::Error;

/// Every word, as an error message lists them.
pub const EXPECTED: &str = "test, only=NAME";

/// The test groups, by the names that `only=` takes.
pub const GROUPS: [&str; 3] = ["translations", "demand", "access-flag"];

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// The tests: all groups, or the one with this index.
    Test(Option<usize>),
}

/// A command line that can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum WordError<'a> {
    /// An unknown word.
    #[error("unknown word \"{0}\" on the command line: expected {EXPECTED}")]
    Unknown(&'a str),
    /// An unknown group.
    #[error("no test group is called \"{0}\": there are {GROUPS:?}")]
    Group(&'a str),
    /// Two words that choose different things.
    #[error("\"{0}\" contradicts a word before it: choose all tests or one group")]
    Contradiction(&'a str),
}

impl Program {
    /// Reads the command line; an empty one means all tests.
    ///
    /// # Errors
    /// [`WordError`] names the word.
    pub fn parse(line: &str) -> Result<Self, WordError<'_>> {
        let mut chosen = None;
        for word in line.split_whitespace() {
            let program = match word.split_once('=') {
                Some(("only", name)) => {
                    let index = GROUPS.iter().position(|group| *group == name);
                    Self::Test(Some(index.ok_or(WordError::Group(name))?))
                }
                None if word == "test" => Self::Test(None),
                _ => return Err(WordError::Unknown(word)),
            };
            if chosen.is_some_and(|before| before != program) {
                return Err(WordError::Contradiction(word));
            }
            chosen = Some(program);
        }
        Ok(chosen.unwrap_or(Self::Test(None)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_means_all_tests() {
        assert_eq!(Program::parse("  "), Ok(Program::Test(None)));
        assert_eq!(Program::parse("test"), Ok(Program::Test(None)));
    }

    #[test]
    fn words_choose() {
        assert_eq!(Program::parse("only=demand"), Ok(Program::Test(Some(1))));
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert_eq!(Program::parse("test quick"), Err(WordError::Unknown("quick")));
        assert_eq!(Program::parse("only=races"), Err(WordError::Group("races")));
        assert_eq!(Program::parse("only=demand test"), Err(WordError::Contradiction("test")));
    }
}
