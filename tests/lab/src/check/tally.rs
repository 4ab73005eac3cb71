//! What passed and what failed.

use std::time::{Duration, Instant};

use super::libtest::{Reader, Verdict};
use crate::tap;

/// How a program ended, for the count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// By itself, with this code.
    Code(i32),
    /// It was silent for so long that it was killed.
    Silent(Duration),
}

/// The count, and the names of what failed.
#[derive(Debug)]
pub(crate) struct Tally {
    since: Instant,
    passed: usize,
    failed: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    /// Nothing yet.
    pub(crate) fn new() -> Tally {
        Tally { since: Instant::now(), passed: 0, failed: Vec::new(), skipped: Vec::new() }
    }

    /// Says that a step begins.
    pub(crate) fn step(&self, name: &str, what: &str) {
        let seconds = self.since.elapsed().as_secs();
        println!("[{:>2}:{:02}] {name}: {what}", seconds / 60, seconds % 60);
    }

    /// One check passed.
    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    /// One check failed, and why.
    pub(crate) fn fail(&mut self, name: &str, why: &str) {
        println!("FAILED: {name}");
        for line in why.lines() {
            println!("    {line}");
        }
        self.failed.push(name.to_owned());
    }

    /// Adds to what was said about a failure, where there is something to add.
    pub(crate) fn remark(&self, what: &str, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        println!("    {what}:");
        for line in text.lines() {
            println!("        {}", line.trim_end());
        }
    }

    /// Something that could not be checked, and why. It does not count as passed.
    pub(crate) fn skip(&mut self, name: &str, why: &str) {
        println!("SKIPPED: {name}: {why}");
        self.skipped.push(format!("{name}: {why}"));
    }

    /// Counts what a test program reported.
    pub(crate) fn program(&mut self, name: &str, reader: &Reader, end: &End) {
        self.passed += reader.count(Verdict::Passed);
        let mut failed: Vec<String> = reader
            .results
            .iter()
            .filter(|(_, verdict)| *verdict == Verdict::Failed)
            .map(|(test, _)| format!("{name}: {test}"))
            .collect();
        let trouble = match end {
            End::Silent(limit) => {
                Some(format!("{}: silent for {} s, killed", reader.stuck(), limit.as_secs()))
            }
            End::Code(code) => match reader.discrepancy() {
                Some(why) => {
                    let at = reader.running.as_ref().map(|test| format!(" in {test}")).unwrap_or_default();
                    Some(format!("ended with code {code}{at}: {why}"))
                }
                None if *code != 0 && failed.is_empty() => Some(format!("ended with code {code}")),
                None => None,
            },
        };
        failed.extend(trouble.map(|trouble| format!("{name}: {trouble}")));
        if !failed.is_empty() {
            println!("FAILED: {name}, and it said:");
            for line in reader.complaints().lines() {
                println!("    {line}");
            }
        }
        self.failed.append(&mut failed);
    }

    /// Counts what a TAP log reported.
    pub(crate) fn tap(&mut self, name: &str, reader: &tap::Reader) {
        println!("        {name}: {}", reader.summary());
        self.passed += reader.ok;
        for (test, why) in &reader.not_ok {
            self.fail(&format!("{name}: {test}"), why);
        }
        for (reason, count) in &reader.skipped {
            self.skipped.push(format!("{name}: {count} tests: {reason}"));
        }
        if let Some(trouble) = reader.trouble() {
            self.fail(name, &trouble);
        }
    }

    /// How many have been counted so far.
    pub(crate) fn counted(&self) -> (usize, usize) {
        (self.passed, self.failed.len())
    }

    /// Prints what failed and the last line; the exit code.
    pub(crate) fn finish(self) -> i32 {
        let seconds = self.since.elapsed().as_secs();
        println!("\nafter {}:{:02}", seconds / 60, seconds % 60);
        for skipped in &self.skipped {
            println!("not checked: {skipped}");
        }
        for failed in &self.failed {
            println!("failed: {failed}");
        }
        println!("{}", self.last_line());
        self.code()
    }

    fn last_line(&self) -> String {
        format!("{} passed, {} failed", self.passed, self.failed.len())
    }

    fn code(&self) -> i32 {
        i32::from(!self.failed.is_empty() || self.passed == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reader {
        let mut reader = Reader::default();
        reader.feed(text.as_bytes());
        reader
    }

    #[test]
    fn nothing_run_is_not_a_success() {
        let tally = Tally::new();
        assert_eq!((tally.last_line().as_str(), tally.code()), ("0 passed, 0 failed", 1));
    }

    #[test]
    fn tests_count_by_program() {
        let mut tally = Tally::new();
        tally.pass();
        let good = read("test a ... ok\ntest b ... ok\ntest result: ok. 2 passed; 0 failed; 0 ignored\n");
        tally.program("good", &good, &End::Code(0));
        assert_eq!((tally.last_line().as_str(), tally.code()), ("3 passed, 0 failed", 0));
        let bad =
            read("test a ... ok\ntest b ... FAILED\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n");
        tally.program("bad", &bad, &End::Code(101));
        assert_eq!((tally.last_line().as_str(), tally.code()), ("4 passed, 1 failed", 1));
    }

    #[test]
    fn a_crash_and_a_hang_are_failures_that_name_the_test() {
        let mut tally = Tally::new();
        let cut = read("test a ... ok\ntest b ... ");
        tally.program("crash", &cut, &End::Code(139));
        tally.program("hang", &cut, &End::Silent(Duration::from_secs(300)));
        assert_eq!(tally.last_line(), "2 passed, 2 failed");
        assert!(tally.failed[0].contains("139") && tally.failed[0].contains("in b"), "{:?}", tally.failed);
        assert!(tally.failed[1].contains("b: silent for 300 s"), "{:?}", tally.failed);
    }

    #[test]
    fn a_tap_log_counts_by_test_and_fails_when_it_is_cut() {
        let mut tally = Tally::new();
        let mut reader = tap::Reader::default();
        reader.feed(
            b"TAP version 14\nok 1 - a\nok 2 - b # SKIP no b\nnot ok 3 - c\n# why\n1..3\n# done: 1, 1, 1\n",
        );
        tally.tap("whole", &reader);
        assert_eq!((tally.last_line().as_str(), tally.skipped.len()), ("1 passed, 1 failed", 1));
        let mut cut = tap::Reader::default();
        cut.feed(b"TAP version 14\nok 1 - a\n");
        tally.tap("cut", &cut);
        assert_eq!(tally.last_line(), "2 passed, 2 failed");
    }

    #[test]
    fn a_bad_code_after_good_tests_is_a_failure() {
        let mut tally = Tally::new();
        let good = read("test a ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n");
        tally.program("late", &good, &End::Code(1));
        assert_eq!(tally.last_line(), "1 passed, 1 failed");
    }
}
