use std::fs;
use std::path::Path;

use vm_memory::{Address, Bytes};
use vmm_sys_util::tempdir::TempDir;

use crate::config::BlockSize;

use super::super::testing::{self, resident};
use super::*;

const BASE: GuestAddress = GuestAddress(0x8000_0000);
const M: u64 = 1 << 20;

fn config(size: u64, backing: config::Backing) -> MemoryConfig {
    MemoryConfig { size, backing, block: BlockSize::Auto, prefault: false }
}

fn backings(folder: &Path) -> [config::Backing; 3] {
    [config::Backing::Anon, config::Backing::Memfd, config::Backing::File(folder.join("ram"))]
}

#[test]
fn every_backing_reads_as_zero_and_takes_the_first_and_the_last_byte() {
    let folder = TempDir::new().unwrap();
    for backing in backings(folder.as_path()) {
        let ram = GuestRam::allocate(&config(8 * M, backing), BASE).unwrap();
        let memory = ram.memory();
        let last = BASE.unchecked_add(8 * M - 1);
        for at in [BASE, last] {
            assert_eq!(memory.read_obj::<u8>(at).unwrap(), 0);
            memory.write_obj(0xa5u8, at).unwrap();
            assert_eq!(memory.read_obj::<u8>(at).unwrap(), 0xa5);
        }
        assert!(memory.write_obj(1u8, BASE.unchecked_sub(1)).is_err());
        assert!(memory.write_obj(1u8, BASE.unchecked_add(8 * M)).is_err());
        // Across the end: what doesn't fit is not written past it.
        assert!(memory.write_obj(u64::MAX, last).is_err());
        assert_eq!(ram.size(), 8 * M);
    }
}

#[test]
fn host_mapping_is_congruent_modulo_1_gib() {
    let folder = TempDir::new().unwrap();
    for backing in backings(folder.as_path()) {
        for base in [BASE, GuestAddress(0x1_4020_0000)] {
            let ram = GuestRam::allocate(&config(4 * M, backing.clone()), base).unwrap();
            let region = ram.regions().next().unwrap();
            assert_eq!(region.host() as u64 % (1 << 30), base.0 % (1 << 30));
            assert_eq!((region.guest(), region.size()), (base, 4 * M));
        }
    }
}

#[test]
fn memory_outlives_the_ram_as_long_as_a_clone_does() {
    let ram = GuestRam::allocate(&config(M, config::Backing::Anon), BASE).unwrap();
    let memory = ram.memory().clone();
    drop(ram);
    memory.write_obj(7u64, BASE).unwrap();
    assert_eq!(memory.read_obj::<u64>(BASE).unwrap(), 7);
}

#[test]
fn canaries_in_the_file_beyond_the_region_survive() {
    // A region shows exactly the file: what is behind its last byte is a guard, not the next page.
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let ram = GuestRam::allocate(&config(M, config::Backing::File(path.clone())), BASE).unwrap();
    ram.memory().write_slice(&vec![0xff; M as usize], BASE).unwrap();
    assert!(ram.memory().write_slice(&[0xff; 2], BASE.unchecked_add(M - 1)).is_err());
    ram.keep();
    drop(ram);
    assert_eq!(fs::read(&path).unwrap(), vec![0xff; M as usize]);
}

#[test]
fn a_prefault_that_is_stopped_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let config = MemoryConfig { prefault: true, ..config(4 * M, config::Backing::File(path.clone())) };
    let stopped = GuestRam::allocate_unless(&config, BASE, &|| {
        assert!(path.exists());
        true
    });
    assert!(matches!(stopped, Err(Error::Stopped { done: 0, .. })));
    assert!(!path.exists());
}

#[test]
fn prefault_populates_everything() {
    let folder = TempDir::new().unwrap();
    for backing in backings(folder.as_path()) {
        for (prefault, expected) in [(false, 0), (true, 4 * M)] {
            let config = MemoryConfig { prefault, ..config(4 * M, backing.clone()) };
            let ram = GuestRam::allocate(&config, BASE).unwrap();
            assert_eq!(resident(ram.regions().next().unwrap()), expected, "{config:?}");
        }
    }
}

#[test]
fn memory_of_0_is_refused() {
    let error = GuestRam::allocate(&config(0, config::Backing::Anon), BASE).unwrap_err();
    assert!(matches!(error, Error::Zero));
}

#[test]
fn memory_beyond_the_host_is_refused() {
    let total = Host::live().meminfo().unwrap().total;
    for backing in [config::Backing::Anon, config::Backing::Memfd] {
        let error = GuestRam::allocate(&config((total + M).next_multiple_of(M), backing), BASE).unwrap_err();
        assert!(error.to_string().contains("larger than this host's"), "{error}");
    }
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let error = GuestRam::allocate(&config(1 << 60, config::Backing::File(path.clone())), BASE).unwrap_err();
    assert!(error.to_string().contains("free"), "{error}");
    assert!(!path.exists(), "a file that could not be used was left behind");
}

#[test]
fn prefault_of_more_than_is_free_is_refused_before_anything_is_touched() {
    let root = TempDir::new().unwrap();
    fs::create_dir(root.as_path().join("proc")).unwrap();
    let meminfo = "MemTotal: 8192 kB\nMemAvailable: 1024 kB\nSwapTotal: 0 kB\nSwapFree: 0 kB\n";
    fs::write(root.as_path().join("proc/meminfo"), meminfo).unwrap();
    let host = Host::fake(root.as_path(), Host::live().page_size());
    let mut config = config(4 * M, config::Backing::Anon);
    assert!(GuestRam::allocate_on(&host, &config, BASE, &|| false).is_ok());
    config.prefault = true;
    let error = GuestRam::allocate_on(&host, &config, BASE, &|| false).unwrap_err();
    assert!(error.to_string().contains("the 1M that this host has available"), "{error}");
}

#[test]
fn a_range_that_wraps_or_starts_inside_a_block_is_refused() {
    for base in [u64::MAX - 4095, 0x8000_0100] {
        let error =
            GuestRam::allocate(&config(4 * M, config::Backing::Anon), GuestAddress(base)).unwrap_err();
        assert!(matches!(error, Error::Base { .. }), "{error}");
    }
}

#[test]
fn memory_file_is_kept_and_used_again() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let config = config(2 * M, config::Backing::File(path.clone()));
    let first = GuestRam::allocate(&config, BASE).unwrap();
    first.memory().write_obj(42u64, BASE).unwrap();
    first.keep();
    drop(first);
    let again = GuestRam::allocate(&config, BASE).unwrap();
    assert_eq!(again.memory().read_obj::<u64>(BASE).unwrap(), 42);
}

#[test]
fn memory_file_of_another_size_is_refused_and_left_alone() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    fs::write(&path, b"somebody's data").unwrap();
    let error = GuestRam::allocate(&config(2 * M, config::Backing::File(path.clone())), BASE).unwrap_err();
    assert!(error.to_string().contains("its size is 15, and the memory's 2M"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"somebody's data");
}

#[test]
fn memory_file_serves_one_vm_at_a_time() {
    let folder = TempDir::new().unwrap();
    let config = config(2 * M, config::Backing::File(folder.as_path().join("ram")));
    let first = GuestRam::allocate(&config, BASE).unwrap();
    let error = GuestRam::allocate(&config, BASE).unwrap_err();
    assert!(error.to_string().contains("another process holds its lock"), "{error}");
    drop(first);
    GuestRam::allocate(&config, BASE).unwrap();
}

#[test]
fn a_directory_or_a_missing_folder_is_no_memory_file() {
    let folder = TempDir::new().unwrap();
    for path in [folder.as_path().to_path_buf(), folder.as_path().join("no/ram")] {
        let error =
            GuestRam::allocate(&config(2 * M, config::Backing::File(path.clone())), BASE).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}

#[test]
fn memfd_can_not_be_cut_below_the_guest() {
    let ram = GuestRam::allocate(&config(2 * M, config::Backing::Memfd), BASE).unwrap();
    let Backing::Memfd(file) = ram.backing() else { panic!("{:?}", ram.backing()) };
    assert!(file.set_len(M).is_err());
    assert!(file.set_len(4 * M).is_err());
    assert_eq!(file.metadata().unwrap().len(), 2 * M);
}

#[test]
fn hugetlb_takes_its_promise_at_the_start_or_says_what_is_short() {
    let host = Host::live();
    let Ok(_) = hugetlb::pool(&host, 2 * M) else {
        let error = GuestRam::allocate(&config(4 * M, config::Backing::Hugetlb), BASE).unwrap_err();
        assert!(matches!(error, Error::NoSuchBlock { .. } | Error::NoPool { .. }), "{error}");
        return;
    };
    // Where a pool can be had, for the time of this test, and alone.
    let grown = testing::Pool::grow(2 * M, 4);
    let available = hugetlb::pool(&host, 2 * M).unwrap().available;
    let mut config = config((available + 1) * 2 * M, config::Backing::Hugetlb);
    config.block = BlockSize::Size2M;
    let error = GuestRam::allocate(&config, BASE).unwrap_err().to_string();
    assert!(error.contains("hugepages-2048kB/nr_hugepages"), "{error}");

    // What was promised is gone from the pool though nothing was touched, and comes back.
    if let Some(pool) = grown {
        config.size = 4 * 2 * M;
        let ram = GuestRam::allocate(&config, BASE).unwrap();
        assert_eq!(pool.available(), available - 4);
        let region = ram.regions().next().unwrap();
        assert_eq!((region.block(), region.host() as u64 % (1 << 30)), (2 * M, BASE.0 % (1 << 30)));
        let last = BASE.unchecked_add(8 * M - 8);
        ram.memory().write_obj(9u64, last).unwrap();
        assert_eq!(ram.memory().read_obj::<u64>(last).unwrap(), 9);
        drop(ram);
        assert_eq!(pool.available(), available);
    }
}

#[test]
fn a_file_that_was_created_goes_unless_the_guest_has_started() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let config = config(2 * M, config::Backing::File(path.clone()));
    drop(GuestRam::allocate(&config, BASE).unwrap());
    assert!(!path.exists());
    GuestRam::allocate(&config, BASE).unwrap().keep();
    assert!(path.exists());
    // It is somebody's now.
    drop(GuestRam::allocate(&config, BASE).unwrap());
    assert!(path.exists());
}

#[test]
fn a_file_that_took_the_place_of_one_that_was_created_stays() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let ram = GuestRam::allocate(&config(2 * M, config::Backing::File(path.clone())), BASE).unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"somebody's data").unwrap();
    drop(ram);
    assert_eq!(fs::read(&path).unwrap(), b"somebody's data");
}

#[test]
fn a_private_file_is_the_first_memory_of_any_number_of_guests_and_is_never_written() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    fs::write(&path, vec![7; 2 * M as usize]).unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o400)).unwrap();
    let config = config(2 * M, config::Backing::Private(path.clone()));
    let guests = [(); 2].map(|()| GuestRam::allocate(&config, BASE).unwrap());
    for (guest, value) in guests.iter().zip([1u8, 2]) {
        assert_eq!(guest.memory().read_obj::<u8>(BASE).unwrap(), 7);
        guest.memory().write_obj(value, BASE).unwrap();
    }
    for (guest, value) in guests.iter().zip([1u8, 2]) {
        assert_eq!(guest.memory().read_obj::<u8>(BASE).unwrap(), value);
        assert_eq!(guest.memory().read_obj::<u8>(BASE.unchecked_add(1)).unwrap(), 7);
    }
    drop(guests);
    assert_eq!(fs::read(&path).unwrap(), vec![7; 2 * M as usize]);
}

#[test]
fn a_private_file_has_the_memorys_size_and_is_no_running_guests_memory() {
    let folder = TempDir::new().unwrap();
    let path = folder.as_path().join("ram");
    let private = |size| GuestRam::allocate(&config(size, config::Backing::Private(path.clone())), BASE);
    let error = private(2 * M).unwrap_err().to_string();
    assert!(error.contains("can't open memory file"), "{error}");
    assert!(!path.exists());
    let running = GuestRam::allocate(&config(2 * M, config::Backing::File(path.clone())), BASE).unwrap();
    running.keep();
    let error = private(2 * M).unwrap_err().to_string();
    assert!(error.contains("memory of a running VM"), "{error}");
    drop(running);
    private(2 * M).unwrap();
    let error = private(M).unwrap_err().to_string();
    assert!(error.contains("its size is 2M, and the memory's 1M"), "{error}");
}
