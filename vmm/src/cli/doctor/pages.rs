//! Huge pages: hugetlb pools (Linux, Documentation/admin-guide/mm/hugetlbpage.rst) and transparent ones
//! (transhuge.rst).

use super::{Files, Probe};
use crate::config::{BlockSize, MemoryConfig, Size};

const SECTION: &str = "pages";
const HUGETLB: &str = "/sys/kernel/mm/hugepages";
const THP: &str = "/sys/kernel/mm/transparent_hugepage";

/// Asks for the hugetlb pools and the settings of transparent huge pages.
pub(super) fn probes(files: &Files) -> Vec<Probe> {
    let mut probes = pools(files);
    probes.extend([transparent(files), shmem(files), multi_size(files)]);
    probes
}

/// One answer per hugetlb pool.
fn pools(files: &Files) -> Vec<Probe> {
    let mut pools: Vec<_> = files
        .names(HUGETLB)
        .into_iter()
        .filter_map(|name| Some((page_bytes(&name)?, name)))
        // A size that guest memory can't have is nothing to reserve.
        .filter(|(bytes, _)| BlockSize::FIXED.iter().any(|block| block.bytes() == Some(*bytes)))
        .collect();
    pools.sort();
    if pools.is_empty() {
        let advice = "backing=hugetlb does not work: use a kernel with CONFIG_HUGETLBFS";
        return vec![Probe::ok(SECTION, "hugetlb", "no pool").missing(advice)];
    }
    pools.iter().map(|(bytes, name)| pool(files, *bytes, &format!("{HUGETLB}/{name}"))).collect()
}

fn pool(files: &Files, bytes: u64, folder: &str) -> Probe {
    let name = format!("hugetlb {}", Size(bytes));
    let number = |file: &str| files.number(&format!("{folder}/{file}"));
    let (Some(total), Some(free)) = (number("nr_hugepages"), number("free_hugepages")) else {
        return Probe::ok(SECTION, name, "unknown").warn(format!("make {folder} readable"));
    };
    let reserved = number("resv_hugepages").unwrap_or(0);
    let overcommit = number("nr_overcommit_hugepages").unwrap_or(0);
    // What is promised to a mapping is still counted as free.
    let usable = free.saturating_sub(reserved);
    let probe = Probe::ok(SECTION, name, format!("{usable} free of {total}"));
    if usable > 0 || overcommit > 0 {
        return probe;
    }
    let guest = MemoryConfig::default().size.max(bytes);
    let (block, guest, pages) = (Size(bytes), Size(guest), guest / bytes);
    probe.warn(format!(
        "for a guest of {guest} with backing=hugetlb,block={block}: echo {pages} > {folder}/nr_hugepages"
    ))
}

/// The page size in bytes of a folder such as `hugepages-2048kB`.
fn page_bytes(folder: &str) -> Option<u64> {
    folder.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The chosen word of a setting such as `always [madvise] never`.
fn chosen(text: &str) -> Option<&str> {
    text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'))
}

/// A setting with a file of its own, and the words that are good.
fn setting(files: &Files, name: &str, file: &str, good: &[&str], advice: &str) -> Probe {
    let path = format!("{THP}/{file}");
    let Some(text) = files.read(&path) else {
        let advice = format!("{advice}; this kernel is built without them");
        return Probe::ok(SECTION, name, "not there").missing(advice);
    };
    let word = chosen(&text).unwrap_or("unknown");
    let probe = Probe::ok(SECTION, name, word);
    if good.contains(&word) { probe } else { probe.warn(format!("{advice}: echo {} > {path}", good[0])) }
}

fn transparent(files: &Files) -> Probe {
    let advice = "without huge pages anonymous guest memory is mapped page by page";
    setting(files, "THP", "enabled", &["madvise", "always"], advice)
}

fn shmem(files: &Files) -> Probe {
    let advice = "without huge pages memfd guest memory is mapped page by page";
    setting(files, "THP of memfd", "shmem_enabled", &["advise", "always", "within_size", "force"], advice)
}

/// The sizes between a page and a block that are switched on, each with its word.
fn multi_size(files: &Files) -> Probe {
    const NAME: &str = "THP sizes";
    let general = files.read(&format!("{THP}/enabled"));
    let general = general.as_deref().and_then(chosen).unwrap_or("never");
    let mut sizes: Vec<_> = files
        .names(THP)
        .into_iter()
        .filter_map(|folder| {
            let text = files.read(&format!("{THP}/{folder}/enabled"))?;
            let word = match chosen(&text)? {
                "inherit" => general,
                word => word,
            };
            Some((page_bytes(&folder)?, word.to_owned()))
        })
        .collect();
    sizes.sort();
    if sizes.is_empty() {
        let advice = "block=64K has no effect: Linux has other sizes than the largest since 6.8";
        return Probe::ok(SECTION, NAME, "not there").missing(advice);
    }
    let on: Vec<_> = sizes.iter().filter(|(_, word)| word != "never").collect();
    let found: Vec<_> = on.iter().map(|(bytes, word)| format!("{} {word}", Size(*bytes))).collect();
    let found = if found.is_empty() { "all never".into() } else { found.join(", ") };
    let probe = Probe::ok(SECTION, NAME, found);
    // One contiguous group, whatever the granule, where the kernel has that size.
    let group = 64 << 10;
    let off = sizes.iter().any(|(bytes, word)| *bytes == group && word == "never");
    if !off {
        return probe;
    }
    probe.warn(format!("for block=64K: echo madvise > {THP}/hugepages-64kB/enabled"))
}

#[cfg(test)]
#[path = "pages_tests.rs"]
mod tests;
