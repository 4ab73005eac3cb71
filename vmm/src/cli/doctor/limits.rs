//! Resource limits.

use rustix::process::{Resource, getrlimit};

use super::Probe;
use crate::config::Size;

const SECTION: &str = "limits";
/// Descriptors that a large machine takes: one per vCPU and two per queue, with room.
const ENOUGH_FILES: u64 = 1024;

/// Asks for the limits on open files and on locked memory.
pub(super) fn probes() -> Vec<Probe> {
    let files = getrlimit(Resource::Nofile);
    vec![open_files(files.current, files.maximum), locked(getrlimit(Resource::Memlock).current)]
}

/// `None` is no limit.
fn open_files(soft: Option<u64>, hard: Option<u64>) -> Probe {
    let probe = Probe::ok(SECTION, "open files", text(soft, |number| number.to_string()));
    if soft.is_none_or(|soft| soft >= ENOUGH_FILES) {
        return probe;
    }
    let raise = if hard.is_none_or(|hard| hard >= ENOUGH_FILES) { "" } else { " (as root)" };
    probe.warn(format!("many vCPUs and disks need more: ulimit -n {ENOUGH_FILES}{raise}"))
}

/// Guest memory is never locked, so there is nothing to warn of.
fn locked(soft: Option<u64>) -> Probe {
    Probe::ok(SECTION, "locked memory", text(soft, |bytes| Size(bytes).to_string()) + " (not needed)")
}

fn text(limit: Option<u64>, write: impl FnOnce(u64) -> String) -> String {
    limit.map_or_else(|| "unlimited".into(), write)
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn few_open_files_warn_and_say_who_can_raise_it() {
        assert_eq!(open_files(Some(1024), Some(1024)).verdict, Verdict::Ok);
        assert_eq!(open_files(None, None).found, "unlimited");
        assert_eq!(
            open_files(Some(256), None).advice.unwrap(),
            "many vCPUs and disks need more: ulimit -n 1024"
        );
        assert!(open_files(Some(256), Some(512)).advice.unwrap().ends_with("(as root)"));
    }

    #[test]
    fn locked_memory_is_told_in_units() {
        assert_eq!(locked(Some(8 << 20)).found, "8M (not needed)");
        assert_eq!(locked(None).found, "unlimited (not needed)");
    }
}
