use std::sync::Mutex;

use vm_memory::{Bytes, GuestAddress};

use super::super::testing::{self, page};
use super::*;

const BASE: u64 = 1 << 30;
const M: u64 = 1 << 20;

/// A log in which a test writes what "the guest" has written.
#[derive(Debug, Default)]
struct Written(Mutex<Vec<u64>>);

impl DirtyLog for Written {
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        let mut pages = self.0.lock().unwrap();
        if pages.contains(&u64::MAX) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let (taken, left) =
            pages.iter().partition(|at| ranges.iter().any(|range: &Range<u64>| range.contains(at)));
        *pages = left;
        let taken: Vec<u64> = taken;
        taken.into_iter().for_each(|at| visit(at..at + page()));
        Ok(())
    }
}

fn taken(dirty: &Dirty, ranges: &[Range<u64>]) -> (Answer, Vec<Range<u64>>) {
    let mut found = Vec::new();
    let answer = dirty.take(ranges, &mut |run| found.push(run)).unwrap();
    (answer, found)
}

fn started(dirty: &Dirty) -> Arc<Written> {
    let log = Arc::new(Written::default());
    let started: Arc<dyn DirtyLog> = log.clone();
    dirty.start(|| Ok::<_, io::Error>(started)).unwrap();
    log
}

#[test]
fn without_a_log_nothing_is_known_and_nothing_is_called_clean() {
    let memory = testing::anon(&[(BASE, 4 * M)]);
    let dirty = Dirty::over(memory.clone());
    memory.write_obj(1u8, GuestAddress(BASE)).unwrap();
    assert_eq!(taken(&dirty, &[BASE..BASE + 4 * M]), (Answer::Unknown, vec![]));
    // A log that does not come on leaves it there.
    dirty.start(|| Err(io::Error::other("no"))).unwrap_err();
    assert_eq!(taken(&dirty, &[BASE..BASE + 4 * M]), (Answer::Unknown, vec![]));
    drop(started(&dirty));
    assert!(dirty.is_known() && dirty.stop().is_some() && !dirty.is_known());
    assert_eq!(taken(&dirty, &[BASE..BASE + 4 * M]), (Answer::Unknown, vec![]));
}

#[test]
fn what_the_guest_and_what_the_devices_write_is_taken_once_and_reading_is_not_writing() {
    let memory = testing::anon(&[(BASE, 2 * M), (BASE + 8 * M, 2 * M)]);
    let dirty = Dirty::over(memory.clone());
    memory.write_obj(1u8, GuestAddress(BASE + M)).unwrap();
    let log = started(&dirty);
    let at = |n: u64| BASE + n * page();
    // Across two pages, by every kind of access that devices use; in the second region, too.
    memory.write_slice(&[1; 2], GuestAddress(at(4) - 1)).unwrap();
    memory.store(7u32, GuestAddress(at(9)), std::sync::atomic::Ordering::Release).unwrap();
    memory.read_exact_volatile_from(GuestAddress(BASE + 8 * M), &mut &[1u8; 3][..], 3).unwrap();
    memory.get_slice(GuestAddress(at(12)), 8).unwrap().copy_from(&[1u8; 8]);
    memory.read_obj::<u64>(GuestAddress(at(20))).unwrap();
    log.0.lock().unwrap().extend([at(1), at(9)]);

    let part = [BASE..at(10)];
    let expected = vec![at(1)..at(2), at(9)..at(10), at(3)..at(5), at(9)..at(10)];
    assert_eq!(taken(&dirty, &part), (Answer::Known, expected));
    assert_eq!(taken(&dirty, &part), (Answer::Known, vec![]));
    let rest = vec![at(12)..at(13), BASE + 8 * M..BASE + 8 * M + page()];
    let all = [BASE..BASE + 2 * M, BASE + 8 * M..BASE + 10 * M];
    assert_eq!(taken(&dirty, &all), (Answer::Known, rest));
}

#[test]
fn nothing_is_forgotten_when_the_log_fails() {
    let memory = testing::anon(&[(BASE, 2 * M)]);
    let dirty = Dirty::over(memory.clone());
    let log = started(&dirty);
    memory.write_obj(1u8, GuestAddress(BASE)).unwrap();
    log.0.lock().unwrap().extend([BASE + M, u64::MAX]);
    let all = [BASE..BASE + 2 * M];
    let error = dirty.take(&all, &mut |run| panic!("{run:?}")).unwrap_err();
    assert!(matches!(error, Error::Log(_)));
    log.0.lock().unwrap().retain(|at| *at != u64::MAX);
    let expected = vec![BASE + M..BASE + M + page(), BASE..BASE + page()];
    assert_eq!(taken(&dirty, &all), (Answer::Known, expected));
}

#[test]
fn ranges_that_are_not_guest_memory_are_refused() {
    let dirty = Dirty::over(testing::anon(&[(BASE, 2 * M)]));
    started(&dirty);
    for range in [BASE..BASE + 3 * M, BASE - M..BASE + M, BASE + 1..BASE + M] {
        assert!(matches!(dirty.take(&[range], &mut |_| ()), Err(Error::Ranges(_))));
    }
}
