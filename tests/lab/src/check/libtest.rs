//! What a Rust test program prints, read while it runs.

/// How one test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It held.
    Passed,
    /// It did not.
    Failed,
    /// It was not run.
    Ignored,
}

/// Reads the output of one or, with doc tests, several test programs, in whatever pieces it comes.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    line: Vec<u8>,
    /// Everything that was printed, for people.
    pub(crate) text: String,
    /// The tests that ended, in the order in which they did.
    pub(crate) results: Vec<(String, Verdict)>,
    /// A test whose line has begun: it runs now, if tests run one by one.
    pub(crate) running: Option<String>,
    /// Tests that the program itself calls slow, and that have not ended.
    pub(crate) slow: Vec<String>,
    /// What the summary lines add up to; `None` where there was none.
    summary: Option<Counts>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    passed: usize,
    failed: usize,
    ignored: usize,
}

impl Reader {
    /// Takes the next piece, and returns the tests that ended in it.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Vec<(String, Verdict)> {
        let before = self.results.len();
        for byte in bytes {
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                let line = String::from_utf8_lossy(&line).into_owned();
                self.take_line(&line);
                self.text.push_str(&line);
                self.text.push('\n');
            } else {
                self.line.push(*byte);
                // With one test at a time the name comes first, the verdict later.
                if *byte == b' ' && self.running.is_none() {
                    self.running = String::from_utf8_lossy(&self.line)
                        .strip_prefix("test ")
                        .and_then(|rest| rest.strip_suffix(" ... "))
                        .map(str::to_owned);
                }
            }
        }
        self.results[before..].to_vec()
    }

    /// Takes what the program wrote to its standard error: for people only.
    pub(crate) fn feed_error(&mut self, bytes: &[u8]) {
        self.text.push_str(&String::from_utf8_lossy(bytes));
    }

    fn take_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(rest) = line.strip_prefix("test result: ") {
            let counts = self.summary.get_or_insert_default();
            counts.passed += number_before(rest, " passed");
            counts.failed += number_before(rest, " failed");
            counts.ignored += number_before(rest, " ignored");
            self.running = None;
            return;
        }
        let begun = line.strip_prefix("test ");
        if let Some(name) = begun.and_then(|rest| rest.split_once(" has been running for over")) {
            self.slow.push(name.0.to_owned());
            return;
        }
        // What a test lets its children print stands between its name and its verdict.
        let (name, verdict) = match begun.and_then(|rest| rest.split_once(" ... ")) {
            Some((name, rest)) => (Some(name.to_owned()), verdict_at_end(rest)),
            None if self.running.is_some() => (None, verdict_at_end(line)),
            None => return,
        };
        let Some(verdict) = verdict else { return };
        let Some(name) = name.or_else(|| self.running.clone()) else { return };
        self.running = None;
        self.slow.retain(|slow| *slow != name);
        self.results.push((name, verdict));
    }

    /// How many tests ended so.
    pub(crate) fn count(&self, verdict: Verdict) -> usize {
        self.results.iter().filter(|(_, have)| *have == verdict).count()
    }

    /// What is wrong with the report itself, after the program has ended.
    pub(crate) fn discrepancy(&self) -> Option<String> {
        let seen = Counts {
            passed: self.count(Verdict::Passed),
            failed: self.count(Verdict::Failed),
            ignored: self.count(Verdict::Ignored),
        };
        match self.summary {
            None => Some("it ended without a summary".to_owned()),
            Some(counts) if counts != seen => {
                Some(format!("its summary ({counts:?}) is not what its lines say ({seen:?})"))
            }
            Some(_) => None,
        }
    }

    /// The tests that were under way when the program stopped answering.
    pub(crate) fn stuck(&self) -> String {
        let mut names: Vec<&str> = self.slow.iter().map(String::as_str).collect();
        if let Some(running) = &self.running
            && !names.contains(&running.as_str())
        {
            names.push(running);
        }
        if names.is_empty() { "an unknown test".to_owned() } else { names.join(", ") }
    }

    /// What it said about its failures: everything but the lines of tests that passed.
    pub(crate) fn complaints(&self) -> String {
        let rest = String::from_utf8_lossy(&self.line);
        let keep = |line: &&str| !(line.starts_with("test ") && line.ends_with(" ... ok"));
        let mut text: String = self.text.lines().filter(keep).map(|line| format!("{line}\n")).collect();
        text.push_str(&rest);
        text
    }
}

fn verdict_at_end(text: &str) -> Option<Verdict> {
    if text.starts_with("ignored") {
        Some(Verdict::Ignored)
    } else if text.ends_with("ok") {
        Some(Verdict::Passed)
    } else if text.ends_with("FAILED") || text.contains("FAILED (") {
        Some(Verdict::Failed)
    } else {
        None
    }
}

fn number_before(text: &str, word: &str) -> usize {
    let before = text.split(word).next().unwrap_or_default();
    before.rsplit(|c: char| !c.is_ascii_digit()).next().and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "\nrunning 3 tests\ntest a::b ... ok\ntest a::c ... FAILED\ntest d ... ignored, too big\n\n\
        failures:\n\n---- a::c stdout ----\nleft: 1\n\n\nfailures:\n    a::c\n\n\
        test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\n";

    #[test]
    fn every_test_counts_once_in_whatever_pieces_it_comes() {
        for size in [1, 3, 7, 1000] {
            let mut reader = Reader::default();
            for piece in PLAIN.as_bytes().chunks(size) {
                reader.feed(piece);
            }
            assert_eq!(
                reader.results,
                [
                    ("a::b".to_owned(), Verdict::Passed),
                    ("a::c".to_owned(), Verdict::Failed),
                    ("d".to_owned(), Verdict::Ignored)
                ]
            );
            assert_eq!(reader.discrepancy(), None);
            assert!(reader.complaints().contains("left: 1"));
            assert!(!reader.complaints().contains("a::b"));
        }
    }

    #[test]
    fn output_between_name_and_verdict_is_not_a_verdict() {
        let mut reader = Reader::default();
        assert_eq!(reader.feed(b"test boots ... [guest] line one\nstill going\n"), []);
        assert_eq!(reader.running.as_deref(), Some("boots"));
        assert_eq!(reader.feed(b"ok\n"), [("boots".to_owned(), Verdict::Passed)]);
        assert_eq!(reader.running, None);
    }

    #[test]
    fn a_test_that_hangs_is_named() {
        let mut reader = Reader::default();
        reader.feed(b"running 2 tests\ntest waits has been running for over 60 seconds\n");
        assert_eq!(reader.stuck(), "waits");
        let mut reader = Reader::default();
        reader.feed(b"running 2 tests\ntest first ... ok\ntest second ... ");
        assert_eq!(reader.stuck(), "second");
    }

    #[test]
    fn a_crash_does_not_look_like_an_end() {
        let mut reader = Reader::default();
        reader.feed(b"running 2 tests\ntest first ... ok\n");
        assert!(reader.discrepancy().is_some());
        let mut reader = Reader::default();
        reader.feed(b"test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out\n");
        assert!(reader.discrepancy().unwrap().contains("passed: 2"));
    }

    #[test]
    fn several_summaries_add_up() {
        let mut reader = Reader::default();
        for name in ["x", "y"] {
            let text = format!(
                "test src/{name}.rs - {name} (line 3) ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n"
            );
            reader.feed(text.as_bytes());
        }
        assert_eq!(reader.count(Verdict::Passed), 2);
        assert_eq!(reader.discrepancy(), None);
    }
}
