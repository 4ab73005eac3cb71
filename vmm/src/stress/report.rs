//! What a storm ends with.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::line::Progress;
use crate::memory::ledger::Summary;
use crate::memory::release::Counters;

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every guest ended well, and everything that was checked was so.
    Passed,
    /// Something was not as it has to be.
    Failed,
    /// Somebody stopped it; nothing was wrong until then.
    Interrupted,
}

/// The whole storm.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// How it went.
    pub verdict: Verdict,
    /// What everything followed from.
    pub seed: u64,
    /// How long it took.
    pub seconds: f64,
    /// How far the ledger and the host may be apart, in bytes for each VM.
    pub tolerance: u64,
    /// Each VM.
    pub vms: Vec<VmReport>,
}

/// One VM of the storm.
#[derive(Clone, Debug, Default, Serialize)]
pub struct VmReport {
    /// Its seed: that of the storm plus its index.
    pub seed: u64,
    /// What its guest did.
    pub progress: Progress,
    /// What the host did to it, in actions.
    pub actions: u64,
    /// Times that its ledger was held against the host.
    pub checks: u64,
    /// The most that they were apart, in bytes.
    pub apart: u64,
    /// Canaries that were watched.
    pub canaries: usize,
    /// What its release did; absent where it never came so far.
    pub release: Option<Counters>,
    /// Its memory at the last check.
    pub ledger: Option<Summary>,
    /// What was not as it has to be.
    pub failures: Vec<Failure>,
    /// What a person types to see it fail again; absent where it did not.
    pub again: Option<String>,
    /// It was stopped before its end.
    pub interrupted: bool,
}

/// Something that was not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// The step at which it was seen; absent where the guest takes no steps.
    pub step: Option<u64>,
    /// What it is.
    pub what: String,
}

impl Report {
    /// The report of these VMs.
    pub fn new(seed: u64, took: Duration, tolerance: u64, vms: Vec<VmReport>) -> Self {
        let verdict = if vms.iter().any(|vm| !vm.failures.is_empty()) || vms.is_empty() {
            Verdict::Failed
        } else if vms.iter().any(|vm| vm.interrupted) {
            Verdict::Interrupted
        } else {
            Verdict::Passed
        };
        Self { verdict, seed, seconds: took.as_secs_f64(), tolerance, vms }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, vm) in self.vms.iter().enumerate() {
            let Progress {
                steps, inflated, deflated, reported, hinted, checked, cleared, kept, binds, ..
            } = vm.progress;
            writeln!(
                f,
                "vm{index}: {steps} steps, {} host actions, device taken {binds} times\n  \
                 pages: {inflated} inflated, {deflated} deflated, {reported} reported, {hinted} hinted, {checked} checked; \
                 {cleared} came back cleared, {kept} as they were\n  \
                 ledger against host: {} checks, {} KiB apart at most ({} KiB allowed), {} canaries",
                vm.actions,
                vm.checks,
                vm.apart >> 10,
                self.tolerance >> 10,
                vm.canaries,
            )?;
            if let Some(release) = &vm.release {
                writeln!(
                    f,
                    "  release: {} MiB in {} calls, {} whole blocks, {} parts",
                    release.discarded >> 20,
                    release.discard_calls,
                    release.whole_blocks,
                    release.partial_blocks,
                )?;
            }
            for failure in &vm.failures {
                write!(f, "  FAILED ")?;
                if let Some(step) = failure.step {
                    write!(f, "at step {step} ")?;
                }
                writeln!(f, "(seed {}): {}", vm.seed, failure.what)?;
            }
            if let Some(again) = &vm.again {
                writeln!(f, "  again: {again}")?;
            }
        }
        let verdict = match self.verdict {
            Verdict::Passed => "passed",
            Verdict::Failed => "FAILED",
            Verdict::Interrupted => "interrupted",
        };
        write!(f, "{verdict}: seed {}, {}, {:.1} s", self.seed, Vms(self.vms.len()), self.seconds)
    }
}

/// How many VMs, for people.
#[derive(Clone, Copy, Debug)]
pub struct Vms(pub usize);

impl fmt::Display for Vms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            1 => f.write_str("1 VM"),
            count => write!(f, "{count} VMs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(vms: Vec<VmReport>) -> Report {
        Report::new(7, Duration::from_secs(2), 4 << 20, vms)
    }

    fn failed() -> VmReport {
        let failure = Failure { step: Some(17), what: "address=0x40200000 kind=zero".to_owned() };
        let again = Some("quire stress balloon --seed 8 --steps 17".to_owned());
        VmReport { seed: 8, failures: vec![failure], again, interrupted: true, ..VmReport::default() }
    }

    #[test]
    fn one_failure_is_the_verdict() {
        let interrupted = VmReport { interrupted: true, ..VmReport::default() };
        assert_eq!(report(vec![VmReport::default()]).verdict, Verdict::Passed);
        assert_eq!(report(vec![VmReport::default(), interrupted]).verdict, Verdict::Interrupted);
        assert_eq!(report(vec![VmReport::default(), failed()]).verdict, Verdict::Failed);
        assert_eq!(report(vec![]).verdict, Verdict::Failed, "nothing ran");
    }

    #[test]
    fn a_failure_names_seed_and_step() {
        let text = report(vec![failed()]).to_string();
        assert!(text.contains("FAILED at step 17 (seed 8): address=0x40200000 kind=zero\n"), "{text}");
        assert!(text.contains("  again: quire stress balloon --seed 8 --steps 17\n"), "{text}");
        assert!(text.ends_with("FAILED: seed 7, 1 VM, 2.0 s"), "{text}");
    }

    #[test]
    fn json_has_what_the_text_has() {
        let json = serde_json::to_value(report(vec![failed()])).unwrap();
        assert_eq!(json["verdict"], "failed");
        assert_eq!(json["seed"], 7);
        assert_eq!(json["vms"][0]["failures"][0]["step"], 17);
        assert_eq!(json["vms"][0]["progress"]["checked"], 0);
        assert!(json["vms"][0]["release"].is_null());
    }
}
