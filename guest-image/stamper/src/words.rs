//! The command line: which words there are, and the program that they make.

use arrayvec::ArrayVec;
use thiserror::Error;

use crate::stamp::{PAGE_SIZE, Pattern};

/// The most actions that a command line may hold.
pub const MAX_ACTIONS: usize = 64;

/// Every word, as an error message lists them.
pub const EXPECTED: &str = "generations=N, stamp, verify, echo, reset[=N], \
     crash=undef|unmapped|nisv|fetch, storm, spin, idle, poweroff, full, from=G, seed=N, steps=N, \
     seconds=N, every=N, unit=BYTES";

/// One thing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Stamp the next generation and verify it, this many times.
    Generations(u32),
    /// Stamp the next generation.
    Stamp,
    /// Verify the last generation.
    Verify,
    /// Repeat the lines of console input until `quit`.
    Echo,
    /// Reset the machine until its memory has seen this many resets.
    Reset(u32),
    /// Do something fatal.
    Crash(Crash),
    /// Storm the balloon.
    Storm,
    /// Keep every vCPU busy for ever.
    Spin,
    /// Let every vCPU wait for an interrupt for ever.
    Idle,
    /// Leave out what follows.
    PowerOff,
}

/// Something fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// An undefined instruction.
    Undefined,
    /// A load from where there is nothing.
    Unmapped,
    /// A load there whose syndrome does not describe it.
    NoSyndrome,
    /// A jump there.
    Fetch,
}

impl Crash {
    /// The word for it.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Undefined => "undef",
            Self::Unmapped => "unmapped",
            Self::NoSyndrome => "nisv",
            Self::Fetch => "fetch",
        }
    }
}

/// How a storm goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Storm {
    /// What all of its choices follow from.
    pub seed: u64,
    /// How many steps it takes.
    pub steps: u64,
    /// After how many seconds it ends before that; `None` where it takes its time.
    pub seconds: Option<u64>,
    /// Steps between two lines of progress.
    pub every: u64,
    /// Bytes, a power of two, of what the device clears when it is put into the balloon whole; `None` where
    /// it owes nothing.
    pub unit: Option<u64>,
}

impl Default for Storm {
    fn default() -> Self {
        Self { seed: 1, steps: 1000, seconds: None, every: 32, unit: None }
    }
}

/// What a command line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// What to do, in order.
    pub actions: ArrayVec<Action, MAX_ACTIONS>,
    /// How much of a page is stamped.
    pub pattern: Pattern,
    /// The number of the first generation.
    pub first: u64,
    /// How a storm goes.
    pub storm: Storm,
}

/// A command line that can't be followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum WordError<'a> {
    /// There is no such word.
    #[error("unknown word \"{0}\": expected one of {EXPECTED}")]
    Unknown(&'a str),
    /// The word is known, its value is not.
    #[error("bad value in \"{word}\": expected {expected}")]
    Value {
        /// The word as it was written.
        word: &'a str,
        /// What may stand after the equals sign.
        expected: &'static str,
    },
    /// More actions than a program holds.
    #[error("too many actions at \"{0}\": at most {MAX_ACTIONS}")]
    TooMany(&'a str),
}

impl Program {
    /// Reads a command line.
    pub fn parse(line: &str) -> Result<Self, WordError<'_>> {
        let mut program =
            Self { actions: ArrayVec::new(), pattern: Pattern::Lines, first: 1, storm: Storm::default() };
        for word in line.split_ascii_whitespace() {
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (word, None),
            };
            let action = match (name, value) {
                ("full", None) => {
                    program.pattern = Pattern::Full;
                    continue;
                }
                ("from", Some(value)) => {
                    program.first = number(word, value)?;
                    continue;
                }
                ("seed", Some(value)) => {
                    let seed = value.parse().ok();
                    program.storm.seed =
                        seed.ok_or(WordError::Value { word, expected: "a decimal number" })?;
                    continue;
                }
                ("steps", Some(value)) => {
                    program.storm.steps = number(word, value)?;
                    continue;
                }
                ("seconds", Some(value)) => {
                    program.storm.seconds = Some(number(word, value)?);
                    continue;
                }
                ("every", Some(value)) => {
                    program.storm.every = number(word, value)?;
                    continue;
                }
                ("unit", Some(value)) => {
                    let unit = number(word, value)?;
                    if !u64::is_power_of_two(unit) || unit < PAGE_SIZE {
                        return Err(WordError::Value { word, expected: "a power of two from 4096 up" });
                    }
                    program.storm.unit = Some(unit);
                    continue;
                }
                ("generations", Some(value)) => Action::Generations(number(word, value)?),
                ("stamp", None) => Action::Stamp,
                ("verify", None) => Action::Verify,
                ("echo", None) => Action::Echo,
                ("reset", None) => Action::Reset(1),
                ("reset", Some(value)) => Action::Reset(number(word, value)?),
                ("crash", Some(value)) => Action::Crash(crash(word, value)?),
                ("storm", None) => Action::Storm,
                ("spin", None) => Action::Spin,
                ("idle", None) => Action::Idle,
                ("poweroff", None) => Action::PowerOff,
                _ => return Err(WordError::Unknown(word)),
            };
            program.actions.try_push(action).map_err(|_| WordError::TooMany(word))?;
        }
        if program.actions.is_empty() {
            program.actions.push(Action::Generations(2));
        }
        Ok(program)
    }
}

/// A number from 1 up that fits into `N`.
fn number<'a, N: TryFrom<u64>>(word: &'a str, value: &str) -> Result<N, WordError<'a>> {
    let expected = "a decimal number from 1 up";
    match value.parse::<u64>() {
        Ok(number) if number > 0 => {
            N::try_from(number).map_err(|_| WordError::Value { word, expected: "a smaller number" })
        }
        _ => Err(WordError::Value { word, expected }),
    }
}

fn crash<'a>(word: &'a str, value: &str) -> Result<Crash, WordError<'a>> {
    [Crash::Undefined, Crash::Unmapped, Crash::NoSyndrome, Crash::Fetch]
        .into_iter()
        .find(|crash| crash.word() == value)
        .ok_or(WordError::Value { word, expected: "undef, unmapped, nisv or fetch" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actions(line: &str) -> Vec<Action> {
        Program::parse(line).unwrap().actions.to_vec()
    }

    #[test]
    fn no_words_stamp_and_verify_two_generations() {
        let program = Program::parse(" \n ").unwrap();
        assert_eq!(program.actions.as_slice(), [Action::Generations(2)]);
        assert_eq!((program.pattern, program.first), (Pattern::Lines, 1));
    }

    #[test]
    fn actions_keep_their_order() {
        assert_eq!(
            actions("stamp reset=2 verify crash=nisv echo spin idle poweroff"),
            [
                Action::Stamp,
                Action::Reset(2),
                Action::Verify,
                Action::Crash(Crash::NoSyndrome),
                Action::Echo,
                Action::Spin,
                Action::Idle,
                Action::PowerOff,
            ]
        );
        assert_eq!(actions("reset"), [Action::Reset(1)]);
    }

    #[test]
    fn options_are_no_actions() {
        let program = Program::parse("full from=18446744073709551615").unwrap();
        assert_eq!(program.actions.as_slice(), [Action::Generations(2)]);
        assert_eq!((program.pattern, program.first), (Pattern::Full, u64::MAX));
    }

    #[test]
    fn a_storm_has_its_options() {
        let program = Program::parse("storm").unwrap();
        assert_eq!(
            (program.actions.as_slice(), program.storm),
            ([Action::Storm].as_slice(), Storm::default())
        );
        let program = Program::parse("seed=0 steps=7 seconds=3 every=2 unit=65536 storm").unwrap();
        let storm = Storm { seed: 0, steps: 7, seconds: Some(3), every: 2, unit: Some(65536) };
        assert_eq!(program.storm, storm);
        for word in ["unit=4095", "unit=2048", "unit=12288"] {
            let expected = "a power of two from 4096 up";
            assert_eq!(Program::parse(word), Err(WordError::Value { word, expected }));
        }
        assert!(Program::parse("seed=x").is_err() && Program::parse("steps=0").is_err());
    }

    #[test]
    fn each_kind_of_crash_has_its_word() {
        for crash in [Crash::Undefined, Crash::Unmapped, Crash::NoSyndrome, Crash::Fetch] {
            assert_eq!(actions(&format!("crash={}", crash.word())), [Action::Crash(crash)]);
        }
    }

    #[test]
    fn unknown_words_are_named() {
        for word in ["x", "console=ttyS0", "stamp=1", "crash", "generations", "=", "full=1", "Stamp"] {
            assert_eq!(Program::parse(&format!("stamp {word} verify")), Err(WordError::Unknown(word)));
        }
        assert_eq!(
            Program::parse("x").unwrap_err().to_string(),
            format!("unknown word \"x\": expected one of {EXPECTED}")
        );
    }

    #[test]
    fn bad_values_are_named_with_what_is_expected() {
        for word in ["generations=0", "generations=", "generations=-1", "from=0x10", "reset=two"] {
            let expected = "a decimal number from 1 up";
            assert_eq!(Program::parse(word), Err(WordError::Value { word, expected }));
        }
        let word = "generations=4294967296";
        assert_eq!(Program::parse(word), Err(WordError::Value { word, expected: "a smaller number" }));
        let word = "crash=burn";
        let expected = "undef, unmapped, nisv or fetch";
        assert_eq!(Program::parse(word), Err(WordError::Value { word, expected }));
    }

    #[test]
    fn too_many_actions_are_refused() {
        assert_eq!(actions(&"stamp ".repeat(MAX_ACTIONS)).len(), MAX_ACTIONS);
        let line = format!("{}verify", "stamp ".repeat(MAX_ACTIONS));
        assert_eq!(Program::parse(&line), Err(WordError::TooMany("verify")));
    }
}
