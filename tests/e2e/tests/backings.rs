//! Guest RAM of every backing, each page of it written and read by the guest.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::fs;

use e2e::guest::run;
use e2e::hugepages::{Pool, SharedThp};

fn works(memory: &str) {
    let (code, text) = run(["run", "--cpus", "2", "--memory", memory, "--cmdline", "generations=2 full"]);
    assert_eq!(code, 0, "{memory}: {text}");
    assert!(text.contains("stamper: done ok"), "{memory}: {text}");
}

/// The block that one table of the host's pages maps: what transparent huge pages are made of
/// without further settings.
fn transparent_block() -> &'static str {
    match rustix::param::page_size() {
        16384 => "32M",
        _ => "2M",
    }
}

#[test]
fn anonymous_memory() {
    works("128M");
    works("128M,block=4K");
    works(&format!("128M,block={},prefault=on", transparent_block()));
}

#[test]
fn a_memfd() {
    works("128M,backing=memfd");
    let _thp = SharedThp::advise();
    works(&format!("128M,backing=memfd,block={},prefault=on", transparent_block()));
}

#[test]
fn huge_pages_of_every_size_that_the_host_has() {
    let mut sizes = 0;
    for (kib, block, size, pages) in [
        (64, "64K", "64M", 1024),
        (2048, "2M", "128M", 64),
        (32 << 10, "32M", "128M", 4),
        (1 << 20, "1G", "1G", 1),
    ] {
        if let Some(_pool) = Pool::with_free(kib, pages) {
            works(&format!("{size},backing=hugetlb,block={block}"));
            sizes += 1;
        }
    }
    assert!(sizes > 0, "this host has no huge pages to give");
}

#[test]
fn a_file_holds_the_guests_memory_when_it_has_gone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    works(&format!("64M,backing=file:{}", file.display()));
    let content = fs::read(&file).unwrap();
    assert_eq!(content.len(), 64 << 20);
    // The stamper leaves a stamp in every page that it owns: nearly all of them.
    let stamped = content.chunks(4096).filter(|page| page.iter().any(|&byte| byte != 0)).count();
    assert!(stamped > content.len() / 4096 * 9 / 10, "{stamped} pages are stamped");
}

#[test]
fn guests_start_from_a_private_file_and_never_write_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    let (code, text) = run([
        "run",
        "--memory",
        &format!("64M,backing=file:{}", file.display()),
        "--cmdline",
        "from=7 stamp",
    ]);
    assert_eq!(code, 0, "{text}");
    let left = fs::read(&file).unwrap();
    for cmdline in ["from=7 verify", "generations=2 full", "from=7 verify"] {
        let memory = format!("64M,backing=private:{}", file.display());
        let (code, text) = run(["run", "--memory", &memory, "--cmdline", cmdline]);
        assert_eq!(code, 0, "{cmdline}: {text}");
        assert!(text.contains("bad=0"), "{cmdline}: {text}");
    }
    assert!(fs::read(&file).unwrap() == left, "a guest has written to its private file");
}

#[test]
fn a_second_guest_finds_what_the_first_has_stamped() {
    let folder = tempfile::tempdir().unwrap();
    let memory = format!("64M,backing=file:{}", folder.path().join("ram").display());
    let (code, text) = run(["run", "--memory", &memory, "--cmdline", "from=7 stamp"]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = run(["run", "--memory", &memory, "--cmdline", "from=7 verify"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("generation=7 bad=0"), "{text}");
}
