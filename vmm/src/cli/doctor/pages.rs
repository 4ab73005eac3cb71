//! Huge pages: hugetlb pools (Linux, Documentation/admin-guide/mm/hugetlbpage.rst) and transparent ones
//! (transhuge.rst).

use super::Probe;
use crate::config::{BlockSize, MemoryConfig, Size};
use crate::memory::transparent::{self, Kind};
use crate::memory::{Host, hugetlb};

const SECTION: &str = "pages";

/// Asks for the hugetlb pools and the settings of transparent huge pages.
pub(super) fn probes(host: &Host) -> Vec<Probe> {
    let mut probes = pools(host);
    probes.extend([transparent(host), shmem(host), multi_size(host)]);
    probes
}

/// One answer per hugetlb pool.
fn pools(host: &Host) -> Vec<Probe> {
    let mut pools = hugetlb::pools(host);
    // A size that guest memory can't have is nothing to reserve.
    pools.retain(|pool| BlockSize::FIXED.iter().any(|block| block.bytes() == Some(pool.page)));
    if pools.is_empty() {
        let advice = "backing=hugetlb does not work: use a kernel with CONFIG_HUGETLBFS";
        return vec![Probe::ok(SECTION, "hugetlb", "no pool").missing(advice)];
    }
    pools.iter().map(pool).collect()
}

fn pool(pool: &hugetlb::Pool) -> Probe {
    let name = format!("hugetlb {}", Size(pool.page));
    if !pool.known {
        return Probe::ok(SECTION, name, "unknown").warn(format!("make {} readable", pool.folder.display()));
    }
    let probe = Probe::ok(SECTION, name, format!("{} free of {}", pool.available, pool.total));
    if pool.available > 0 {
        return probe;
    }
    let guest = MemoryConfig::default().size.max(pool.page);
    let (block, pages) = (Size(pool.page), guest / pool.page);
    probe.warn(format!(
        "for a guest of {} with backing=hugetlb,block={block}: echo {pages} > {}",
        Size(guest),
        pool.control().display()
    ))
}

/// A setting with a file of its own, and the words that are good.
fn setting(host: &Host, name: &str, kind: Kind, good: &[&str], advice: &str) -> Probe {
    let Some((file, word)) = transparent::general(host, kind) else {
        let advice = format!("{advice}; this kernel is built without them");
        return Probe::ok(SECTION, name, "not there").missing(advice);
    };
    let word = word.unwrap_or_else(|| "unknown".into());
    let probe = Probe::ok(SECTION, name, &word);
    if good.contains(&word.as_str()) {
        return probe;
    }
    probe.warn(format!("{advice}: echo {} > {}", good[0], file.display()))
}

fn transparent(host: &Host) -> Probe {
    let advice = "without huge pages anonymous guest memory is mapped page by page";
    setting(host, "THP", Kind::Anon, &["madvise", "always"], advice)
}

fn shmem(host: &Host) -> Probe {
    let advice = "without huge pages memfd guest memory is mapped page by page";
    setting(host, "THP of memfd", Kind::Shmem, &["advise", "always", "within_size", "force"], advice)
}

/// The sizes between a page and a block that are switched on, each with its word.
fn multi_size(host: &Host) -> Probe {
    const NAME: &str = "THP sizes";
    let sizes = transparent::words(host, Kind::Anon);
    if sizes.is_empty() {
        let advice = "block=64K has no effect: Linux has other sizes than the largest since 6.8";
        return Probe::ok(SECTION, NAME, "not there").missing(advice);
    }
    let on = sizes.iter().filter(|(_, _, word)| word != "never");
    let found: Vec<_> = on.map(|(bytes, _, word)| format!("{} {word}", Size(*bytes))).collect();
    let found = if found.is_empty() { "all never".into() } else { found.join(", ") };
    let probe = Probe::ok(SECTION, NAME, found);
    // One contiguous group, whatever the granule, where the kernel has that size.
    let group = 64 << 10;
    match sizes.iter().find(|(bytes, _, word)| *bytes == group && word == "never") {
        Some((_, file, _)) => probe.warn(format!("for block=64K: echo madvise > {}", file.display())),
        None => probe,
    }
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
