//! What a guest's memory costs the host, and what is in it, as the host's kernel says.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::process::Pid;

/// Bytes of private memory that process `pid` has in RAM.
///
/// # Panics
/// Where there is no such process.
#[track_caller]
pub fn anonymous(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line.and_then(|text| text.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a process has RssAnon") << 10
}

/// Bytes that the host keeps for the file at `path`: holes cost nothing.
///
/// # Panics
/// Where there is no such file.
#[track_caller]
pub fn file(path: &Path) -> u64 {
    let metadata = fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    // In units of 512 bytes, whatever the file system's are (stat(2)).
    metadata.blocks() * 512
}

/// Bytes that the host keeps for the largest memory file without a name that process `pid` has open.
///
/// # Panics
/// Where it has none.
#[track_caller]
pub fn memfd(pid: Pid) -> u64 {
    let folder = format!("/proc/{}/fd", pid.as_raw_nonzero());
    let files = fs::read_dir(folder).expect("it runs").flatten().map(|entry| entry.path());
    let memory = files.filter(|path| {
        fs::read_link(path).is_ok_and(|target| target.to_string_lossy().starts_with("/memfd:"))
    });
    let largest = memory.max_by_key(|path| fs::metadata(path).map(|file| file.len()).unwrap_or(0));
    file(&largest.expect("its memory is a file without a name"))
}

/// Bytes of pages of 4 KiB that hold nothing but zeros, in the guest memory of `size` bytes that process
/// `pid` has mapped. Reading shared memory fills its holes: what it costs is to be asked before.
///
/// # Panics
/// Where there is no such mapping.
#[track_caller]
pub fn zeros(pid: Pid, size: u64) -> u64 {
    let start = mapping(pid, size);
    let memory = File::open(format!("/proc/{}/mem", pid.as_raw_nonzero())).expect("root may read it");
    let mut buffer = vec![0; 4 << 20];
    let mut zeros = 0;
    for offset in (0..size).step_by(buffer.len()) {
        memory.read_exact_at(&mut buffer, start + offset).expect("guest memory can be read");
        zeros += buffer.chunks(4096).filter(|page| *page == [0; 4096]).count() as u64 * 4096;
    }
    zeros
}

/// Where `size` bytes of guest memory are mapped: they start at a multiple of the largest power of two that
/// fits, and whatever mappings they consist of, there is no gap.
#[track_caller]
fn mapping(pid: Pid, size: u64) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{}/maps", pid.as_raw_nonzero())).expect("it runs");
    let writable = maps.lines().filter(|line| line.contains(" rw"));
    let ranges = writable.filter_map(|line| {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
    });
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(last) if last.1 == start => last.1 = end,
            _ => joined.push((start, end)),
        }
    }
    let aligned = 1 << size.ilog2();
    let fitting = joined.iter().map(|(start, end)| (start.next_multiple_of(aligned), *end));
    let found =
        fitting.into_iter().find(|(start, end)| end.checked_sub(*start).is_some_and(|has| has >= size));
    found.unwrap_or_else(|| panic!("{size:#x} bytes of guest memory are nowhere in:\n{maps}")).0
}
