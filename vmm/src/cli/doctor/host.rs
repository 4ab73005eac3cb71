//! The machine and its kernel.

use super::{Files, Probe};
use crate::config::{MemoryConfig, Size};

const SECTION: &str = "host";
/// The oldest kernel that the e2e tests run on.
const OLDEST_TESTED: (u32, u32) = (6, 12);

/// Asks for architecture, kernel, page size and memory.
pub(super) fn probes(files: &Files) -> Vec<Probe> {
    vec![
        architecture(std::env::consts::ARCH),
        kernel(files),
        page_size(rustix::param::page_size() as u64),
        memory(files),
        Probe::ok(SECTION, "IOMMU", "not needed: no host device is passed through"),
    ]
}

fn architecture(name: &'static str) -> Probe {
    let probe = Probe::ok(SECTION, "architecture", name).needed();
    match name {
        "aarch64" => probe,
        _ => probe.missing("a guest needs an arm64 KVM host: `cargo lab run` sets one up on any machine"),
    }
}

fn kernel(files: &Files) -> Probe {
    let Some(release) = files.read("/proc/sys/kernel/osrelease") else {
        return Probe::ok(SECTION, "kernel", "unknown").warn("mount /proc");
    };
    let probe = Probe::ok(SECTION, "kernel", &release);
    match version(&release) {
        Some(version) if version >= OLDEST_TESTED => probe,
        _ => probe.warn("6.12 is the oldest that is tested; releasing memory is fastest from 6.15 on"),
    }
}

/// Major and minor version of a kernel release such as `6.12.107+deb13-arm64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|char: char| !char.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn page_size(bytes: u64) -> Probe {
    let group = match bytes {
        4096 => "a contiguous group is 64K, a block 2M or 1G",
        16384 => "a contiguous group is 2M, a block 32M",
        65536 => "a contiguous group is 2M, a block 512M",
        _ => "unusual",
    };
    Probe::ok(SECTION, "page size", format!("{}: {group}", Size(bytes)))
}

fn memory(files: &Files) -> Probe {
    let field = |name: &str| {
        let text = files.read("/proc/meminfo")?;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?.trim();
        value.strip_suffix(" kB")?.parse::<u64>().ok()?.checked_mul(1024)
    };
    let (Some(total), Some(available)) = (field("MemTotal"), field("MemAvailable")) else {
        return Probe::ok(SECTION, "memory", "unknown").warn("mount /proc");
    };
    let mib = |bytes: u64| bytes >> 20;
    let probe =
        Probe::ok(SECTION, "memory", format!("{} MiB available of {} MiB", mib(available), mib(total)));
    let default = MemoryConfig::default().size;
    if available >= default {
        return probe;
    }
    probe.warn(format!("a guest has {} unless --memory says less: free some, or say less", Size(default)))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::files::made_up;
    use super::*;

    #[test]
    fn another_architecture_is_needed_and_missing() {
        assert_eq!(architecture("aarch64").verdict, Verdict::Ok);
        let other = architecture("x86_64");
        assert_eq!((other.verdict, other.needed), (Verdict::Missing, true));
        assert!(other.advice.unwrap().contains("cargo lab run"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, verdict) in [
            ("6.12.107+deb13-arm64\n", Verdict::Ok),
            ("7.3.4\n", Verdict::Ok),
            ("7.0-rc3", Verdict::Ok),
            ("6.6.1\n", Verdict::Warn),
            ("6.9", Verdict::Warn),
            ("unreleased", Verdict::Warn),
        ] {
            let (_folder, files) = made_up(&[("/proc/sys/kernel/osrelease", release)]);
            assert_eq!(kernel(&files).verdict, verdict, "{release}");
        }
    }

    #[test]
    fn memory_below_the_default_guest_warns() {
        let with = |available: u64| {
            let text = format!("MemTotal:  2097152 kB\nMemFree:  1 kB\nMemAvailable:  {available} kB\n");
            let (_folder, files) = made_up(&[("/proc/meminfo", &text)]);
            memory(&files)
        };
        assert_eq!(with(1 << 20).found, "1024 MiB available of 2048 MiB");
        assert_eq!(with(512 << 10).verdict, Verdict::Ok);
        assert_eq!(with((512 << 10) - 1).verdict, Verdict::Warn);
    }

    #[test]
    fn without_procfs_the_answers_are_unknown() {
        let (_folder, files) = made_up(&[]);
        for probe in [kernel(&files), memory(&files)] {
            assert_eq!((probe.verdict, probe.found.as_str()), (Verdict::Warn, "unknown"));
        }
    }
}
