//! The command line: which words there are, and what they choose.

use thiserror::Error;

/// Every word, as an error message lists them.
pub const EXPECTED: &str = "test, bench, only=NAME, granule=SIZE, rounds=N";

/// The test groups, by the names that `only=` takes.
pub const GROUPS: [&str; 9] = [
    "translations",
    "demand",
    "access-flag",
    "dirty",
    "stale",
    "conversions",
    "race",
    "invalidation",
    "teardown",
];

/// The granules, by the sizes that `granule=` takes, and in KiB.
const GRANULES: [(&str, u64); 3] = [("4K", 4), ("16K", 16), ("64K", 64)];

/// Rounds of each race, where nothing else is said.
const ROUNDS: u32 = 50;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program {
    /// The group with this index; all of them where absent.
    pub only: Option<usize>,
    /// KiB of the granule that the tables have; each in turn where absent.
    pub granule: Option<u64>,
    /// Rounds of each race that have to find something.
    pub rounds: u32,
    /// The benchmark table instead.
    pub bench: bool,
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
    /// An unknown granule.
    #[error("granule=\"{0}\" is none: there are 4K, 16K and 64K")]
    Granule(&'a str),
    /// No number, or none that makes sense.
    #[error("rounds=\"{0}\" is not a number from 1 to 1000000")]
    Rounds(&'a str),
}

impl Program {
    /// Reads the command line; an empty one means all tests. Of two words that choose the same thing, the last
    /// one counts.
    ///
    /// # Errors
    /// [`WordError`] names the word.
    pub fn parse(line: &str) -> Result<Self, WordError<'_>> {
        let mut program = Self { only: None, granule: None, rounds: ROUNDS, bench: false };
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some(("only", name)) => {
                    let index = GROUPS.iter().position(|group| *group == name);
                    program.only = Some(index.ok_or(WordError::Group(name))?);
                }
                Some(("granule", size)) => {
                    let granule = GRANULES.iter().find(|(name, _)| *name == size);
                    program.granule = Some(granule.ok_or(WordError::Granule(size))?.1);
                }
                Some(("rounds", number)) => {
                    let rounds = number.parse().ok().filter(|rounds| (1..=1_000_000).contains(rounds));
                    program.rounds = rounds.ok_or(WordError::Rounds(number))?;
                }
                None if word == "test" => (program.only, program.bench) = (None, false),
                None if word == "bench" => program.bench = true,
                _ => return Err(WordError::Unknown(word)),
            }
        }
        Ok(program)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_line_means_all_tests() {
        let all = Program { only: None, granule: None, rounds: ROUNDS, bench: false };
        assert_eq!(Program::parse("  "), Ok(all));
        assert_eq!(Program::parse("only=race test"), Ok(all));
    }

    #[test]
    fn words_choose() {
        let race = Program { only: Some(6), granule: Some(16), rounds: 7, bench: false };
        assert_eq!(Program::parse("only=race granule=16K rounds=7"), Ok(race));
        assert!(Program::parse("bench").is_ok_and(|program| program.bench));
    }

    #[test]
    fn what_is_unknown_is_named() {
        assert_eq!(Program::parse("test quick"), Err(WordError::Unknown("quick")));
        assert_eq!(Program::parse("only=races"), Err(WordError::Group("races")));
        assert_eq!(Program::parse("granule=8K"), Err(WordError::Granule("8K")));
        assert_eq!(Program::parse("test=1"), Err(WordError::Unknown("test=1")));
        assert_eq!(Program::parse("rounds=0"), Err(WordError::Rounds("0")));
    }
}
