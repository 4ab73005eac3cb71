use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{assert_filled_but, fill, page, touch};
use super::super::{Discard, Populate, testing, young};
use super::damon::Damon;
use super::faults::{self, Faults};
use super::zap::Zap;
use super::*;
use crate::config::{self, Backing, MemoryConfig, Watch};

const M: u64 = 1 << 20;
const BASE: u64 = 1 << 30;
const SIZE: u64 = 16 * M;

fn ram(backing: Backing) -> GuestRam {
    let block = config::BlockSize::Size4K;
    let config = MemoryConfig { size: SIZE, backing, block, ..MemoryConfig::default() };
    GuestRam::allocate(&config, GuestAddress(BASE)).unwrap()
}

fn all() -> Vec<Range<u64>> {
    vec![BASE..BASE + SIZE]
}

fn taken(source: &dyn Source, ranges: &[Range<u64>]) -> (Answer, Vec<Range<u64>>) {
    let mut found = Vec::new();
    let answer = source.take(ranges, &mut |run| found.push(run)).unwrap();
    (answer, found)
}

#[test]
fn without_a_source_nothing_is_known() {
    let ram = ram(Backing::Anon);
    fill(ram.memory(), BASE..BASE + M);
    let young = Young::new(&ram);
    assert_eq!(young.take(&all(), &mut |run| panic!("{run:?}")).unwrap(), Answer::Unknown);
    let error = young.take(&[BASE..BASE + 2 * SIZE], &mut |_| ()).unwrap_err();
    assert!(matches!(error, Error::Ranges(_)));
}

#[test]
fn the_best_source_decides_what_can_be_concluded() {
    #[derive(Debug)]
    struct Says(Answer, u64);
    impl Source for Says {
        fn take(&self, _: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<Answer> {
            visit(self.1..self.1 + 1);
            Ok(self.0)
        }
    }
    let ram = ram(Backing::Anon);
    let mut young = Young::new(&ram);
    let steps = [Answer::Unknown, Answer::Partial, Answer::Unknown, Answer::Complete, Answer::Partial];
    let expected = [Answer::Unknown, Answer::Partial, Answer::Partial, Answer::Complete, Answer::Complete];
    for (n, (step, expected)) in (0..).zip(steps.into_iter().zip(expected)) {
        young.add(Box::new(Says(step, n)));
        let mut visited = Vec::new();
        assert_eq!(young.take(&all(), &mut |run| visited.push(run.start)).unwrap(), expected);
        assert_eq!(visited, (0..=n).collect::<Vec<_>>());
    }
}

#[test]
fn shared_memory_is_young_where_it_was_used_since_and_keeps_its_content() {
    let folder = tempfile::TempDir::new().unwrap();
    for backing in [Backing::Memfd, Backing::File(folder.path().join("ram"))] {
        let ram = ram(backing);
        let zap = Zap::new(ram.memory(), ram.backing()).unwrap().unwrap();
        assert_eq!(taken(&zap, &all()), (Answer::Complete, vec![]));
        fill(ram.memory(), BASE..BASE + 2 * M);
        let part = [BASE..BASE + M];
        assert_eq!(taken(&zap, &part), (Answer::Complete, part.to_vec()));
        assert_eq!(taken(&zap, &all()), (Answer::Complete, vec![BASE + M..BASE + 2 * M]));
        assert_eq!(taken(&zap, &all()), (Answer::Complete, vec![]));
        // Written again: exactly that. Read: that, and at most what is around it.
        let at = BASE + M + 5 * page();
        ram.memory().write_obj(testing::pattern(at), GuestAddress(at)).unwrap();
        assert_eq!(taken(&zap, &all()), (Answer::Complete, vec![at..at + page()]));
        touch(ram.memory(), at..at + 1);
        let (_, found) = taken(&zap, &all());
        let [run] = &found[..] else { panic!("{found:x?}") };
        assert!(run.contains(&at) && run.end - run.start <= 16 * page(), "{run:x?}");
        assert_filled_but(ram.memory(), BASE..BASE + 2 * M, &[]);
    }
}

#[test]
fn memory_that_would_be_lost_or_not_found_again_is_never_zapped() {
    let refused = |backing| {
        let ram = ram(backing);
        let zap = Zap::new(ram.memory(), ram.backing()).unwrap();
        let opened = young::open(Watch::Presence, ram.memory(), ram.backing());
        zap.is_none() && matches!(opened, Err(Unavailable::NotShared))
    };
    assert!(refused(Backing::Anon));
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("ram");
    std::fs::write(&path, vec![1; SIZE as usize]).unwrap();
    assert!(refused(Backing::Private(path)));
}

#[test]
fn first_uses_are_seen_once_and_again_after_a_discard() {
    for backing in [Backing::Anon, Backing::Memfd] {
        let ram = ram(backing);
        ram.memory().write_obj(9u8, GuestAddress(BASE)).unwrap();
        let faults = match Faults::new(ram.memory()) {
            Ok(faults) => faults,
            // Not root: nobody sees them, and nothing is known.
            Err(faults::Error::Open(_)) => return,
            Err(error) => panic!("{error}"),
        };
        assert_eq!(taken(&faults, &all()), (Answer::Partial, vec![]));
        let at = |n: u64| BASE + n * page();
        touch(ram.memory(), at(10)..at(10) + 1);
        fill(ram.memory(), BASE + M..BASE + 2 * M);
        // What was there before is none, nor is a second use.
        ram.memory().write_obj(9u8, GuestAddress(BASE)).unwrap();
        let seen = vec![at(10)..at(11), BASE + M..BASE + 2 * M];
        assert_eq!(taken(&faults, &all()), (Answer::Partial, seen));
        fill(ram.memory(), BASE + M..BASE + 2 * M);
        assert_eq!(taken(&faults, &all()), (Answer::Partial, vec![]));
        assert_filled_but(ram.memory(), BASE + M..BASE + 2 * M, &[]);

        Discard::new(&ram).discard(&[BASE + M..BASE + M + 4 * page()]).unwrap();
        testing::assert_zero(ram.memory(), BASE + M..BASE + M + page());
        Populate::new(&ram).populate(&[BASE + M + 2 * page()..BASE + M + 3 * page()]).unwrap();
        let seen = vec![BASE + M..BASE + M + page(), BASE + M + 2 * page()..BASE + M + 3 * page()];
        assert_eq!(taken(&faults, &all()), (Answer::Partial, seen));

        // Without it memory is as any other.
        drop(faults);
        fill(ram.memory(), BASE..BASE + SIZE);
        assert_filled_but(ram.memory(), BASE..BASE + SIZE, &[]);
    }
}

#[test]
fn many_threads_fault_at_once_and_each_page_is_seen() {
    let ram = ram(Backing::Anon);
    let Ok(faults) = Faults::new(ram.memory()) else { return };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| touch(ram.memory(), BASE..BASE + SIZE));
        }
    });
    assert_eq!(taken(&faults, &all()), (Answer::Partial, all()));
}

#[test]
fn memory_that_userfaultfd_does_not_take_is_left_as_it_was() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = std::env::current_dir().unwrap().join("target");
    // A file that is not shared memory: the build's folder, or else the file system of the root.
    let folder = tempfile::TempDir::new_in(path).unwrap_or(folder);
    let path = folder.path().join("ram");
    let ram = ram(Backing::File(path));
    match Faults::new(ram.memory()) {
        // Shared memory by another name, as /tmp is in many places.
        Ok(faults) => drop(faults),
        Err(faults::Error::Open(_) | faults::Error::Register(_)) => {}
        Err(error) => panic!("{error}"),
    }
    fill(ram.memory(), BASE..BASE + M);
    assert_filled_but(ram.memory(), BASE..BASE + M, &[]);
}

#[test]
fn damon_sees_what_is_used_all_the_time_or_says_why_it_is_not_there() {
    let ram = ram(Backing::Anon);
    fill(ram.memory(), BASE..BASE + SIZE);
    let damon = match Damon::new(ram.memory()) {
        Ok(damon) => damon,
        Err(error) => {
            // This kernel has none, has one that watches no processes, or somebody else uses it.
            let text = error.to_string();
            assert!(text.contains("DAMON") && !text.ends_with(": "), "{text}");
            return;
        }
    };
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                touch(ram.memory(), BASE + 4 * M..BASE + 8 * M);
            }
        });
        // It needs some results to find the region's borders: as many as it takes.
        while !taken(&damon, &all()).1.iter().any(|run| run.start < BASE + 8 * M && run.end > BASE + 4 * M) {}
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    // There is one of them, until it has gone.
    assert!(matches!(Damon::new(ram.memory()), Err(damon::Error::Taken { .. })));
    drop(damon);
    drop(Damon::new(ram.memory()).unwrap());
}
