//! All VMs of a storm, from start to end.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::drive::{self, Status, drive};
use super::options::{Guest, Options};
use super::report::{Report, VmReport, Vms};
use crate::config::{Backing, Size};
use crate::machine::signals::Signals;
use crate::memory::Host;

/// How often the storm looks around.
const TICK: Duration = Duration::from_millis(100);

/// Why there was no storm.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Signals can't be had.
    #[error("can't take signals: {0}")]
    Signals(io::Error),
    /// The VMs would not fit into the host.
    #[error(
        "a storm uses all of its guests' memory, {} of {}, and this host has {} available: take fewer (--vms) or less for each (--memory)",
        Vms(*vms as usize), Size(*memory), Size(*available)
    )]
    Memory {
        /// How many.
        vms: u32,
        /// Bytes of each.
        memory: u64,
        /// Bytes that the host has without what others use, swap included.
        available: u64,
    },
    /// A VM could not be made.
    #[error(transparent)]
    Drive(#[from] drive::Error),
}

/// Storms to the end, or until a signal or the first failure. `show` is called ten times a second.
///
/// # Errors
/// [`Error`] where a VM could not even be made; the others are stopped.
pub fn storm(options: &Options, mut show: impl FnMut(Duration, &[Status])) -> Result<Report, Error> {
    let start = Instant::now();
    fits(options, Host::live().meminfo().map_or(u64::MAX, |info| info.available))?;
    // Before the first thread: each of them must have them blocked.
    let signals = Signals::block().map_err(Error::Signals)?;
    let stop = AtomicBool::new(false);
    let statuses: Vec<Status> = (0..options.vms).map(|_| Status::default()).collect();
    let vms: Result<Vec<VmReport>, drive::Error> = thread::scope(|scope| {
        let drives: Vec<_> = (0..options.vms)
            .zip(&statuses)
            .map(|(index, status)| {
                let stop = &stop;
                scope.spawn(move || drive(options, index, status, stop))
            })
            .collect();
        while drives.iter().any(|drive| !drive.is_finished()) {
            show(start.elapsed(), &statuses);
            let asked = matches!(signals.take(), Ok(Some(_)));
            let failed = statuses.iter().any(|status| status.failed.load(Ordering::Relaxed));
            // One that is gone without a word could not be made.
            let gone = drives.iter().zip(&statuses);
            let gone =
                gone.filter(|(drive, status)| drive.is_finished() && !status.ended.load(Ordering::Relaxed));
            if asked || failed || gone.count() > 0 {
                stop.store(true, Ordering::Relaxed);
            }
            if stop.load(Ordering::Relaxed) {
                statuses.iter().for_each(Status::stop);
            }
            thread::sleep(TICK);
        }
        let reports = drives.into_iter().map(|drive| match drive.join() {
            Ok(report) => report,
            Err(panic) => std::panic::resume_unwind(panic),
        });
        reports.collect()
    });
    Ok(Report::new(options.seed, start.elapsed(), options.tolerance(), vms?))
}

/// Whether the host has memory for all of them; one that has not would kill the storm in the middle. Pools and file
/// systems are asked for theirs by each VM.
fn fits(options: &Options, available: u64) -> Result<(), Error> {
    let Options { vms, ref memory, ref guest, .. } = *options;
    // Of Linux nobody knows how much it will use.
    let is_used = *guest == Guest::BuiltIn;
    let is_hosts = matches!(memory.backing, Backing::Anon | Backing::Memfd | Backing::Private(_));
    if is_used && is_hosts && memory.size.saturating_mul(vms.into()) > available {
        return Err(Error::Memory { vms, memory: memory.size, available });
    }
    Ok(())
}
