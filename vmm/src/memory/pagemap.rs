//! What the kernel knows about the pages of this process: Documentation/admin-guide/mm/pagemap.rst.
#![expect(unsafe_code, reason = "PAGEMAP_SCAN is an ioctl that no crate wraps")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

/// The argument of PAGEMAP_SCAN (Linux, include/uapi/linux/fs.h, `struct pm_scan_arg`).
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    regions: u64,
    regions_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// A run of pages that PAGEMAP_SCAN found (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct ScanRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// In the page cache of a file or of shared memory (`PAGE_IS_FILE`).
const FILE: u64 = 1 << 2;
/// In memory (`PAGE_IS_PRESENT`).
const PRESENT: u64 = 1 << 3;
/// Swapped out (`PAGE_IS_SWAPPED`).
const SWAPPED: u64 = 1 << 4;
/// The page that all reads of untouched memory share (`PAGE_IS_PFNZERO`).
const ZERO: u64 = 1 << 5;

/// The most runs that one call returns: 12 KiB of them.
const RUNS: usize = 512;

/// Pages that one read returns: 64 KiB of entries.
const ENTRIES: usize = 8192;

/// What is to be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Find {
    /// Whatever holds something: in memory or swapped out, but not the zero page.
    Held,
    /// The same, less what belongs to a file: private copies and anonymous memory.
    Private,
}

/// The page tables of this process, as the kernel shows them.
#[derive(Debug)]
pub(super) struct Pagemap {
    file: File,
    page: u64,
    scan: bool,
}

impl Pagemap {
    /// With PAGEMAP_SCAN, which Linux has since 6.7; the first scan fails where it hasn't.
    pub(super) fn scanning() -> io::Result<Self> {
        Self::open(true)
    }

    /// By reading /proc/self/pagemap, which every kernel has. It can't tell the zero page from others.
    pub(super) fn reading() -> io::Result<Self> {
        Self::open(false)
    }

    fn open(scan: bool) -> io::Result<Self> {
        let page = rustix::param::page_size() as u64;
        Ok(Self { file: File::open("/proc/self/pagemap")?, page, scan })
    }

    /// Visits the runs of pages in `host`, addresses of this process, that are to be found, in order; a run
    /// may come in pieces. Returns the number of system calls.
    pub(super) fn find(
        &self,
        host: Range<u64>,
        what: Find,
        visit: &mut dyn FnMut(Range<u64>),
    ) -> io::Result<u64> {
        if self.scan { self.scan(host, what, visit) } else { self.read(host, what, visit) }
    }

    fn scan(&self, host: Range<u64>, what: Find, visit: &mut dyn FnMut(Range<u64>)) -> io::Result<u64> {
        const SCAN: Opcode = opcode::read_write::<ScanArgument>(b'f', 16);
        let excluded = match what {
            Find::Held => ZERO,
            Find::Private => ZERO | FILE,
        };
        let mut runs = [ScanRegion::default(); RUNS];
        let mut at = host.start;
        let mut calls = 0;
        while at < host.end {
            let mut argument = ScanArgument {
                size: size_of::<ScanArgument>() as u64,
                start: at,
                end: host.end,
                regions: runs.as_mut_ptr() as u64,
                regions_len: runs.len() as u64,
                category_inverted: excluded,
                category_mask: excluded,
                category_anyof_mask: PRESENT | SWAPPED,
                ..ScanArgument::default()
            };
            calls += 1;
            // SAFETY: the operation's number is made from the type of its argument, and the kernel writes to
            // the argument and to at most `regions_len` regions at `regions`, which is `runs`. No flag asks
            // it to change a page.
            let found = unsafe { ioctl(&self.file, Counting::<SCAN>(Updater::new(&mut argument))) }?;
            for run in runs.iter().take(found) {
                visit(run.start..run.end);
            }
            if argument.walk_end <= at {
                return Err(io::Error::other("PAGEMAP_SCAN makes no progress"));
            }
            at = argument.walk_end;
        }
        Ok(calls)
    }

    fn read(&self, host: Range<u64>, what: Find, visit: &mut dyn FnMut(Range<u64>)) -> io::Result<u64> {
        let mut entries = vec![0; ENTRIES * 8];
        let mut at = host.start;
        let mut calls = 0;
        while at < host.end {
            let pages = ((host.end - at) / self.page).min(ENTRIES as u64);
            let Some(bytes) = entries.get_mut(..pages as usize * 8) else { break };
            calls += 1;
            self.file.read_exact_at(bytes, at / self.page * 8)?;
            for entry in bytes.as_chunks().0 {
                if matches(u64::from_ne_bytes(*entry), what) {
                    visit(at..at + self.page);
                }
                at += self.page;
            }
        }
        Ok(calls)
    }
}

/// Whether an entry of /proc/self/pagemap is to be found.
fn matches(entry: u64, what: Find) -> bool {
    let held = entry & (1 << 63 | 1 << 62) != 0;
    let file = entry & 1 << 61 != 0;
    held && !(file && what == Find::Private)
}

/// PAGEMAP_SCAN returns how many regions it has written.
struct Counting<'a, const OPCODE: Opcode>(Updater<'a, OPCODE, ScanArgument>);

// SAFETY: all but the output is the updater's, which hands over a mutable reference to the argument; the number
// that the call returns is read and nothing else.
unsafe impl<const OPCODE: Opcode> rustix::ioctl::Ioctl for Counting<'_, OPCODE> {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.0.opcode()
    }

    fn as_ptr(&mut self) -> *mut std::ffi::c_void {
        self.0.as_ptr()
    }

    unsafe fn output_from_ptr(
        out: rustix::ioctl::IoctlOutput,
        _: *mut std::ffi::c_void,
    ) -> rustix::io::Result<usize> {
        usize::try_from(out).map_err(|_| rustix::io::Errno::OVERFLOW)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_have_the_kernels_sizes() {
        assert_eq!((size_of::<ScanArgument>(), size_of::<ScanRegion>()), (96, 24));
    }

    #[test]
    fn swapped_pages_are_held_and_pages_of_files_are_not_private() {
        let (present, swapped, file) = (1u64 << 63, 1u64 << 62, 1u64 << 61);
        for (entry, held, private) in [
            (0, false, false),
            (0x7f_ffff, false, false),
            (present, true, true),
            (swapped | 0x1234, true, true),
            (present | file, true, false),
            (swapped | file, true, false),
        ] {
            assert_eq!(
                (matches(entry, Find::Held), matches(entry, Find::Private)),
                (held, private),
                "{entry:#x}"
            );
        }
    }
}
