use std::fs;
use std::io::ErrorKind;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use vmm_sys_util::tempdir::TempDir;

use crate::memory::dirty::{Answer, Dirty, DirtyLog};
use crate::virtio::driver::{BASE, Driver, Part, SIZE};

use super::*;

const SECTORS: u64 = 64;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;
/// What a status byte is before the device has written it.
const NONE: u8 = 0xee;

fn image(folder: &TempDir) -> (PathBuf, Vec<u8>) {
    let path = folder.as_path().join("disk");
    let bytes: Vec<u8> = (0..SECTORS * 512).map(|at| (at / 512 + at % 251) as u8).collect();
    fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn config(path: &Path, read_only: bool) -> DiskConfig {
    DiskConfig { path: path.into(), read_only }
}

struct Bench {
    driver: Driver,
    path: PathBuf,
    bytes: Vec<u8>,
    _folder: TempDir,
}

impl Bench {
    fn with(read_only: bool, features: u64) -> Self {
        let folder = TempDir::new().unwrap();
        let (path, bytes) = image(&folder);
        let block = Block::open(&config(&path, read_only)).unwrap();
        let driver = Driver::start(Box::new(block), features);
        Self { driver, path, bytes, _folder: folder }
    }

    fn new() -> Self {
        Self::with(false, 1 << VIRTIO_BLK_F_FLUSH)
    }

    fn header(&mut self, kind: u32, sector: u64) -> Part {
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        Part::read(self.driver.filled(&bytes), 16)
    }

    /// Sends header, data and status; returns status and used length.
    fn request(&mut self, kind: u32, sector: u64, data: &[Part]) -> (u8, u32) {
        let header = self.header(kind, sector);
        let status = self.driver.filled(&[NONE]);
        let parts = [&[header], data, &[Part::write(status, 1)]].concat();
        let head = self.driver.post(0, &parts);
        self.driver.run();
        let used = self.driver.used(0);
        let [(back, len)] = used[..] else { panic!("{used:?} for one request") };
        assert_eq!(back, head);
        (self.driver.bytes(status, 1)[0], len)
    }

    fn ranges(&mut self, ranges: &[(u64, u32, u32)]) -> Part {
        let bytes: Vec<u8> = ranges
            .iter()
            .flat_map(|(sector, sectors, flags)| {
                [&sector.to_le_bytes()[..], &sectors.to_le_bytes(), &flags.to_le_bytes()].concat()
            })
            .collect();
        Part::read(self.driver.filled(&bytes), bytes.len() as u32)
    }

    fn disk(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }
}

#[test]
fn configuration_says_size_and_limits() {
    let bench = Bench::new();
    let mut config = [0; 60];
    for (at, byte) in config.iter_mut().enumerate() {
        use crate::devices::MmioDevice;
        bench.driver.transport.read(0x100 + at as u64, std::slice::from_mut(byte));
    }
    assert_eq!(config[..8], SECTORS.to_le_bytes());
    assert_eq!(config[12..16], 254u32.to_le_bytes());
    assert_eq!(config[20..24], 512u32.to_le_bytes());
}

#[test]
fn reads_what_is_on_the_disk_however_it_is_cut() {
    let mut bench = Bench::new();
    for cuts in [vec![4096], vec![512; 8], vec![1, 511, 3000, 584], vec![0, 4096, 0]] {
        let at = bench.driver.buffer(4096);
        let mut offset = 0;
        let parts: Vec<_> = cuts
            .iter()
            .map(|&len| {
                offset += u64::from(len);
                Part::write(at + offset - u64::from(len), len)
            })
            .collect();
        assert_eq!(bench.request(IN, 3, &parts), (OK, 4097));
        assert_eq!(bench.driver.bytes(at, 4096), bench.bytes[3 * 512..11 * 512]);
    }
}

#[test]
fn what_is_read_from_the_disk_is_dirty_and_what_is_written_to_it_is_not() {
    /// The log of a guest that writes nothing.
    #[derive(Debug)]
    struct Silent;
    impl DirtyLog for Silent {
        fn take(&self, _: &[Range<u64>], _: &mut dyn FnMut(Range<u64>)) -> std::io::Result<()> {
            Ok(())
        }
    }
    let page = rustix::param::page_size() as u64;
    let mut bench = Bench::new();
    let dirty = Dirty::over(bench.driver.memory.clone());
    dirty.start(|| Ok::<_, std::convert::Infallible>(Arc::new(Silent) as Arc<dyn DirtyLog>)).unwrap();
    // Rings, headers and status are below.
    let data = BASE + SIZE / 2;
    let taken = || {
        let mut found = Vec::new();
        let all = [BASE..BASE + SIZE];
        assert_eq!(dirty.take(&all, &mut |run| found.push(run)).unwrap(), Answer::Known);
        found.retain(|run| run.end > data);
        found
    };
    // It ends one byte behind the first page.
    let at = data + page + 1 - 4096;
    assert_eq!(bench.request(IN, 3, &[Part::write(at, 4096)]).0, OK);
    assert_eq!(taken(), [at / page * page..data + 2 * page]);
    assert_eq!(bench.request(OUT, 3, &[Part::read(at, 4096)]).0, OK);
    assert_eq!(taken(), []);
}

#[test]
fn header_and_status_may_lie_anywhere() {
    // One descriptor for the header and the data to write; status behind the data to read.
    let mut bench = Bench::new();
    let header = bench.header(OUT, 5);
    let data = bench.driver.filled(&[0x5a; 512]);
    assert_eq!(data, header.address + 16);
    let status = bench.driver.filled(&[NONE]);
    let (first, second) = (Part::read(header.address, 7), Part::read(header.address + 7, 9 + 512));
    bench.driver.post(0, &[first, second, Part::write(status, 1)]);
    let header = bench.header(IN, 5);
    let both = bench.driver.filled(&[NONE; 513]);
    bench.driver.post(0, &[header, Part::write(both, 513)]);
    bench.driver.run();
    assert_eq!(bench.driver.used(0).iter().map(|(_, len)| *len).collect::<Vec<_>>(), [1, 513]);
    assert_eq!(bench.driver.bytes(status, 1), [OK]);
    assert_eq!(bench.driver.bytes(both, 513), [&[0x5a; 512][..], &[OK]].concat());
}

#[test]
fn writes_reach_the_disk_and_nothing_beside_them() {
    let mut bench = Bench::new();
    let data = bench.driver.filled(&[0xa5; 1024]);
    assert_eq!(bench.request(OUT, SECTORS - 2, &[Part::read(data, 1024)]), (OK, 1));
    assert_eq!(bench.request(FLUSH, 0, &[]), (OK, 1));
    let mut expected = bench.bytes.clone();
    expected[(SECTORS as usize - 2) * 512..].fill(0xa5);
    assert!(bench.disk() == expected);
}

#[test]
fn indirect_descriptors_are_followed() {
    let mut bench = Bench::new();
    let header = bench.header(IN, 1);
    let (data, status) = (bench.driver.buffer(512), bench.driver.filled(&[NONE]));
    let entry = |part: Part, flags: u16, next: u16| {
        [
            &part.address.to_le_bytes()[..],
            &part.len.to_le_bytes(),
            &(part.flags | flags).to_le_bytes(),
            &next.to_le_bytes(),
        ]
        .concat()
    };
    let table =
        [entry(header, 1, 1), entry(Part::write(data, 512), 1, 2), entry(Part::write(status, 1), 0, 0)]
            .concat();
    let table = bench.driver.filled(&table);
    bench.driver.post(0, &[Part::indirect(table, 48)]);
    bench.driver.run();
    assert_eq!(bench.driver.used(0), [(0, 513)]);
    assert_eq!(bench.driver.bytes(data, 512), bench.bytes[512..1024]);
}

#[test]
fn disk_names_itself_within_20_bytes() {
    let mut bench = Bench::new();
    let at = bench.driver.buffer(20);
    assert_eq!(bench.request(GET_ID, 0, &[Part::write(at, 20)]), (OK, 21));
    let id = bench.driver.bytes(at, 20);
    assert!(id.iter().all(|byte| *byte == 0 || byte.is_ascii_hexdigit() || *byte == b'-'));
    assert_ne!(id[0], 0);
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zero() {
    for (kind, flags) in [(WRITE_ZEROES, 0), (WRITE_ZEROES, 1), (DISCARD, 0)] {
        let mut bench = Bench::new();
        let ranges = bench.ranges(&[(8, 8, flags), (32, 1, flags)]);
        assert_eq!(bench.request(kind, 0, &[ranges]), (OK, 1));
        let mut expected = bench.bytes.clone();
        expected[8 * 512..16 * 512].fill(0);
        expected[32 * 512..33 * 512].fill(0);
        assert!(bench.disk() == expected, "{kind} {flags}");
    }
}

#[test]
fn bad_ranges_change_nothing() {
    let mut bench = Bench::new();
    for kind in [DISCARD, WRITE_ZEROES] {
        for bad in [(SECTORS, 1, 0), (u64::MAX, 1, 0), (u64::MAX - 1, 2, 0), (0, 0, 0), (0, u32::MAX, 0)] {
            // The good one goes first, and yet it isn't done.
            let ranges = bench.ranges(&[(0, 1, 0), bad]);
            assert_eq!(bench.request(kind, 0, &[ranges]), (IOERR, 1), "{kind} {bad:?}");
        }
        let unknown = bench.ranges(&[(0, 1, 0x10)]);
        assert_eq!(bench.request(kind, 0, &[unknown]).0, UNSUPP);
        let too_many = bench.ranges(&[(0, 1, 0); 9]);
        assert_eq!(bench.request(kind, 0, &[too_many]).0, IOERR);
        let cut = bench.ranges(&[(0, 1, 0)]);
        assert_eq!(bench.request(kind, 0, &[Part { len: 15, ..cut }]).0, IOERR);
        assert_eq!(bench.request(kind, 0, &[]).0, IOERR);
    }
    assert!(bench.disk() == bench.bytes);
}

#[test]
fn requests_beyond_the_disk_fail_and_move_nothing() {
    let mut bench = Bench::new();
    let canary = [0xcc; 2048];
    let at = bench.driver.filled(&canary);
    for sector in [SECTORS, SECTORS - 3, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, u64::MAX - 3] {
        assert_eq!(bench.request(IN, sector, &[Part::write(at, 2048)]), (IOERR, 0), "{sector:#x}");
        assert_eq!(bench.request(OUT, sector, &[Part::read(at, 2048)]).0, IOERR, "{sector:#x}");
    }
    assert_eq!(bench.driver.bytes(at, 2048), canary);
    assert!(bench.disk() == bench.bytes);
}

#[test]
fn odd_empty_and_misdirected_data_fails() {
    let mut bench = Bench::new();
    let at = bench.driver.buffer(1024);
    for (kind, data) in [
        (IN, vec![]),
        (OUT, vec![]),
        (IN, vec![Part::write(at, 511)]),
        (OUT, vec![Part::read(at, 513)]),
        (IN, vec![Part::read(at, 512)]),
        (OUT, vec![Part::write(at, 512)]),
        (IN, vec![Part::write(at, 256), Part::read(at, 256)]),
        (OUT, vec![Part::write(at, 1), Part::read(at, 512)]),
    ] {
        assert_eq!(bench.request(kind, 0, &data).0, IOERR, "{kind} {data:?}");
    }
    assert!(bench.disk() == bench.bytes);
}

#[test]
fn unknown_requests_are_unsupported() {
    let mut bench = Bench::new();
    for kind in [2, 3, 5, 14, 0x8000_0000, u32::MAX] {
        assert_eq!(bench.request(kind, 0, &[]), (UNSUPP, 1));
    }
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let mut bench = Bench::with(true, 1 << VIRTIO_BLK_F_FLUSH | 1 << VIRTIO_BLK_F_RO);
    let at = bench.driver.buffer(512);
    assert_eq!(bench.request(OUT, 0, &[Part::read(at, 512)]).0, IOERR);
    for kind in [DISCARD, WRITE_ZEROES] {
        let ranges = bench.ranges(&[(0, 1, 0)]);
        assert_eq!(bench.request(kind, 0, &[ranges]).0, IOERR);
    }
    assert_eq!(bench.request(IN, 0, &[Part::write(at, 512)]), (OK, 513));
    assert_eq!(bench.request(FLUSH, 0, &[]).0, OK);
    assert!(bench.disk() == bench.bytes);
}

#[test]
fn must_pass_15_buffers_outside_of_memory_fail() {
    let mut bench = Bench::new();
    for address in [0, BASE - 512, BASE - 1, BASE + SIZE - 511, BASE + SIZE, u64::MAX - 511, u64::MAX] {
        assert_eq!(bench.request(IN, 0, &[Part::write(address, 512)]), (IOERR, 0), "{address:#x}");
        let good = bench.driver.filled(&[0xff; 512]);
        let data = [Part::read(good, 512), Part::read(address, 512)];
        assert_eq!(bench.request(OUT, 0, &data).0, IOERR, "{address:#x}");
    }
    assert!(bench.disk() == bench.bytes, "a write that failed has written");
}

#[test]
fn used_length_is_what_was_written_without_a_gap() {
    let mut bench = Bench::new();
    let at = bench.driver.buffer(512);
    let data = [Part::write(at, 512), Part::write(0, 512)];
    assert_eq!(bench.request(IN, 0, &data), (IOERR, 512));
}

#[test]
fn a_header_that_can_not_be_read_and_a_status_that_can_not_be_written() {
    let mut bench = Bench::new();
    let status = bench.driver.filled(&[NONE]);
    let at = bench.driver.buffer(512);
    let good = bench.header(IN, 0);
    // Header outside of memory; too short; no status; status outside of memory; nothing at all.
    bench.driver.post(0, &[Part::read(0, 16), Part::write(status, 1)]);
    bench.driver.post(0, &[Part::read(at, 15), Part::write(status, 1)]);
    bench.driver.post(0, &[good]);
    bench.driver.post(0, &[good, Part::write(at, 512), Part::write(0, 1)]);
    bench.driver.post(0, &[Part::read(at, 0)]);
    bench.driver.run();
    let used: Vec<_> = bench.driver.used(0).into_iter().map(|(_, len)| len).collect();
    assert_eq!(used, [1, 1, 0, 512, 0]);
    assert_eq!(bench.driver.bytes(status, 1), [IOERR]);
}

#[test]
fn a_disk_that_shrank_fails_its_reads_and_lives() {
    let mut bench = Bench::new();
    fs::OpenOptions::new().write(true).open(&bench.path).unwrap().set_len(512).unwrap();
    let at = bench.driver.buffer(1024);
    assert_eq!(bench.request(IN, 1, &[Part::write(at, 1024)]).0, IOERR);
    assert_eq!(bench.request(IN, 0, &[Part::write(at, 512)]), (OK, 513));
}

#[test]
fn missing_empty_odd_and_strange_disks_are_refused_by_name() {
    let folder = TempDir::new().unwrap();
    let at = |name: &str| folder.as_path().join(name);
    let open = |path: &Path, read_only| Block::open(&config(path, read_only)).unwrap_err();
    for read_only in [false, true] {
        assert!(
            matches!(open(&at("missing"), read_only), Error::Open { source, .. } if source.kind() == ErrorKind::NotFound)
        );
        let error = open(folder.as_path(), read_only).to_string();
        assert!(error.contains("is a directory") && error.contains(folder.as_path().to_str().unwrap()));
        for (name, size) in [("empty", 0), ("odd", 513)] {
            fs::write(at(name), vec![0; size]).unwrap();
            assert!(
                matches!(open(&at(name), read_only), Error::Size { size: found, .. } if found == size as u64)
            );
        }
        assert!(open(Path::new("/dev/null"), read_only).to_string().contains("a character device"));
    }
    rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(open(&at("fifo"), false).to_string().contains("a FIFO"));
}

#[test]
fn a_disk_has_one_writer_or_many_readers() {
    let folder = TempDir::new().unwrap();
    let (path, _) = image(&folder);
    let open = |read_only| Block::open(&config(&path, read_only));
    let writer = open(false).unwrap();
    assert!(matches!(open(false), Err(Error::Locked { .. })));
    assert!(matches!(open(true), Err(Error::Locked { .. })));
    drop(writer);
    let (_one, _two) = (open(true).unwrap(), open(true).unwrap());
    assert!(matches!(open(false), Err(Error::Locked { .. })));
}

/// Addresses that matter: in RAM, at its edges, nowhere.
fn address() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => BASE + 0x2_0000..BASE + 0x4_0000,
        1 => Just(BASE), // the descriptor table itself
        1 => BASE + SIZE - 600..BASE + SIZE + 600,
        1 => any::<u64>(),
    ]
}

fn part() -> impl Strategy<Value = Part> {
    let len = prop_oneof![Just(0u32), Just(1), Just(16), Just(512), 0u32..5000, any::<u32>()];
    (address(), len, 0u16..8).prop_map(|(address, len, flags)| Part { address, len, flags })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]
    #[test]
    fn must_pass_7_and_9_arbitrary_rings_cost_the_driver_its_device_at_most(
        table in proptest::collection::vec((part(), 0u16..40), 32),
        heads in proptest::collection::vec(0u16..32, 0..64),
        headers in proptest::collection::vec((0u32..16, prop_oneof![0u64..70, any::<u64>()]), 8),
        read_only in any::<bool>(),
    ) {
        let mut bench = Bench::with(read_only, 0);
        // Requests where the descriptors point to.
        for (at, (kind, sector)) in (0u64..).zip(&headers) {
            let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
            let at = vm_memory::GuestAddress(BASE + 0x2_0000 + at * 0x1000);
            vm_memory::Bytes::write_slice(&bench.driver.memory, &bytes, at).unwrap();
        }
        for (index, (part, next)) in (0u16..).zip(&table) {
            bench.driver.describe(0, index, *part, *next);
        }
        for head in &heads {
            bench.driver.offer(0, *head);
        }
        bench.driver.run();
        // A chain may write into the rings themselves: then the device may be lost, but is not dead.
        let lost = bench.driver.get(0x70) & 64 != 0;
        let rings = table.iter().any(|(part, _)| {
            (BASE..BASE + 0x3000).contains(&part.address) || part.flags & 4 != 0
        });
        if !lost && !rings {
            let back: Vec<_> = bench.driver.used(0).into_iter().map(|(head, _)| head).collect();
            prop_assert_eq!(back, heads);
        }
        if read_only {
            prop_assert!(bench.disk() == bench.bytes);
        }
        prop_assert_eq!(bench.disk().len(), bench.bytes.len());
        bench.driver.set(0x70, 0);
        bench.driver.handshake(1 << VIRTIO_BLK_F_FLUSH);
        let at = bench.driver.buffer(512);
        prop_assert_eq!(bench.request(IN, 0, &[Part::write(at, 512)]), (OK, 513));
    }
}
