use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::tempdir::TempDir;

use super::super::Discard;
use super::super::advice::{Advice, Advisor};
use super::super::testing::{self, fill, page, touch};
use super::*;
use crate::config::{self, MemoryConfig};

const M: u64 = 1 << 20;
const BASE: u64 = 1 << 30;
const SIZE: u64 = 16 * M;

fn ram(backing: config::Backing) -> GuestRam {
    // Base pages: what is touched is there, and nothing else.
    let block = config::BlockSize::Size4K;
    let config = MemoryConfig { size: SIZE, backing, block, ..MemoryConfig::default() };
    GuestRam::allocate(&config, GuestAddress(BASE)).unwrap()
}

fn found(presence: &Presence, range: Range<u64>) -> (Vec<Range<u64>>, u64) {
    let mut found = Vec::new();
    let calls = presence.scan(range, &mut |run| found.push(run)).unwrap();
    (found, calls)
}

/// The ways to look at it: what this kernel has, and for anonymous memory also what old ones have.
fn ways(ram: &GuestRam) -> Vec<Presence> {
    let mut ways = vec![Presence::new(ram).unwrap()];
    if matches!(ways[0].way, Way::Mapping(_)) {
        let way = Way::Mapping(Pagemap::reading().unwrap());
        ways.push(Presence { memory: ram.memory().clone(), page: page(), way });
    }
    ways
}

#[test]
fn what_was_written_is_found_and_what_was_discarded_is_not() {
    let folder = TempDir::new().unwrap();
    let file = config::Backing::File(folder.as_path().join("ram"));
    for backing in [config::Backing::Anon, config::Backing::Memfd, file] {
        let ram = ram(backing);
        for presence in ways(&ram) {
            let whole = BASE..BASE + SIZE;
            assert_eq!(found(&presence, whole.clone()).0, []);
            let written = [
                BASE..BASE + page(),
                BASE + 2 * page()..BASE + 3 * page(),
                BASE + 4 * M..BASE + 6 * M,
                BASE + SIZE - page()..BASE + SIZE,
            ];
            for range in written.clone() {
                fill(ram.memory(), range);
            }
            let (runs, calls) = found(&presence, whole.clone());
            assert_eq!(runs, written);
            let most = match presence.way {
                Way::Object(_) => 2 * written.len() as u64 + 1,
                Way::Mapping(_) => 1,
                Way::Both(..) => unreachable!(),
            };
            assert!(calls <= most, "{calls} calls");
            // Clipped to what was asked for, at both ends.
            let part = BASE + 5 * M..BASE + SIZE - M;
            assert_eq!(found(&presence, part.clone()).0, [BASE + 5 * M..BASE + 6 * M]);

            let discard = Discard::new(&ram);
            discard.discard(&[BASE..BASE + page(), BASE + 4 * M..BASE + 5 * M]).unwrap();
            let left = [written[1].clone(), BASE + 5 * M..BASE + 6 * M, written[3].clone()];
            assert_eq!(found(&presence, whole.clone()).0, left);
            discard.discard(&[whole]).unwrap();
        }
    }
}

#[test]
fn the_zero_page_is_nothing_where_the_kernel_can_tell() {
    let ram = ram(config::Backing::Anon);
    touch(ram.memory(), BASE..BASE + M);
    ram.memory().write_obj(1u8, GuestAddress(BASE + M)).unwrap();
    let [scanning, reading] = &ways(&ram)[..] else { panic!() };
    // Every kernel that the tests run on is newer than 6.7.
    assert_eq!(found(scanning, BASE..BASE + SIZE).0, [BASE + M..BASE + M + page()]);
    assert_eq!(found(reading, BASE..BASE + SIZE).0, [BASE..BASE + M + page()]);
}

#[test]
fn more_runs_than_one_call_returns_are_all_found() {
    for backing in [config::Backing::Anon, config::Backing::Memfd] {
        let ram = ram(backing);
        // Every second page: with 4K pages 2048 runs.
        let written: Vec<_> =
            (0..SIZE / page() / 2).map(|n| BASE + 2 * n * page()..BASE + (2 * n + 1) * page()).collect();
        for range in &written {
            ram.memory().write_obj(1u8, GuestAddress(range.start)).unwrap();
        }
        for presence in ways(&ram) {
            let (runs, calls) = found(&presence, BASE..BASE + SIZE);
            assert_eq!(runs, written);
            let most = match presence.way {
                Way::Mapping(_) => written.len() as u64 / 512 + 1,
                Way::Object(_) => 2 * written.len() as u64 + 1,
                Way::Both(..) => unreachable!(),
            };
            assert!(calls <= most, "{calls} calls");
        }
    }
}

#[test]
fn runs_join_across_regions_that_touch() {
    let memory = testing::anon(&[(BASE, M), (BASE + M, M), (BASE + 4 * M, M)]);
    let presence = Presence::over(memory.clone(), &Backing::Anon).unwrap();
    fill(&memory, BASE + M / 2..BASE + M + M / 2);
    assert_eq!(found(&presence, BASE..BASE + 2 * M).0, [BASE + M / 2..BASE + M + M / 2]);
    assert_eq!(found(&presence, BASE + 4 * M..BASE + 5 * M).0, []);
    let error = presence.scan(BASE..BASE + 5 * M, &mut |_| {}).unwrap_err();
    assert!(matches!(error, Error::Range(piece::Error::NotRam { at, .. }) if at == BASE + 2 * M));
}

#[test]
fn memory_that_is_in_the_file_and_not_in_the_page_tables_is_found() {
    // DONTNEED of a shared mapping takes it out of the page tables, and no more.
    let ram = ram(config::Backing::Memfd);
    fill(ram.memory(), BASE..BASE + M);
    let pieces = Piece::of(ram.memory(), page(), &[BASE..BASE + M]).unwrap();
    Advisor::single(Advice::Discard).advise(&pieces).unwrap();
    assert_eq!(testing::resident_all(ram.memory()), 0);
    assert_eq!(found(&Presence::new(&ram).unwrap(), BASE..BASE + SIZE).0, [BASE..BASE + M]);
}

#[test]
fn huge_pages_are_found_whole() {
    let Some(_pool) = testing::Pool::grow(2 * M, 8) else { return };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = Arc::new(File::from(memfd_create("test", flags).unwrap()));
    file.set_len(SIZE).unwrap();
    let region = testing::region(super::super::mapping::Object::Huge(&file, 0), BASE, SIZE, 0);
    let memory = GuestMemory::from_regions(vec![region]).unwrap();
    let presence = Presence::over(memory.clone(), &Backing::Hugetlb { file, page: 2 * M }).unwrap();
    assert_eq!(found(&presence, BASE..BASE + SIZE).0, []);
    for at in [BASE, BASE + 5 * M] {
        memory.write_obj(1u8, GuestAddress(at)).unwrap();
    }
    assert_eq!(found(&presence, BASE..BASE + SIZE).0, [BASE..BASE + 2 * M, BASE + 4 * M..BASE + 6 * M]);
}

#[test]
fn a_private_file_is_found_by_its_data_and_its_copies_but_not_where_it_was_discarded() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    // Data in two places, and holes.
    let file = File::create_new(&path).unwrap();
    file.set_len(SIZE).unwrap();
    for at in [2 * M, 8 * M] {
        std::os::unix::fs::FileExt::write_all_at(&file, &vec![7; 2 * M as usize], at).unwrap();
    }
    drop(file);
    let ram = ram(config::Backing::Private(path));
    let presence = Presence::new(&ram).unwrap();
    let whole = BASE..BASE + SIZE;
    let data = [BASE + 2 * M..BASE + 4 * M, BASE + 8 * M..BASE + 10 * M];
    assert_eq!(found(&presence, whole.clone()).0, data);
    // Writing makes a copy, in a hole and beside data.
    fill(ram.memory(), BASE..BASE + page());
    fill(ram.memory(), BASE + 4 * M..BASE + 5 * M);
    let written = [BASE..BASE + page(), BASE + 2 * M..BASE + 5 * M, data[1].clone()];
    assert_eq!(found(&presence, whole.clone()).0, written);

    let discard = Discard::new(&ram);
    discard.discard(&[BASE..BASE + page(), BASE + 3 * M..BASE + 9 * M]).unwrap();
    assert_eq!(found(&presence, whole.clone()).0, [BASE + 2 * M..BASE + 3 * M, BASE + 9 * M..BASE + 10 * M]);
    // What is anonymous now holds something again once it is written, and not when it is read.
    touch(ram.memory(), BASE + 3 * M..BASE + 4 * M);
    fill(ram.memory(), BASE + 5 * M..BASE + 6 * M);
    let (runs, _) = found(&presence, BASE + 5 * M..BASE + SIZE);
    assert_eq!(runs, [BASE + 5 * M..BASE + 6 * M, BASE + 9 * M..BASE + 10 * M]);
}
