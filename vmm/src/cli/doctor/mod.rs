//! `quire doctor`: what this host offers, and what to do about what it does not.
//!
//! Principles: a probe does what `quire` would do, on a scratch VM or a page of its own, and does not
//! trust a version number; every answer is a [`Probe`], a plain value, so that the table and the JSON say the same;
//! nothing on the host is changed.
//!
//! | module | noun |
//! |---|---|
//! | `probe` | [`Probe`], [`Verdict`], [`Report`] |
//! | `table` | the report for people |
//! | `files` | sysfs and procfs, wherever they are |
//! | `host` | the machine and its kernel |
//! | `kvm` | what KVM offers |
//! | `pages` | huge pages: hugetlb pools, transparent huge pages |
//! | `reclaim` | system calls that give memory back and tell what is in it |
//! | `limits` | resource limits |
//! | `probe_sys` | what no crate wraps |

use std::io;
use std::process::ExitCode;

use clap::Args;

use super::failure::Failure;
use super::log::colour;
use super::print::print;

mod files;
mod host;
mod kvm;
mod limits;
mod pages;
mod probe;
mod probe_sys;
mod reclaim;
mod table;

pub use probe::{Probe, Report, Verdict};

use files::Files;

/// The options of `quire doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Print JSON: one object with the verdict, and a list of the probes.
    #[arg(long)]
    json: bool,
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Standard output takes nothing.
    #[error("can't write the report: {0}")]
    Write(#[from] io::Error),
}

impl Failure for Error {
    fn exit_code(&self) -> u8 {
        1
    }
}

impl DoctorArgs {
    /// Probes the host and prints the report. The exit code says whether a guest can run here.
    ///
    /// # Errors
    /// Those of writing to standard output; a reader that has seen enough is none.
    pub fn run(&self) -> Result<ExitCode, Error> {
        let report = examine();
        let text = if self.json {
            serde_json::to_string_pretty(&report).map_err(io::Error::from)? + "\n"
        } else {
            table::render(&report, colour(&io::stdout()))
        };
        print(&text)?;
        Ok(if report.runs() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Asks this host everything.
fn examine() -> Report {
    let files = Files::live();
    let mut probes = host::probes(&files);
    probes.extend(kvm::probes());
    probes.extend(pages::probes(&crate::memory::Host::live()));
    probes.extend(reclaim::probes());
    probes.extend(limits::probes());
    Report::new(probes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_probe_of_this_host_has_an_answer_and_what_is_wrong_has_advice() {
        let report = examine();
        for probe in &report.probes {
            assert!(!probe.found.is_empty(), "{probe:?}");
            assert_eq!(probe.verdict == Verdict::Ok, probe.advice.is_none(), "{probe:?}");
        }
        let sections: Vec<_> = report.probes.iter().map(|probe| probe.section).collect();
        for section in ["host", "kvm", "pages", "reclaim", "limits"] {
            assert!(sections.contains(&section), "{section}");
        }
    }

    #[test]
    fn no_guest_runs_on_another_architecture() {
        assert!(cfg!(target_arch = "aarch64") || !examine().runs());
    }
}
