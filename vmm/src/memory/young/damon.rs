//! DAMON: the kernel samples which parts of an address space are used (Documentation/admin-guide/mm/damon/usage.rst).
//!
//! It watches the guest's regions in this process, and only those. It is the host's, not the process's: there is one
//! set of monitors for all, so it is not to be had while somebody else has some, and it is for root.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use vm_memory::GuestMemoryBackend;

use super::super::piece::Piece;
use super::super::{GuestMemory, Host};
use super::{Answer, Source};

/// Where DAMON is, below sysfs.
const ADMIN: &str = "kernel/mm/damon/admin/kdamonds";
/// Watches given ranges of a process's addresses, and no others.
const OPERATIONS: &str = "fvaddr";
/// Microseconds between two looks, and between two results.
const INTERVALS: [(&str, u64); 3] = [("sample_us", 5_000), ("aggr_us", 100_000), ("update_us", 1_000_000)];

/// Why DAMON is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has none, or this is not root.
    #[error("DAMON is not there, or for root only: can't use {}", path.display())]
    NotThere {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody uses it.
    #[error("somebody else has {monitors} DAMON monitors: {} is theirs", path.display())]
    Taken {
        /// The file.
        path: PathBuf,
        /// What it says.
        monitors: String,
    },
    /// Somebody else has it for himself: DAMON_STAT, most of the time.
    #[error(
        "DAMON is in use by the kernel itself: is it DAMON_STAT? \
         Write N to /sys/module/damon_stat/parameters/enabled"
    )]
    Busy,
    /// It can't watch a process.
    #[error("this kernel's DAMON can't watch a process (CONFIG_DAMON_VADDR): it has {}", found.trim())]
    Operations {
        /// What it has.
        found: String,
    },
}

/// A monitor of one guest's memory.
#[derive(Debug)]
pub struct Damon {
    memory: GuestMemory,
    page: u64,
    /// All monitors' folder.
    all: PathBuf,
}

impl Damon {
    /// Starts to watch.
    ///
    /// # Errors
    ///
    /// [`Error`]; then no monitor is left.
    pub fn new(memory: &GuestMemory) -> Result<Self, Error> {
        let host = Host::live();
        let all = host.sysfs(ADMIN);
        let count = all.join("nr_kdamonds");
        let monitors = read(&count)?;
        if monitors.trim() != "0" {
            return Err(Error::Taken { path: count, monitors: monitors.trim().into() });
        }
        write(&count, 1)?;
        // From here on it is ours, and goes with this value.
        let damon = Self { memory: memory.clone(), page: host.page_size(), all };
        damon.set_up()?;
        Ok(damon)
    }

    fn set_up(&self) -> Result<(), Error> {
        let monitor = self.all.join("0");
        write(&monitor.join("contexts/nr_contexts"), 1)?;
        let context = monitor.join("contexts/0");
        let found = read(&context.join("avail_operations"))?;
        if !found.split_whitespace().any(|operations| operations == OPERATIONS) {
            return Err(Error::Operations { found });
        }
        write(&context.join("operations"), OPERATIONS)?;
        for (file, value) in INTERVALS {
            write(&context.join("monitoring_attrs/intervals").join(file), value)?;
        }
        write(&context.join("targets/nr_targets"), 1)?;
        let target = context.join("targets/0");
        write(&target.join("pid_target"), std::process::id())?;
        write(&target.join("regions/nr_regions"), self.memory.num_regions())?;
        for (index, region) in self.memory.iter().enumerate() {
            let place = target.join("regions").join(index.to_string());
            write(&place.join("start"), region.host())?;
            write(&place.join("end"), region.host() as u64 + region.size())?;
        }
        // Nothing is done to what is found; only what was used at all is.
        write(&context.join("schemes/nr_schemes"), 1)?;
        let scheme = context.join("schemes/0");
        write(&scheme.join("action"), "stat")?;
        let pattern = scheme.join("access_pattern");
        for (file, value) in [
            ("sz/min", 0),
            ("sz/max", u64::MAX),
            ("nr_accesses/min", 1),
            ("nr_accesses/max", u32::MAX.into()),
            ("age/min", 0),
            ("age/max", u32::MAX.into()),
        ] {
            write(&pattern.join(file), value)?;
        }
        match fs::write(monitor.join("state"), "on") {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Err(Error::Busy),
            Err(source) => Err(Error::NotThere { path: monitor.join("state"), source }),
            Ok(()) => Ok(()),
        }
    }

    /// The host addresses that were used at the last look.
    fn used(&self) -> io::Result<Vec<Range<u64>>> {
        let monitor = self.all.join("0");
        // It answers when it has the next result.
        fs::write(monitor.join("state"), "update_schemes_tried_regions")?;
        tried(&monitor.join("contexts/0/schemes/0/tried_regions"))
    }
}

/// The regions below `folder`, in order.
fn tried(folder: &Path) -> io::Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let place = entry?.path();
        if !place.is_dir() {
            continue;
        }
        let number = |file| -> io::Result<u64> {
            fs::read_to_string(place.join(file))?.trim().parse().map_err(io::Error::other)
        };
        found.push(number("start")?..number("end")?);
    }
    found.sort_by_key(|range| range.start);
    Ok(found)
}

impl Source for Damon {
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<Answer> {
        let used = self.used()?;
        for piece in Piece::of(&self.memory, self.page, ranges).map_err(io::Error::other)? {
            let (host, guest) = (piece.host(), piece.guest().start);
            let (start, end) = (host.start as u64, host.end as u64);
            for run in &used {
                let (from, to) = (run.start.clamp(start, end), run.end.clamp(start, end));
                // Of a page that was used in part all was used.
                let (from, to) = (from / self.page * self.page, to.next_multiple_of(self.page));
                if from < to {
                    visit(from - start + guest..to - start + guest);
                }
            }
        }
        Ok(Answer::Partial)
    }
}

impl Drop for Damon {
    fn drop(&mut self) {
        // Not on yet, where setting it up has failed.
        let _ = fs::write(self.all.join("0/state"), "off");
        if let Err(error) = fs::write(self.all.join("nr_kdamonds"), "0") {
            tracing::warn!(%error, "DAMON's monitor of guest memory can't be removed");
        }
    }
}

fn read(path: &Path) -> Result<String, Error> {
    fs::read_to_string(path).map_err(|source| Error::NotThere { path: path.into(), source })
}

fn write(path: &Path, value: impl ToString) -> Result<(), Error> {
    fs::write(path, value.to_string()).map_err(|source| Error::NotThere { path: path.into(), source })
}
