//! Reads TAP, as the monitor speaks it: the plan at the end, and a last line.

use std::collections::BTreeMap;

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    partial: String,
    /// Tests that passed.
    pub(crate) ok: usize,
    /// Tests that failed: name, and what followed as comments.
    pub(crate) not_ok: Vec<(String, String)>,
    /// Reasons for which tests were skipped, and how many.
    pub(crate) skipped: BTreeMap<String, usize>,
    plan: Option<usize>,
    bail: Option<String>,
    /// Lines that are no TAP.
    odd: Vec<String>,
    /// Whether the last test line was a failure: then comments belong to it.
    in_failure: bool,
    ended: bool,
}

impl Reader {
    /// Takes a piece of output; the lines that it has completed.
    pub(crate) fn feed(&mut self, piece: &[u8]) -> Vec<String> {
        self.partial.push_str(&String::from_utf8_lossy(piece));
        let mut lines = Vec::new();
        while let Some(end) = self.partial.find('\n') {
            let line: String = self.partial.drain(..=end).collect();
            let line = line.trim_end().to_owned();
            self.line(&line);
            lines.push(line);
        }
        lines
    }

    fn line(&mut self, line: &str) {
        let test = |prefix: &str| {
            let rest = line.strip_prefix(prefix)?;
            let (number, name) = rest.split_once(" - ")?;
            number.parse::<usize>().ok().map(|number| (number, name))
        };
        if let Some((number, name)) = test("not ok ") {
            self.numbered(number);
            self.not_ok.push((name.to_owned(), String::new()));
            self.in_failure = true;
        } else if let Some((number, name)) = test("ok ") {
            self.numbered(number);
            match name.split_once(" # SKIP ") {
                Some((_, reason)) => *self.skipped.entry(reason.to_owned()).or_default() += 1,
                None => self.ok += 1,
            }
            self.in_failure = false;
        } else if let Some(reason) = line.strip_prefix("Bail out!") {
            self.bail = Some(reason.trim().to_owned());
        } else if let Some(plan) = line.strip_prefix("1..").and_then(|plan| plan.parse().ok()) {
            self.plan = Some(plan);
        } else if let Some(comment) = line.strip_prefix('#') {
            self.ended |= comment.starts_with(" done: ") && self.plan.is_some();
            if let (true, None, Some((_, why))) = (self.in_failure, self.plan, self.not_ok.last_mut()) {
                why.push_str(comment.trim_start());
            }
        } else if !line.is_empty() && line != "TAP version 14" {
            self.odd.push(line.to_owned());
        }
    }

    fn numbered(&mut self, number: usize) {
        let expected = self.count() + 1;
        if number != expected {
            self.odd.push(format!("test {number} where {expected} was due"));
        }
    }

    /// Tests, however they ended.
    fn count(&self) -> usize {
        self.ok + self.not_ok.len() + self.skipped.values().sum::<usize>()
    }

    /// What is wrong with the log as a whole, if anything: it was cut, it does not add up, or the run was given up.
    pub(crate) fn trouble(&self) -> Option<String> {
        if let Some(reason) = &self.bail {
            return Some(format!("it gave up after {} tests: {reason}", self.count()));
        }
        match self.plan {
            None => Some(format!("it was cut after {} tests{}", self.count(), self.odd_lines())),
            Some(plan) if plan != self.count() => Some(format!("{} tests, {plan} planned", self.count())),
            Some(_) if !self.ended => Some("its last line is missing".to_owned()),
            Some(0) => Some("it tested nothing".to_owned()),
            Some(_) if !self.odd.is_empty() => Some(format!("it said what is no TAP{}", self.odd_lines())),
            Some(_) => None,
        }
    }

    fn odd_lines(&self) -> String {
        self.odd.iter().map(|line| format!("\n| {line}")).collect()
    }

    /// One line for a person.
    pub(crate) fn summary(&self) -> String {
        let skipped: usize = self.skipped.values().sum();
        format!("{} ok, {} not ok, {skipped} skipped", self.ok, self.not_ok.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Reader {
        let mut reader = Reader::default();
        // In pieces that end anywhere.
        text.as_bytes().chunks(7).for_each(|piece| drop(reader.feed(piece)));
        reader
    }

    const WHOLE: &str = "TAP version 14\r\n# cpu\r\nok 1 - a\r\nnot ok 2 - b\r\n# because\r\nok 3 - c # SKIP no d\r\n1..3\r\n# done: 1 ok, 1 not ok, 1 skipped\r\n";

    #[test]
    fn a_whole_log_counts() {
        let reader = read(WHOLE);
        assert_eq!(reader.trouble(), None);
        assert_eq!((reader.ok, reader.not_ok), (1, vec![("b".into(), "because".into())]));
        assert_eq!(reader.skipped, [("no d".to_owned(), 1)].into());
    }

    #[test]
    fn a_cut_log_is_trouble_wherever_it_was_cut() {
        let lines: Vec<&str> = WHOLE.split_inclusive('\n').collect();
        for end in 0..lines.len() {
            assert!(read(&lines[..end].concat()).trouble().is_some(), "cut after {end} lines");
        }
    }

    #[test]
    fn a_log_that_does_not_add_up_is_trouble() {
        assert!(read(&WHOLE.replace("1..3", "1..4")).trouble().is_some());
        assert!(read(&WHOLE.replace("ok 3", "ok 4")).trouble().is_some());
        assert!(read(&WHOLE.replace("# cpu", "cpu")).trouble().is_some());
        assert!(read("TAP version 14\n1..0\n# done: 0 ok, 0 not ok, 0 skipped\n").trouble().is_some());
        let gone = read("TAP version 14\nok 1 - a\nBail out! exception\n");
        assert_eq!(gone.trouble().as_deref(), Some("it gave up after 1 tests: exception"));
    }
}
