//! One look at a VM from outside: the ledger held against the host.

use std::io;

use super::canary::Canaries;
use super::measure;
use crate::memory::ledger::{self, Ledger, Summary};

/// Why nothing could be said.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The ledger could not be asked.
    #[error("the ledger can't be checked: {0}")]
    Ledger(#[from] ledger::Error),
    /// The host could not be asked.
    #[error("what the host holds can't be measured: {0}")]
    Measure(#[from] io::Error),
}

/// What was seen.
#[derive(Clone, Debug)]
pub struct Audit {
    /// How far ledger and host are apart, in bytes.
    pub apart: u64,
    /// The ledger.
    pub summary: Summary,
    /// What was not as it has to be.
    pub findings: Vec<String>,
}

/// Looks at a VM that stands still. Nothing is released or brought back meanwhile: the ledger is open.
///
/// # Errors
/// [`Error`].
pub fn audit(ledger: &Ledger, canaries: &[Canaries], tolerance: u64) -> Result<Audit, Error> {
    let mut findings = Vec::new();
    let mut books = ledger.open();
    // As it is first: to refresh it would heal what it has wrong.
    for (when, is_fresh) in [("as it stood", false), ("refreshed", true)] {
        if is_fresh {
            let ram: Vec<_> = books.ram().collect();
            books.refresh(&ram)?;
        }
        let check = books.check()?;
        for lost in &check.lost {
            findings.push(format!(
                "the ledger {when} has {:#x}+{:#x} populated, and the host holds nothing there",
                lost.start,
                lost.end - lost.start
            ));
        }
        for broken in &check.broken {
            findings.push(format!(
                "the ledger {when} has {:#x}+{:#x} released, and it is not zero",
                broken.start,
                broken.end - broken.start
            ));
        }
    }
    let check = books.check()?;
    let known = check.populated + check.read + check.filled;
    let held = measure::held(&books.host())?.unwrap_or(known);
    let apart = held.abs_diff(known);
    if apart > tolerance {
        findings.push(format!(
            "the host holds {held} bytes, and the ledger knows of {known}: {apart} apart, {tolerance} allowed"
        ));
    }
    let summary = books.summary()?;
    drop(books);
    let harms = canaries.iter().filter_map(|canaries| canaries.check().err());
    findings.extend(harms.map(|harm| harm.to_string()));
    Ok(Audit { apart, summary, findings })
}
