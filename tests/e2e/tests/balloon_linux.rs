//! The balloon of stock Linux guests, on several backings and with every way to give memory back: what they
//! give is back with the host, and what they keep is whole.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "what a scenario needs and does not get fails it")]

use std::collections::HashSet;
use std::fs;

use e2e::balloon::{BALLOON, BalloonedGuest, FILL, RAM, gives_and_takes};
use e2e::hugepages::SharedThp;
use e2e::{Kernel, footprint};
use rustix::process::Signal;

#[test]
fn a_memfd_in_huge_pages() {
    let _thp = SharedThp::advise();
    gives_and_takes(Kernel::New, "384M,backing=memfd", &footprint::memfd);
}

#[test]
fn a_private_file_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    fs::write(&file, vec![0x5a; RAM as usize]).unwrap();
    let memory = format!("384M,backing=private:{}", file.display());
    gives_and_takes(Kernel::New, &memory, &footprint::anonymous);
}

/// Text whose pages are all different.
fn lines(count: u32) -> String {
    (1..=count).map(|number| format!("{number}\n")).collect()
}

#[test]
fn a_file_is_complete_when_the_guest_has_been_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ram");
    let memory = format!("384M,backing=file:{}", file.display());
    let mut guest = BalloonedGuest::boot(Kernel::New, folder.path(), &memory, "size=0");
    guest.gives_and_takes(&|_| footprint::file(&file));
    // Written to pages that the balloon held, and not told to anybody.
    guest.shell.tell("seq 1 600000 > /mnt/lines");
    let held = guest.shell.into_guest();
    held.signal(Signal::TERM);
    held.expect_exit(0);
    let content = fs::read(&file).unwrap();
    let numbers = |page: &&[u8]| page[0].is_ascii_digit() || page[0] == b'\n';
    let pages: HashSet<&[u8]> = content.chunks(4096).filter(numbers).collect();
    for (number, page) in lines(600_000).as_bytes().chunks_exact(4096).enumerate() {
        assert!(pages.contains(page), "page {number} of what the guest wrote is not in the file");
    }
}

#[test]
fn free_page_reports_give_memory_back_without_being_asked() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = BalloonedGuest::boot(Kernel::New, folder.path(), "384M", "report=on");
    guest.shell.tell(FILL);
    // Linux reports blocks of 2 MiB, some seconds after they have become free.
    guest.until("the guest reports what is free", |guest| {
        guest.get("/quire/release")["reported"].as_u64().unwrap() >= BALLOON
    });
    let pid = guest.pid();
    guest.until("what was reported is back", |_| footprint::anonymous(pid) <= RAM - BALLOON);
    guest.ctl(&["check"]);
    guest.keeps();
    guest.shell.tell(FILL);
    guest.keeps();

    // A driver that lets go of a balloon and takes it again finds it empty, and fills it once more.
    guest.ctl(&["balloon", "64M"]);
    guest.shell.tell(
        "cd /sys/bus/virtio/drivers/virtio_balloon && d=$(echo virtio*) && echo $d > unbind && echo $d > bind",
    );
    guest.until("the balloon is filled again", |guest| {
        let balloon = guest.get("/quire/balloon");
        balloon["active"] == true && balloon["actual"] == 64 << 20
    });
    guest.ctl(&["check"]);
    guest.keeps();
    let text = guest.shell.end();
    assert!(!text.contains("broke the rules"), "{text}");
}

#[test]
fn hints_give_free_memory_back_and_a_guest_without_memory_takes_pages_from_its_balloon() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = BalloonedGuest::boot(Kernel::New, folder.path(), "384M", "hint=on,deflate-on-oom=on");
    guest.shell.tell(FILL);
    guest.api.order("PATCH", "/balloon/hinting/start", "{\"acknowledge_on_stop\": true}");
    guest.until("the guest hints at what is free", |guest| {
        guest.get("/quire/release")["hinted"].as_u64().unwrap() >= BALLOON / 2
    });
    let pid = guest.pid();
    guest.until("what was hinted at is back", |_| footprint::anonymous(pid) <= RAM - BALLOON / 2);
    guest.ctl(&["check"]);
    guest.keeps();

    guest.ctl(&["balloon", "160M"]);
    // More than there is beside the balloon.
    let text = guest.shell.tell("awk '/MemFree/ {print \"free\", $2}' /proc/meminfo");
    let free = text.lines().find_map(|line| line.strip_prefix("free ")?.trim().parse::<u64>().ok()).unwrap();
    let mib = (free >> 10) + 48;
    guest.shell.tell(&format!("dd if=/dev/zero of=/mnt/fill bs=1M count={mib}"));
    let actual = guest.get("/quire/balloon")["actual"].as_u64().unwrap();
    assert!(actual < BALLOON, "the balloon still holds {actual:#x} bytes");
    guest.keeps();
    guest.ctl(&["check"]);
    guest.shell.end();
}
