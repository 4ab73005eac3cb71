//! System calls that give memory back and tell what is in it, each tried on a page of our own.

use std::io;

use super::Probe;
use super::probe_sys;
use crate::memory::young::faults::{self, Offered};
use crate::memory::{discard, presence};

const SECTION: &str = "reclaim";

/// Tries each of them.
pub(super) fn probes() -> Vec<Probe> {
    vec![
        madvise(discard::kernel_is_vectored()),
        scan(presence::kernel_scans()),
        userfaultfd(faults::offered()),
        flags(probe_sys::page_flags()),
    ]
}

/// `Ok(false)`: the call succeeded and did something else.
fn madvise(outcome: io::Result<bool>) -> Probe {
    const NAME: &str = "process_madvise on self";
    let advice =
        "every range is released by a call of its own; many at once need Linux 6.13, and 6.15 for speed";
    match outcome {
        Ok(true) => Probe::ok(SECTION, NAME, "DONTNEED discards"),
        Ok(false) => Probe::ok(SECTION, NAME, "DONTNEED has no effect").missing(advice),
        Err(error) => Probe::ok(SECTION, NAME, refusal(&error)).missing(advice),
    }
}

fn scan(outcome: io::Result<bool>) -> Probe {
    const NAME: &str = "PAGEMAP_SCAN";
    let advice =
        "what is populated is read from /proc/self/pagemap, entry by entry; the scan needs Linux 6.7";
    match outcome {
        Ok(true) => Probe::ok(SECTION, NAME, "finds what is present"),
        Ok(false) => Probe::ok(SECTION, NAME, "does not find what is present").missing(advice),
        Err(error) => Probe::ok(SECTION, NAME, refusal(&error)).missing(advice),
    }
}

fn userfaultfd(outcome: io::Result<Offered>) -> Probe {
    const NAME: &str = "userfaultfd";
    match outcome {
        Ok(Offered { write_protect: true }) => Probe::ok(SECTION, NAME, "with write protection"),
        Ok(Offered { write_protect: false }) => {
            Probe::ok(SECTION, NAME, "without write protection").warn("Linux has it on arm64 since 6.10")
        }
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Probe::ok(SECTION, NAME, refusal(&error))
            .missing("memory can't be loaded lazily: run as root, or sysctl vm.unprivileged_userfaultfd=1"),
        Err(error) => Probe::ok(SECTION, NAME, refusal(&error))
            .missing("memory can't be loaded lazily: use a kernel with CONFIG_USERFAULTFD"),
    }
}

fn flags(outcome: io::Result<()>) -> Probe {
    const NAME: &str = "/proc/kpageflags";
    match outcome {
        Ok(()) => Probe::ok(SECTION, NAME, "readable"),
        Err(error) => Probe::ok(SECTION, NAME, refusal(&error))
            .warn("reports can't tell huge pages from small ones: run as root"),
    }
}

/// The error without its number.
fn refusal(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn a_call_that_does_nothing_is_missing_like_one_that_fails() {
        for probe in [madvise, scan] {
            assert_eq!(probe(Ok(true)).verdict, Verdict::Ok);
            assert_eq!(probe(Ok(false)).verdict, Verdict::Missing);
            assert_eq!(probe(Err(error(libc::EINVAL))).found, "invalid argument");
        }
    }

    #[test]
    fn userfaultfd_without_permission_says_how_to_get_it() {
        let probe = userfaultfd(Err(error(libc::EPERM)));
        assert!(probe.advice.unwrap().contains("vm.unprivileged_userfaultfd=1"));
        let probe = userfaultfd(Err(error(libc::ENOSYS)));
        assert!(probe.advice.unwrap().contains("CONFIG_USERFAULTFD"));
    }

    #[test]
    fn this_kernel_gives_the_same_answers_twice() {
        assert_eq!(probes(), probes());
    }
}
