use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use vm_memory::GuestMemoryBackend;
use vmm_sys_util::tempdir::TempDir;

use super::super::advice::lock;
use super::super::mapping::Object;
use super::super::testing::{self, allocated, assert_filled_but, fill, resident_all};
use super::*;

const M: u64 = 1 << 20;

/// Guest memory of two regions, which lie in their file with canaries before, between and behind them.
struct Guest {
    memory: GuestMemory,
    discard: Discard,
    /// Everything that is to be seen of the object, canaries too, at guest-physical 0: or the guest memory
    /// itself where there is no file.
    object: GuestMemory,
    file: Option<Arc<File>>,
    /// What the sizes are multiples of.
    scale: u64,
}

impl Guest {
    fn anon() -> Self {
        let memory = testing::anon(&[(64 * M, 8 * M), (96 * M, 4 * M)]);
        let discard = Discard::over(memory.clone(), &Backing::Anon);
        Self { object: memory.clone(), memory, discard, file: None, scale: M }
    }

    fn memfd() -> Self {
        let file = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        Self::shared(file, M, Backing::Memfd)
    }

    fn file(folder: &TempDir) -> Self {
        let path = folder.as_path().join("ram");
        let options = File::options().read(true).write(true).create_new(true).open(&path);
        Self::shared(options.unwrap(), M, |file| Backing::File { file, path })
    }

    fn shared(file: File, scale: u64, backing: impl FnOnce(Arc<File>) -> Backing) -> Self {
        file.set_len(15 * scale).unwrap();
        let file = Arc::new(file);
        let backing = backing(Arc::clone(&file));
        let map = |guest, len, offset| {
            let object = match &backing {
                Backing::Hugetlb { file, .. } => Object::Huge(file, offset),
                _ => Object::File(&file, offset),
            };
            testing::region(object, guest, len, offset)
        };
        let regions = vec![map(64 * scale, 8 * scale, scale), map(96 * scale, 4 * scale, 10 * scale)];
        let memory = GuestMemory::from_regions(regions).unwrap();
        let object = GuestMemory::from_regions(vec![map(0, 15 * scale, 0)]).unwrap();
        let discard = Discard::over(memory.clone(), &backing);
        Self { memory, discard, object, file: Some(file), scale }
    }

    /// All addresses of `object`, filled; and the regions' mappings populated.
    fn filled(&self) -> Vec<Range<u64>> {
        let all: Vec<_> = self.object.iter().map(testing::whole).collect();
        for range in &all {
            fill(&self.object, range.clone());
        }
        for region in self.memory.iter() {
            testing::touch(&self.memory, testing::whole(region));
        }
        all
    }

    /// Where guest-physical `range` is in `object`.
    fn in_object(&self, range: &Range<u64>) -> Range<u64> {
        let piece = Piece::of(&self.memory, 4096, std::slice::from_ref(range)).unwrap()[0];
        if self.file.is_some() { piece.object() } else { piece.guest() }
    }
}

/// What must hold for every backing: what is discarded reads as zero, takes no memory, and nothing beside it
/// changes.
fn discarded_is_zero_and_free(guest: &Guest) {
    let (scale, unit) = (guest.scale, guest.discard.unit());
    let all = guest.filled();
    let ranges = [
        // The first unit and one in the middle, beside others; several at once; up to the last byte.
        64 * scale..64 * scale + unit,
        65 * scale + scale / 2 / unit * unit..65 * scale + scale / 2 / unit * unit + unit,
        67 * scale..69 * scale,
        71 * scale..72 * scale,
        96 * scale..97 * scale,
        99 * scale..100 * scale,
    ];
    let bytes: u64 = ranges.iter().map(|range| range.end - range.start).sum();
    let taken = || (resident_all(&guest.memory), guest.file.as_deref().map_or(0, allocated));
    let before = taken();
    let done = guest.discard.discard(&ranges).unwrap();
    let after = taken();

    // With huge pages the first two touch.
    let pieces = Piece::of(&guest.memory, unit, &ranges).unwrap().len() as u64;
    let calls = if guest.discard.is_vectored() { 1 } else { pieces };
    assert_eq!(done, Discarded { bytes, calls });
    if guest.file.is_some() {
        // A file system may take a few blocks to remember its holes.
        assert!(before.1 - after.1 + (64 << 10) >= bytes, "{before:?} {after:?}");
    }
    // Pages of hugetlb don't count as resident.
    if unit == testing::page() {
        assert_eq!(before.0 - after.0, bytes, "{before:?} {after:?}");
    }
    let zero = ranges.each_ref().map(|range| guest.in_object(range));
    for range in all {
        assert_filled_but(&guest.object, range, &zero);
    }
    for range in ranges {
        testing::assert_zero(&guest.memory, range);
    }
}

#[test]
fn must_pass_4_discarded_anonymous_memory_is_zero_and_free() {
    discarded_is_zero_and_free(&Guest::anon());
}

#[test]
fn must_pass_4_discarded_memfd_memory_is_zero_and_free() {
    discarded_is_zero_and_free(&Guest::memfd());
}

#[test]
fn must_pass_4_discarded_file_memory_is_zero_and_free() {
    discarded_is_zero_and_free(&Guest::file(&TempDir::new().unwrap()));
}

#[test]
fn must_pass_4_discarded_huge_pages_are_zero_and_back_in_the_pool() {
    // Where no pool can be had there is no such memory either.
    let Some(pool) = testing::Pool::grow(2 * M, 15) else { return };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(memfd_create("test", flags).unwrap());
    let guest = Guest::shared(file, 2 * M, |file| Backing::Hugetlb { file, page: 2 * M });
    let free = pool.free();
    guest.filled();
    assert_eq!(pool.free(), free - 15);
    guest.discard.discard(&[64 * 2 * M..66 * 2 * M]).unwrap();
    assert_eq!(pool.free(), free - 13);
    discarded_is_zero_and_free(&guest);
}

#[test]
fn must_pass_12_one_4k_page_of_a_huge_page_is_refused_and_kept() {
    let Some(_pool) = testing::Pool::grow(2 * M, 15) else { return };
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB;
    let file = File::from(memfd_create("test", flags).unwrap());
    let guest = Guest::shared(file, 2 * M, |file| Backing::Hugetlb { file, page: 2 * M });
    refused_and_kept(&guest, 4096);
}

#[test]
fn a_part_of_a_host_page_is_refused_and_its_neighbours_are_kept() {
    refused_and_kept(&Guest::anon(), testing::page() / 2);
    refused_and_kept(&Guest::memfd(), testing::page() / 2);
}

/// That ranges which begin or end `part` inside a unit do nothing, in a list with good ones too.
fn refused_and_kept(guest: &Guest, part: u64) {
    let unit = guest.discard.unit();
    let start = 65 * guest.scale;
    let all = guest.filled();
    for range in [start..start + part, start + part..start + unit, start + part..start + unit + part] {
        let error = guest.discard.discard(&[start - unit..start, range.clone()]).unwrap_err();
        assert!(
            matches!(&error, Error::Ranges(piece::Error::NotWholeUnits { range: bad, .. }) if *bad == range),
            "{error:?}"
        );
    }
    for range in all {
        assert_filled_but(&guest.object, range, &[]);
    }
}

#[test]
fn must_pass_2_what_leaves_ram_is_refused_before_anything_is_discarded() {
    for guest in [Guest::anon(), Guest::memfd()] {
        let all = guest.filled();
        for range in [63 * M..65 * M, 71 * M..73 * M, 95 * M..97 * M, 99 * M..101 * M, 0..M, 64 * M..100 * M]
        {
            let list = if range.start > 64 * M { vec![64 * M..65 * M, range] } else { vec![range] };
            let error = guest.discard.discard(&list).unwrap_err();
            assert!(matches!(error, Error::Ranges(piece::Error::NotRam { .. })), "{list:x?}: {error:?}");
        }
        for range in all {
            assert_filled_but(&guest.object, range, &[]);
        }
    }
}

#[test]
fn locked_memory_is_discarded_too() {
    for guest in [Guest::anon(), Guest::memfd()] {
        let (page, all) = (guest.discard.unit(), guest.filled());
        let ranges = [64 * M..64 * M + page, 65 * M..65 * M + page, 66 * M..66 * M + page];
        lock(Piece::of(&guest.memory, page, &ranges[1..2]).unwrap()[0]);
        let before = resident_all(&guest.memory);
        assert_eq!(guest.discard.discard(&ranges).unwrap().bytes, 3 * page);
        assert_eq!(before - resident_all(&guest.memory), 3 * page);
        let zero = ranges.map(|range| guest.in_object(&range));
        for range in all {
            assert_filled_but(&guest.object, range, &zero);
        }
    }
}

#[test]
fn a_refusal_of_the_kernel_says_what_was_done_and_what_was_not() {
    let guest = Guest::memfd();
    // What is sealed against writing has no holes punched, either.
    fcntl_add_seals(guest.file.as_deref().unwrap(), SealFlags::FUTURE_WRITE).unwrap();
    let error = guest.discard.discard(&[64 * M..65 * M, 66 * M..67 * M]).unwrap_err();
    let Error::Refused { done, rest, .. } = error else { panic!("{error:?}") };
    assert_eq!((done.bytes, rest), (0, 64 * M..65 * M));
}

#[test]
fn many_ranges_share_a_call_where_the_kernel_takes_that() {
    // A wrong answer would make it slow, not wrong: nothing else here would notice.
    let release = rustix::system::uname().release().to_str().unwrap().to_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    for guest in [Guest::anon(), Guest::memfd()] {
        assert_eq!(guest.discard.is_vectored(), version >= (6, 13), "{release}");
    }
}

#[test]
fn nothing_to_discard_takes_no_call() {
    let guest = Guest::anon();
    assert_eq!(guest.discard.discard(&[]).unwrap(), Discarded::default());
    assert_eq!(guest.discard.discard(&[65 * M..65 * M]).unwrap(), Discarded::default());
}

#[test]
fn the_way_without_vectored_calls_discards_the_same() {
    // What kernels before 6.13 do.
    let mut guest = Guest::anon();
    guest.discard.way = Way::Private(Advisor::single(Advice::Discard));
    discarded_is_zero_and_free(&guest);
    let mut guest = Guest::memfd();
    guest.discard.way = Way::Shared(guest.file.clone().unwrap(), None);
    discarded_is_zero_and_free(&guest);
}
