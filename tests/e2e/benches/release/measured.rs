//! The measurements, in the order of the table.

use std::cell::OnceCell;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use e2e::measure::trace::{Call, Counter, Recorder, by_call, call, discards};
use e2e::measure::{Figure, Goal, Row, Table, process};

use crate::balloon::{self, Movement};
use crate::vmm::{Kind, Place, Vmm};
use crate::{library, plot};

const MIB: u64 = 1 << 20;
const BLOCK: u64 = 2 * MIB;
/// The guest of most rows, and how much of it is touched.
const GUEST: u64 = 1024 * MIB;
const TOUCHED: u64 = 840 * MIB;
/// What the balloon takes.
const BALLOON: u64 = 512 * MIB;
/// Memory of which the guest frees every other page.
const SCATTERED: u64 = 64 * MIB;
/// How often a movement of the balloon is repeated; the figure is the median.
const ROUNDS: usize = 3;
/// How often a guest is stopped; the figure is the median.
const STOPS: usize = 3;

fn say(what: &str) {
    eprintln!("release: {what}");
}

fn at_most(ratio: f64) -> Goal {
    Goal::AtMost(Figure::ratio(ratio))
}

/// What moving the balloon took one of the two.
struct Side {
    inflate: Movement,
    deflate: Movement,
    inflate_calls: u64,
    deflate_calls: u64,
}

fn side(kind: Kind, place: &Place) -> Side {
    let mut vmm = Vmm::start(kind, place, GUEST, "");
    let (mut inflates, mut deflates) = (Vec::new(), Vec::new());
    for round in 1..=ROUNDS {
        say(&format!("inflate and deflate {} MiB with {kind:?}, {round} of {ROUNDS}", BALLOON / MIB));
        vmm.touch(TOUCHED);
        for (bytes, movements) in [(BALLOON, &mut inflates), (0, &mut deflates)] {
            let movement = balloon::move_to(&mut vmm, bytes);
            say(&format!("{movement:?}"));
            movements.push(movement);
        }
    }
    say(&format!("the same with {kind:?}, while the kernel counts system calls"));
    vmm.touch(TOUCHED);
    let mut counted = |bytes| {
        let counter = Counter::system_calls().expect("the kernel counts system calls");
        balloon::move_to(&mut vmm, bytes);
        let threads = process::threads(vmm.pid()).expect("the VMM is there");
        discards(&by_call(&counter.read().expect("the histogram can be read"), &threads))
    };
    let (inflate_calls, deflate_calls) = (counted(BALLOON), counted(0));
    let (inflate, deflate) = (balloon::median(&inflates), balloon::median(&deflates));
    Side { inflate, deflate, inflate_calls, deflate_calls }
}

fn inflate_rows(quire: &Side, qemu: &Side) -> Vec<Row> {
    let time = |time: fn(&Side) -> Duration| (Figure::time(time(quire)), Figure::time(time(qemu)));
    let per_block = Goal::AtMost(Figure::count(BALLOON / BLOCK));
    let calls = (Figure::count(quire.inflate_calls), Figure::count(qemu.inflate_calls));
    let gone = time(|side| side.inflate.gone);
    let kernel = time(|side| side.inflate.times.system);
    let user = time(|side| side.inflate.times.user);
    let guest = time(|side| side.inflate.times.guest);
    let freed = (Figure::bytes(quire.inflate.freed), Figure::bytes(qemu.inflate.freed));
    vec![
        Row::absolute("inflate: discard calls", calls.0, Some(calls.1), per_block),
        Row::relative("inflate: request to memory gone", gone.0, gone.1, at_most(0.5)),
        Row::relative("inflate: in the host's kernel", kernel.0, kernel.1, at_most(0.25)),
        Row::plain("inflate: in the VMM", user.0, Some(user.1)),
        Row::plain("inflate: the guest's own share", guest.0, Some(guest.1)),
        Row::plain("inflate: memory that went", freed.0, Some(freed.1)),
    ]
}

fn deflate_rows(quire: &Side, qemu: &Side) -> Vec<Row> {
    let time = |time: fn(&Side) -> Duration| (Figure::time(time(quire)), Figure::time(time(qemu)));
    let calls = (Figure::count(quire.deflate_calls), Figure::count(qemu.deflate_calls));
    let answered = time(|side| side.deflate.answered);
    let kernel = time(|side| side.deflate.times.system);
    let guest = time(|side| side.deflate.times.guest);
    let per_block = Goal::AtMost(Figure::count(BALLOON / BLOCK));
    let user = time(|side| side.deflate.times.user);
    vec![
        Row::absolute("deflate: madvise and the like", calls.0, Some(calls.1), per_block),
        Row::relative("deflate: request to done", answered.0, answered.1, at_most(0.5)),
        Row::plain("deflate: in the host's kernel", kernel.0, Some(kernel.1)),
        Row::plain("deflate: in the VMM", user.0, Some(user.1)),
        Row::plain("deflate: the guest's own share", guest.0, Some(guest.1)),
    ]
}

/// Free page reports with Quire.
struct Reports {
    /// What went, and in what time: from the first system call of each round to its last. Between two rounds Linux
    /// rests for two seconds.
    bytes: u64,
    time: Duration,
    rounds: u64,
    /// Of the time, what the discards took, and the scans before them.
    discards: Duration,
    scans: Duration,
    /// What the host maps in blocks of 2 MiB of what remains.
    in_blocks: Figure,
}

fn report(place: &Place) -> Reports {
    say("free page reporting with Quire");
    let mut vmm = Vmm::start(Kind::Quire, place, GUEST, "report=on");
    let pid = vmm.pid();
    let look = || process::resident(pid).expect("the VMM is there");
    let recorder = Recorder::start("balloon").expect("the kernel records system calls");
    vmm.touch(TOUCHED);
    // Linux reports two seconds after something has become free, a part of it at a time.
    let (mut last, mut quiet) = (look(), Instant::now());
    let most = last;
    while quiet.elapsed() < Duration::from_secs(6) {
        thread::sleep(Duration::from_millis(100));
        let now = look();
        if now.abs_diff(last) > 64 << 10 {
            (last, quiet) = (now, Instant::now());
        }
    }
    let (mut time, mut rounds, mut discards, mut scans) = (Duration::ZERO, 0, Duration::ZERO, Duration::ZERO);
    let calls = recorder.read().expect("the record can be read");
    let rest = |one: &Call, next: &Call| next.from.saturating_sub(one.to) < Duration::from_secs(1);
    for round in calls.chunk_by(rest) {
        // A round that found nothing to discard returned nothing.
        if let Some(end) = round.iter().rfind(|one| call::DISCARDS.contains(&one.id)) {
            time += end.to - round[0].from;
            rounds += 1;
            for one in round.iter().filter(|one| one.to <= end.to) {
                let sum = if call::DISCARDS.contains(&one.id) { &mut discards } else { &mut scans };
                *sum += one.to - one.from;
            }
        }
    }
    assert!(rounds > 0, "nothing was discarded: {calls:?}");
    say(&format!("{rounds} rounds of {time:?}: discards {discards:?}, scans {scans:?}"));
    Reports { bytes: most - last, time, rounds, discards, scans, in_blocks: in_blocks(&vmm) }
}

fn report_rows(reports: &Reports, qemu: &Side) -> Vec<Row> {
    let quire = Figure::rate(reports.bytes, reports.time);
    let qemu = Figure::rate(qemu.inflate.freed, qemu.inflate.gone);
    let goal = Goal::AtLeast(Figure::ratio(100.0));
    let blocks = Goal::AtLeast(Figure::percent(997, 1000));
    vec![
        Row::relative("reports of 2 MiB, against QEMU's inflate", quire, qemu, goal),
        Row::plain("reports: memory that went", Figure::bytes(reports.bytes), None),
        Row::plain("reports: rounds", Figure::count(reports.rounds), None),
        Row::plain("reports: time of all rounds", Figure::time(reports.time), None),
        Row::plain("reports: of it in discards", Figure::time(reports.discards), None),
        Row::plain("reports: of it in scans", Figure::time(reports.scans), None),
        Row::absolute("in 2M blocks: what remains after them", reports.in_blocks, None, blocks),
    ]
}

fn idle_rows() -> Vec<Row> {
    say("releases that have nothing to do");
    let idle = library::idleness();
    let none = Goal::AtMost(Figure::count(0));
    let scans = Figure::ratio(idle.scans as f64 / idle.batches as f64);
    vec![
        Row::absolute("what is released, once more: system calls", Figure::count(idle.again), None, none),
        Row::absolute("what was never touched: discards", Figure::count(idle.discards), None, none),
        Row::absolute("what was never touched: scans per batch", scans, None, at_most(1.0)),
    ]
}

/// Stage-2 faults from a deflate until everything has been touched again.
fn faults(place: &Place, repopulate: &str, scattered: bool) -> u64 {
    let mut vmm = Vmm::start(Kind::Quire, place, GUEST, &format!("repopulate={repopulate}"));
    vmm.touch(TOUCHED);
    let balloon = if scattered {
        // Of every other page of these the guest has no use.
        vmm.order("scatter", SCATTERED / MIB);
        SCATTERED / 2 - 8 * MIB
    } else {
        BALLOON
    };
    balloon::move_to(&mut vmm, balloon);
    // Faults in RAM, not in the registers of devices, which lie below.
    let counter = Counter::start("kvm/kvm_guest_fault", &["common_pid"], Some("ipa >= 0x40000000"));
    let counter = counter.expect("the kernel counts stage-2 faults");
    balloon::move_to(&mut vmm, 0);
    if scattered {
        vmm.order("gather", 0);
    }
    vmm.touch(TOUCHED);
    counter.read().expect("the histogram can be read").iter().map(|entry| entry.hits).sum()
}

fn fault_rows(place: &Place) -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, scattered) in [("scattered pages", true), ("whole blocks", false)] {
        say(&format!("stage-2 faults after a deflate of {name}"));
        let figure = |repopulate| Figure::count(faults(place, repopulate, scattered));
        let (plain, block) = (figure("off"), figure("block"));
        rows.push(Row::plain(&format!("{name}: faults after a plain deflate"), plain, None));
        rows.push(Row::against(&format!("{name}: with repopulate=block"), block, plain, at_most(0.2)));
    }
    rows
}

/// How long a guest of `memory` takes to stop of which `touched` was written: until Quire says so, and until it has
/// gone.
fn stop(kind: Kind, place: &Place, memory: u64, touched: u64) -> (Option<Duration>, Duration) {
    say(&format!("SIGTERM with {} MiB touched, {kind:?}", touched / MIB));
    let (mut said, mut gone) = (Vec::new(), Vec::new());
    for _ in 0..STOPS {
        let mut vmm = Vmm::start(kind, place, memory, "");
        vmm.touch(touched);
        vmm.yield_to_others();
        let (one, other) = vmm.terminate();
        said.extend(one);
        gone.push(other);
    }
    said.sort_unstable();
    gone.sort_unstable();
    say(&format!("until it had gone: {gone:?}; until it said so: {said:?}"));
    (said.get(STOPS / 2).copied(), gone[STOPS / 2])
}

fn stop_rows(place: &Place) -> Vec<Row> {
    let (_, qemu) = stop(Kind::Qemu, place, 1280 * MIB, 1024 * MIB);
    let (_, quire) = stop(Kind::Quire, place, 1280 * MIB, 1024 * MIB);
    let said = |touched| stop(Kind::Quire, place, 3328 * MIB, touched).0.unwrap_or_default();
    let (small, large) = (said(256 * MIB), said(3072 * MIB));
    let differ = Figure::percent(small.abs_diff(large).as_nanos() as u64, small.min(large).as_nanos() as u64);
    let goal = Goal::AtMost(Figure::percent(10, 100));
    vec![
        Row::relative(
            "SIGTERM to gone, 1 GiB touched",
            Figure::time(quire),
            Figure::time(qemu),
            at_most(0.6),
        ),
        Row::plain("SIGTERM to \"stopped\", 256 MiB touched", Figure::time(small), None),
        Row::plain("SIGTERM to \"stopped\", 3 GiB touched", Figure::time(large), None),
        Row::absolute("by how much they differ", differ, None, goal),
    ]
}

/// What of the guest's memory the host maps in blocks of 2 MiB or more.
fn in_blocks(vmm: &Vmm) -> Figure {
    let map = vmm.get("/quire/map");
    let host = &map["host"];
    let mapped = host["mapped"].as_u64().unwrap_or_else(|| panic!("the host's view is not known: {map}"));
    let sizes = host["sizes"].as_object().into_iter().flatten();
    let large = sizes.filter(|(size, _)| size.parse().is_ok_and(|size: u64| size >= BLOCK));
    Figure::percent(large.filter_map(|(_, bytes)| bytes.as_u64()).sum(), mapped)
}

fn block_rows(place: &Place) -> Vec<Row> {
    say("blocks of 2 MiB before and after storms of inflates");
    let (blocks, mapped) = library::after_a_storm_of_blocks();
    let mut vmm = Vmm::start(Kind::Quire, place, GUEST, "");
    vmm.touch(TOUCHED);
    let before = in_blocks(&vmm);
    // Up and down by whole blocks in sum, but Linux gives page by page; in the end something is left.
    for blocks in [100, 3, 256, 17, 200, 1, 128, 64, 250, 128] {
        balloon::move_to(&mut vmm, blocks * BLOCK);
    }
    let after = in_blocks(&vmm);
    let goal = Goal::AtLeast(Figure::percent(997, 1000));
    vec![
        Row::absolute("in 2M blocks: a touched guest", before, None, goal),
        Row::absolute(
            "in 2M blocks: after block-sized inflates",
            Figure::percent(blocks, mapped),
            None,
            goal,
        ),
        Row::absolute("in 2M blocks: after Linux's, page by page", after, None, goal),
    ]
}

fn ledger_rows() -> Vec<Row> {
    say("the ledger of a 4 GiB guest");
    let sizes = library::ledger(4096 * MIB);
    let under = |bytes| Goal::Under(Figure::bytes(bytes));
    vec![
        Row::absolute("ledger of 4 GiB: at start", Figure::bytes(sizes.start), None, under(64 << 10)),
        Row::absolute("ledger: every other block released", Figure::bytes(sizes.blocks), None, under(MIB)),
        Row::absolute("ledger: every other page released", Figure::bytes(sizes.pages), None, under(MIB)),
        Row::absolute("ledger: at its largest until then", Figure::bytes(sizes.most), None, under(MIB)),
        Row::absolute(
            "ledger: after the balloon is empty",
            Figure::bytes(sizes.after),
            None,
            under(64 << 10),
        ),
    ]
}

/// Measures everything, or what the arguments name: `balloon`, `reports`, `idle`, `ledger`, `blocks`, `stop`, `faults`.
pub(crate) fn main() {
    let started = Instant::now();
    let folder = tempfile::tempdir().expect("a temporary folder");
    say(
        "how fast memory goes back to the host, Quire beside QEMU: about ten minutes, and a table at the end",
    );
    let place = Place::new(folder.path());
    let mut table = Table { about: place.about(), ..Table::default() };
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| word == name);
    let mut add = |title: &str, rows| eprint!("{}", table.add(title, rows));
    // Two parts compare with it.
    let qemu = OnceCell::new();
    let qemu = || qemu.get_or_init(|| side(Kind::Qemu, &place));
    if wanted("balloon") {
        let qemu = qemu();
        let quire = side(Kind::Quire, &place);
        add(&format!("a balloon of {} MiB, touched before", BALLOON / MIB), inflate_rows(&quire, qemu));
        add("and back", deflate_rows(&quire, qemu));
    }
    if wanted("reports") {
        add("free page reporting", report_rows(&report(&place), qemu()));
    }
    if wanted("idle") {
        add("nothing to do", idle_rows());
    }
    if wanted("ledger") {
        add("what the ledger takes", ledger_rows());
    }
    if wanted("blocks") {
        add("what the host maps of a guest", block_rows(&place));
    }
    if wanted("stop") {
        add("the end of a guest", stop_rows(&place));
    }
    if wanted("faults") {
        add("deflate and touch again", fault_rows(&place));
    }
    for (what, value) in &table.about {
        println!("{what}: {value}");
    }
    println!("\n{table}");
    if let Err(error) = write(&table) {
        eprintln!("release: the report was not written: {error}");
    }
    say(&format!("{:.0} s of the host's time", started.elapsed().as_secs_f64()));
}

/// Writes the report where `QUIRE_REPORT_DIR` says, else to the current folder.
fn write(table: &Table) -> Result<(), Box<dyn Error>> {
    let folder = std::env::var_os("QUIRE_REPORT_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
    let json = folder.join("release.json");
    fs::write(&json, serde_json::to_string_pretty(table)? + "\n")?;
    let svg = folder.join("release.svg");
    plot::write(table, &svg)?;
    println!("{}\n{}", json.display(), svg.display());
    Ok(())
}
