//! A private file, which must not show again where it was discarded.

use std::os::unix::fs::FileExt;

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::tempdir::TempDir;

use super::super::mapping::Object;
use super::super::testing::{self, assert_zero, fill, mappings, page, pattern, resident_all};
use super::*;

const M: u64 = 1 << 20;
/// Guest-physical address of the region, which shows the file from byte `OFFSET` on.
const BASE: u64 = 64 * M;
const OFFSET: u64 = 2 * M;
const SIZE: u64 = 8 * M;

/// A file with something in every page, more of it than the guest sees.
fn file(folder: &TempDir) -> Arc<File> {
    let path = folder.as_path().join("snapshot");
    let file = File::create_new(&path).unwrap();
    for at in (0..OFFSET + SIZE + M).step_by(4096) {
        file.write_all_at(&[pattern(at); 4096], at).unwrap();
    }
    drop(file);
    Arc::new(File::open(path).unwrap())
}

fn guest(file: &Arc<File>) -> (GuestMemory, Discard) {
    let backing = Backing::PrivateFile {
        file: Arc::clone(file),
        path: "snapshot".into(),
        replaced: Replaced::default(),
    };
    let region = testing::region(Object::Private(file, OFFSET), BASE, SIZE, OFFSET);
    let memory = GuestMemory::from_regions(vec![region]).unwrap();
    (memory.clone(), Discard::over(memory, &backing))
}

/// Asserts that `range` shows what the file holds there.
#[track_caller]
fn assert_shows_file(memory: &GuestMemory, range: Range<u64>) {
    for at in range.step_by(4096) {
        let byte: u8 = memory.read_obj(GuestAddress(at)).unwrap();
        assert_eq!(byte, pattern(at - BASE + OFFSET), "{at:#x}");
    }
}

#[track_caller]
fn assert_untouched(file: &File) {
    let mut bytes = [0; 4096];
    for at in (0..file.metadata().unwrap().len()).step_by(4096) {
        file.read_exact_at(&mut bytes, at).unwrap();
        assert_eq!(bytes, [pattern(at); 4096], "{at:#x}");
    }
}

#[test]
fn discarded_private_file_memory_is_zero_and_free_and_the_file_does_not_come_back() {
    let folder = TempDir::new().unwrap();
    let file = file(&folder);
    let (memory, discard) = guest(&file);
    assert_shows_file(&memory, BASE..BASE + SIZE);
    // Copies of the guest's own, too, half of which are discarded.
    memory.write_slice(&vec![0xee; 2 * M as usize], GuestAddress(BASE + 2 * M)).unwrap();
    let gone = [BASE..BASE + page(), BASE + M..BASE + M + page(), BASE + 3 * M..BASE + 5 * M];
    let before = resident_all(&memory);
    let done = discard.discard(&gone).unwrap();
    let bytes = 2 * page() + 2 * M;
    assert_eq!(done.bytes, bytes);
    assert_eq!(before - resident_all(&memory), bytes);
    let check = || {
        for range in gone.clone() {
            assert_zero(&memory, range);
        }
        assert_shows_file(&memory, BASE + page()..BASE + M);
        assert_shows_file(&memory, BASE + M + page()..BASE + 2 * M);
        assert_eq!(memory.read_obj::<u8>(GuestAddress(BASE + 3 * M - 1)).unwrap(), 0xee);
        assert_shows_file(&memory, BASE + 5 * M..BASE + SIZE);
    };
    check();

    // Once more, after the guest has filled it: one call for all, and still no byte of the file.
    for range in gone.clone() {
        fill(&memory, range);
    }
    let before = resident_all(&memory);
    let done = discard.discard(&gone).unwrap();
    let Way::Replacing(Replacing { advisor, .. }) = &discard.way else { panic!() };
    assert_eq!(done, Discarded { bytes, calls: if advisor.is_vectored() { 1 } else { 3 } });
    assert_eq!(before - resident_all(&memory), bytes);
    check();
    assert_untouched(&file);
}

#[test]
fn ranges_that_touch_end_up_in_one_mapping_in_whatever_order_they_come() {
    let folder = TempDir::new().unwrap();
    let (memory, discard) = guest(&file(&folder));
    let place = |n: u64| BASE + n * page()..BASE + (n + 1) * page();
    for n in (0..64).rev().chain(64..128) {
        discard.discard(&[place(n)]).unwrap();
        memory.write_obj(1u8, GuestAddress(place(n).start)).unwrap();
    }
    assert_eq!(memory.iter().map(mappings).sum::<usize>(), 2);
    // Islands between that are given back with everything around leave one mapping.
    for n in [200, 202, 204, 206] {
        discard.discard(&[place(n)]).unwrap();
        memory.write_obj(1u8, GuestAddress(place(n).start)).unwrap();
    }
    assert_eq!(memory.iter().map(mappings).sum::<usize>(), 10);
    discard.discard(&[place(199).start..place(207).end]).unwrap();
    assert_eq!(memory.iter().map(mappings).sum::<usize>(), 4);
    assert_zero(&memory, place(199).start..place(207).end);
}

#[test]
fn more_mappings_than_a_process_may_have_are_refused_and_nothing_is_lost() {
    let folder = TempDir::new().unwrap();
    let (memory, mut discard) = guest(&file(&folder));
    let Way::Replacing(replacing) = &mut discard.way else { panic!() };
    replacing.most = 9;
    let ranges: Vec<_> = (0..8).map(|n| BASE + 2 * n * page()..BASE + (2 * n + 1) * page()).collect();
    let error = discard.discard(&ranges).unwrap_err();
    let Error::Refused { done, rest, source } = error else { panic!("{error:?}") };
    assert_eq!((done.bytes, rest), (4 * page(), ranges[4].clone()));
    assert!(source.to_string().contains("allows a process 18"), "{source}");
    for (n, range) in ranges.iter().enumerate() {
        if n < 4 { assert_zero(&memory, range.clone()) } else { assert_shows_file(&memory, range.clone()) }
    }
    assert!(memory.iter().map(mappings).sum::<usize>() <= 9);
    // All of it at once takes fewer.
    assert_eq!(discard.discard(&[BASE..BASE + SIZE]).unwrap().bytes, SIZE);
    assert_zero(&memory, BASE..BASE + SIZE);
}
