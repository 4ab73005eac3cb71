//! One question to the host and its answer, and all of them together.

use serde::Serialize;

/// How good an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// There, and as it should be.
    Ok,
    /// There, but short, slow or switched off.
    Warn,
    /// Not there.
    Missing,
}

impl Verdict {
    /// Its word.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Missing => "missing",
        }
    }
}

/// One question to the host and its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Probe {
    /// What part of the host it is about.
    pub section: &'static str,
    /// What was asked for.
    pub name: String,
    /// How good the answer is.
    pub verdict: Verdict,
    /// Whether no guest runs without it.
    pub needed: bool,
    /// What was found.
    pub found: String,
    /// What to do about it, or what is lost without it; present unless the verdict is ok.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Probe {
    /// It is there, and as it should be.
    pub(super) fn ok(section: &'static str, name: impl Into<String>, found: impl Into<String>) -> Self {
        let (name, found) = (name.into(), found.into());
        Self { section, name, verdict: Verdict::Ok, needed: false, found, advice: None }
    }

    /// It is there, but short, slow or switched off.
    pub(super) fn warn(mut self, advice: impl Into<String>) -> Self {
        (self.verdict, self.advice) = (Verdict::Warn, Some(advice.into()));
        self
    }

    /// It is not there.
    pub(super) fn missing(mut self, advice: impl Into<String>) -> Self {
        (self.verdict, self.advice) = (Verdict::Missing, Some(advice.into()));
        self
    }

    /// No guest runs without it.
    pub(super) fn needed(mut self) -> Self {
        self.needed = true;
        self
    }
}

/// Everything that was asked, and what follows from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The version of `quire`.
    pub version: &'static str,
    /// The architecture that it is built for.
    pub architecture: &'static str,
    /// Whether a guest can run here.
    runs: bool,
    /// The answers.
    pub probes: Vec<Probe>,
}

impl Report {
    pub(super) fn new(probes: Vec<Probe>) -> Self {
        let runs = !probes.iter().any(|probe| probe.needed && probe.verdict == Verdict::Missing);
        let (version, architecture) = (env!("CARGO_PKG_VERSION"), std::env::consts::ARCH);
        Self { version, architecture, runs, probes }
    }

    /// Whether a guest can run here: nothing that is needed is missing.
    #[must_use]
    pub const fn runs(&self) -> bool {
        self.runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe() -> Probe {
        Probe::ok("kvm", "dirty ring", "up to 65536 entries")
    }

    #[test]
    fn only_what_is_needed_and_missing_keeps_a_guest_from_running() {
        assert!(Report::new(vec![probe(), probe().needed()]).runs());
        assert!(Report::new(vec![probe().missing("advice")]).runs());
        assert!(Report::new(vec![probe().needed().warn("advice")]).runs());
        assert!(!Report::new(vec![probe(), probe().needed().missing("advice")]).runs());
    }

    #[test]
    fn json_says_what_the_table_says() {
        let report = Report::new(vec![probe(), probe().needed().missing("load it")]);
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["runs"], false);
        assert_eq!(
            json["probes"][0],
            serde_json::json!({
                "section": "kvm", "name": "dirty ring", "verdict": "ok", "needed": false,
                "found": "up to 65536 entries"
            })
        );
        assert_eq!(json["probes"][1]["verdict"], "missing");
        assert_eq!(json["probes"][1]["advice"], "load it");
    }
}
