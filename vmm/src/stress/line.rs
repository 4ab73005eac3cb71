//! What the guest says.

/// A line of the built-in guest's, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// How far the storm is.
    Progress(Progress),
    /// The storm is over, and all is well.
    Done(Progress),
    /// A page holds what it should not: the rest of the line.
    Bad {
        /// The step that found it.
        step: Option<u64>,
        /// All that it says.
        text: &'a str,
    },
    /// The guest has given up: why.
    Failed {
        /// The step at which it did.
        step: Option<u64>,
        /// All that it says.
        text: &'a str,
    },
    /// The guest ends as it should.
    Ok,
    /// Something else.
    Other(&'a str),
}

/// The figures of a line of progress. Pages, but for the steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Steps that were done.
    pub steps: u64,
    /// In the balloon at this moment.
    pub held: u64,
    /// Put into the balloon so far.
    pub inflated: u64,
    /// Taken out of it.
    pub deflated: u64,
    /// Reported free.
    pub reported: u64,
    /// Hinted free.
    pub hinted: u64,
    /// Written.
    pub stamped: u64,
    /// Checked.
    pub checked: u64,
    /// Came back cleared.
    pub cleared: u64,
    /// Came back as they were.
    pub kept: u64,
    /// Times that the device was taken.
    pub binds: u64,
    /// Answers that the guest gave for statistics, in times.
    pub answers: u64,
}

impl Progress {
    fn of(text: &str) -> Self {
        let field = |name| field(text, name).unwrap_or(0);
        Self {
            steps: field("step").max(field("steps")),
            held: field("held"),
            inflated: field("inflated"),
            deflated: field("deflated"),
            reported: field("reported"),
            hinted: field("hinted"),
            stamped: field("stamped"),
            checked: field("checked"),
            cleared: field("cleared"),
            kept: field("kept"),
            binds: field("binds"),
            answers: field("answers"),
        }
    }
}

impl<'a> Line<'a> {
    /// Reads a line of the console.
    pub fn parse(line: &'a str) -> Self {
        let line = line.trim_end();
        let Some(text) = line.strip_prefix("stamper: ") else { return Self::Other(line) };
        match text.split_once(' ') {
            Some(("storm", rest)) if rest.starts_with("step=") => Self::Progress(Progress::of(rest)),
            Some(("storm", rest)) if rest.starts_with("done ") => Self::Done(Progress::of(rest)),
            Some(("bad", rest)) => Self::Bad { step: field(rest, "step"), text: rest },
            Some(("FAIL", rest)) => Self::Failed { step: field(rest, "step"), text: rest },
            Some(("done", "ok")) => Self::Ok,
            _ => Self::Other(line),
        }
    }
}

/// The number behind `name=`.
fn field(text: &str, name: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

/// Whether a line of a Linux guest's console says that its kernel is in trouble.
pub fn is_trouble(line: &str) -> bool {
    const SIGNS: [&str; 8] = [
        "Kernel panic",
        "BUG:",
        "Oops",
        "Unable to handle kernel",
        "Bad page state",
        "Internal error:",
        "rcu_preempt detected stalls",
        "WARNING: CPU:",
    ];
    SIGNS.iter().any(|sign| line.contains(sign))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_by_name() {
        let line = "stamper: storm step=64 held=12 inflated=5 deflated=4 reported=3 hinted=2 stamped=7 checked=9 \
                    cleared=1 kept=8 binds=2 answers=6 us=99\r\n";
        let Line::Progress(progress) = Line::parse(line) else { panic!("no progress") };
        let expected = Progress {
            steps: 64,
            held: 12,
            inflated: 5,
            deflated: 4,
            reported: 3,
            hinted: 2,
            stamped: 7,
            checked: 9,
            cleared: 1,
            kept: 8,
            binds: 2,
            answers: 6,
        };
        assert_eq!(progress, expected);
    }

    #[test]
    fn the_beginning_of_a_storm_is_no_progress() {
        let line = "stamper: storm seed=1 steps=200 pages=32000 offered=0x3f";
        assert_eq!(Line::parse(line), Line::Other(line));
    }

    #[test]
    fn the_end_is_told_from_the_failure() {
        let done = Line::parse("stamper: storm done steps=200 bad=0 inflated=1 us=5");
        assert_eq!(done, Line::Done(Progress { steps: 200, inflated: 1, ..Progress::default() }));
        assert_eq!(Line::parse("stamper: done ok\r"), Line::Ok);
        let text = "storm seed=1 step=17 act=read shape=pages bad=2";
        assert_eq!(Line::parse(&format!("stamper: FAIL {text}")), Line::Failed { step: Some(17), text });
        let text = "step=17 act=read shape=pages address=0x40200000 kind=zero";
        assert_eq!(Line::parse(&format!("stamper: bad {text}")), Line::Bad { step: Some(17), text });
        assert_eq!(Line::parse("stamper: FAIL x"), Line::Failed { step: None, text: "x" });
    }

    #[test]
    fn trouble_is_known_when_it_is_seen() {
        assert!(is_trouble("[    1.0] Kernel panic - not syncing: Attempted to kill init!"));
        assert!(is_trouble("BUG: Bad page state in process init"));
        assert!(!is_trouble("Debug: nothing to see"));
    }
}
