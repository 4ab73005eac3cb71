use super::super::Verdict;
use super::super::files;
use super::*;

const POOL_2M: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";
const POOL_1G: &str = "/sys/kernel/mm/hugepages/hugepages-1048576kB";

/// A made-up host with these files, and the folder that it lives in.
fn made_up(all: &[(&str, &str)]) -> (tempfile::TempDir, Host) {
    let (folder, _) = files::made_up(all);
    let host = Host::fake(folder.path(), 4096);
    (folder, host)
}

/// The pools of a host with these files in each of the two.
fn pools_of(files_2m: &[(&str, &str)], files_1g: &[(&str, &str)]) -> Vec<Probe> {
    let place = |folder: &str, files: &[(&str, &str)]| -> Vec<(String, String)> {
        files.iter().map(|(name, text)| (format!("{folder}/{name}"), format!("{text}\n"))).collect()
    };
    let all = [place(POOL_2M, files_2m), place(POOL_1G, files_1g)].concat();
    let all: Vec<_> = all.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let (_folder, host) = made_up(&all);
    pools(&host)
}

#[test]
fn pools_are_told_smallest_first_with_what_is_not_promised() {
    let probes = pools_of(
        &[("nr_hugepages", "256"), ("free_hugepages", "200"), ("resv_hugepages", "50")],
        &[("nr_hugepages", "2"), ("free_hugepages", "2")],
    );
    let found: Vec<_> = probes.iter().map(|probe| (probe.name.as_str(), probe.found.as_str())).collect();
    assert_eq!(found, [("hugetlb 2M", "150 free of 256"), ("hugetlb 1G", "2 free of 2")]);
    assert!(probes.iter().all(|probe| probe.verdict == Verdict::Ok));
}

#[test]
fn an_empty_pool_says_how_to_fill_it() {
    let probes = pools_of(&[("nr_hugepages", "0"), ("free_hugepages", "0")], &[]);
    assert_eq!(probes.len(), 1);
    assert_eq!(probes[0].verdict, Verdict::Warn);
    let advice = probes[0].advice.as_deref().unwrap();
    assert!(advice.starts_with("for a guest of 512M with backing=hugetlb,block=2M: echo 256 > "), "{advice}");
    assert!(advice.ends_with(&format!("{POOL_2M}/nr_hugepages")), "{advice}");
}

#[test]
fn a_pool_that_is_promised_away_is_empty_and_one_that_grows_is_not() {
    let full = [("nr_hugepages", "4"), ("free_hugepages", "4"), ("resv_hugepages", "4")];
    assert_eq!(pools_of(&full, &[])[0].verdict, Verdict::Warn);
    let growing = [("nr_hugepages", "0"), ("free_hugepages", "0"), ("nr_overcommit_hugepages", "9")];
    assert_eq!(pools_of(&growing, &[])[0].verdict, Verdict::Ok);
}

#[test]
fn sizes_that_guest_memory_can_not_have_are_left_out() {
    let (_folder, host) = made_up(&[
        ("/sys/kernel/mm/hugepages/hugepages-524288kB/nr_hugepages", "1"),
        ("/sys/kernel/mm/hugepages/other/nr_hugepages", "1"),
    ]);
    assert_eq!(pools(&host).len(), 1);
    assert_eq!(pools(&host)[0].verdict, Verdict::Missing);
}

#[test]
fn a_pool_that_can_not_be_read_is_unknown() {
    let probes = pools_of(&[("nr_hugepages", "many")], &[]);
    assert_eq!((probes[0].verdict, probes[0].found.as_str()), (Verdict::Warn, "unknown"));
}

#[test]
fn transparent_huge_pages_are_good_on_always_and_madvise() {
    for (text, word, verdict) in [
        ("[always] madvise never\n", "always", Verdict::Ok),
        ("always [madvise] never\n", "madvise", Verdict::Ok),
        ("always madvise [never]\n", "never", Verdict::Warn),
        ("garbage\n", "unknown", Verdict::Warn),
    ] {
        let (_folder, host) = made_up(&[("/sys/kernel/mm/transparent_hugepage/enabled", text)]);
        let probe = transparent(&host);
        assert_eq!((probe.found.as_str(), probe.verdict), (word, verdict));
    }
    let (_folder, host) = made_up(&[]);
    assert_eq!(transparent(&host).verdict, Verdict::Missing);
}

#[test]
fn memfd_needs_a_setting_of_its_own() {
    let path = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    for (text, verdict) in [
        ("always within_size [advise] never deny force\n", Verdict::Ok),
        ("always within_size advise [never] deny force\n", Verdict::Warn),
        ("always within_size advise never [deny] force\n", Verdict::Warn),
    ] {
        let (_folder, host) = made_up(&[(path, text)]);
        assert_eq!(shmem(&host).verdict, verdict, "{text}");
    }
    let (_folder, host) = made_up(&[(path, "always within_size advise [never] deny force\n")]);
    let advice = shmem(&host).advice.unwrap();
    assert!(advice.contains(": echo advise > ") && advice.ends_with(path), "{advice}");
}

#[test]
fn an_inherited_size_has_the_general_word() {
    let thp = |general: &str, group: &str| {
        let folder = "/sys/kernel/mm/transparent_hugepage";
        let (_folder, host) = made_up(&[
            (&format!("{folder}/enabled"), general),
            (&format!("{folder}/hugepages-64kB/enabled"), group),
            (&format!("{folder}/hugepages-2048kB/enabled"), "always [inherit] madvise never\n"),
            (&format!("{folder}/khugepaged/defrag"), "1\n"),
        ]);
        multi_size(&host)
    };
    let on = thp("always [madvise] never\n", "always inherit [madvise] never\n");
    assert_eq!((on.found.as_str(), on.verdict), ("64K madvise, 2M madvise", Verdict::Ok));
    let off = thp("[always] madvise never\n", "always inherit madvise [never]\n");
    assert_eq!((off.found.as_str(), off.verdict), ("2M always", Verdict::Warn));
    let never = thp("always madvise [never]\n", "always [inherit] madvise never\n");
    assert_eq!((never.found.as_str(), never.verdict), ("all never", Verdict::Warn));
}
