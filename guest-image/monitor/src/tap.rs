//! TAP, the Test Anything Protocol, version 14: what the tests say.
//!
//! The plan comes last, so that it counts what was run; whoever reads it takes a log without a plan, or
//! with fewer lines than planned, for one that was cut.

use core::fmt::{self, Write};

use arrayvec::ArrayString;

/// Bytes of a reason; what is longer is cut.
const REASON: usize = 200;

/// Why a test failed or was skipped.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reason(ArrayString<REASON>);

impl Reason {
    /// The text, cut at the end if it is too long.
    pub fn new(text: fmt::Arguments<'_>) -> Self {
        let mut reason = Self::default();
        // A cut reason is all that an error means here.
        let _cut = reason.write_fmt(text);
        reason
    }
}

impl Write for Reason {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|c| self.0.try_push(c).map_err(|_| fmt::Error))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a test ended with, if not with success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It found something wrong.
    Failed(Reason),
    /// The test bed can't show it.
    Skipped(Reason),
}

/// What a test ended with.
pub type Outcome = Result<(), Miss>;

/// Ends a test that has found something wrong: `fail!("what {value}")`.
#[macro_export]
macro_rules! fail {
    ($($argument:tt)*) => {
        return Err($crate::tap::Miss::Failed($crate::tap::Reason::new(format_args!($($argument)*))))
    };
}

/// Ends a test that this bed can't do.
#[macro_export]
macro_rules! skip {
    ($($argument:tt)*) => {
        return Err($crate::tap::Miss::Skipped($crate::tap::Reason::new(format_args!($($argument)*))))
    };
}

/// Ends a test where something is not so.
#[macro_export]
macro_rules! ensure {
    ($condition:expr, $($argument:tt)*) => {
        if !$condition {
            $crate::fail!($($argument)*);
        }
    };
}

/// The count, and where the lines go.
#[derive(Debug)]
pub struct Tap<S> {
    sink: S,
    ok: u32,
    not_ok: u32,
    skipped: u32,
}

impl<S: FnMut(fmt::Arguments<'_>)> Tap<S> {
    /// Begins: the version.
    pub fn begin(mut sink: S) -> Self {
        sink(format_args!("TAP version 14"));
        Self { sink, ok: 0, not_ok: 0, skipped: 0 }
    }

    /// The number of the test that comes next.
    pub const fn next(&self) -> u32 {
        self.ok + self.not_ok + self.skipped + 1
    }

    /// A comment.
    pub fn note(&mut self, text: fmt::Arguments<'_>) {
        (self.sink)(format_args!("# {text}"));
    }

    /// One test's line.
    pub fn test(&mut self, name: fmt::Arguments<'_>, outcome: &Outcome) {
        let number = self.next();
        match outcome {
            Ok(()) => {
                self.ok += 1;
                (self.sink)(format_args!("ok {number} - {name}"));
            }
            Err(Miss::Skipped(reason)) => {
                self.skipped += 1;
                (self.sink)(format_args!("ok {number} - {name} # SKIP {reason}"));
            }
            Err(Miss::Failed(reason)) => {
                self.not_ok += 1;
                (self.sink)(format_args!("not ok {number} - {name}"));
                (self.sink)(format_args!("# {reason}"));
            }
        }
    }

    /// Ends: the plan, and the last line, which says what it comes to.
    pub fn end(mut self) {
        let Self { ok, not_ok, skipped, .. } = self;
        let verdict = match (ok, not_ok, skipped) {
            (_, 1.., _) => "the MMU does not do what the tables of stage2 say",
            (0, 0, _) => "this machine can show nothing",
            (_, 0, 0) => "the MMU does what the tables of stage2 say",
            (_, 0, _) => {
                "the MMU does what the tables of stage2 say; what was skipped can't be seen on this machine"
            }
        };
        (self.sink)(format_args!("1..{}", ok + not_ok + skipped));
        (self.sink)(format_args!("# done: {ok} ok, {not_ok} not ok, {skipped} skipped: {verdict}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failing(value: u32) -> Outcome {
        ensure!(value == 1, "it is {value}");
        skip!("no {}", "reason");
    }

    #[test]
    fn lines_are_numbered_and_planned() {
        let mut lines = Vec::new();
        let mut tap = Tap::begin(|line: fmt::Arguments<'_>| lines.push(line.to_string()));
        tap.test(format_args!("a"), &Ok(()));
        tap.test(format_args!("b"), &failing(2));
        tap.test(format_args!("c"), &failing(1));
        tap.end();
        assert_eq!(
            lines,
            [
                "TAP version 14",
                "ok 1 - a",
                "not ok 2 - b",
                "# it is 2",
                "ok 3 - c # SKIP no reason",
                "1..3",
                "# done: 1 ok, 1 not ok, 1 skipped: the MMU does not do what the tables of stage2 say"
            ]
        );
    }

    #[test]
    fn a_long_reason_is_cut() {
        let long = "x".repeat(2 * REASON);
        assert_eq!(Reason::new(format_args!("{long}")).to_string().len(), REASON);
    }
}
