//! In which sizes the host really maps guest memory: what a claim of contiguity is held against.
//!
//! Source: Documentation/admin-guide/mm/pagemap.rst. /proc/self/pagemap says which frame stands behind a page, to
//! whoever has CAP_SYS_ADMIN; /proc/kpageflags says which frames belong together.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

/// Bits of a pagemap entry.
const PRESENT: u64 = 1 << 63;
const FRAME: u64 = (1 << 55) - 1;
/// Bits of a kpageflags entry.
const TAIL: u64 = 1 << 16;
const HUGETLB: u64 = 1 << 17;

/// Entries read at once.
const PIECE: usize = 8192;

/// Why the host's view can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file can't be read.
    #[error("{path} can't be read: {source}")]
    Read {
        /// The file.
        path: &'static str,
        /// The operating system's reason.
        source: io::Error,
    },
    /// Frame numbers read as zero.
    #[error("this process may not see frame numbers: it takes CAP_SYS_ADMIN")]
    Hidden,
}

/// What the host maps, by the size of the folio behind it: the largest power of two of pages that belong together,
/// follow on each other, and are mapped so.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Folios {
    /// Bytes that are mapped.
    pub mapped: u64,
    /// Bytes by bytes per folio.
    pub sizes: BTreeMap<u64, u64>,
}

impl Folios {
    /// Of what this process has mapped at `ranges`, whole host pages.
    ///
    /// # Errors
    /// [`Error`].
    pub fn of(ranges: &[Range<u64>]) -> Result<Self, Error> {
        let open = |path: &'static str| File::open(path).map_err(|source| Error::Read { path, source });
        let (pagemap, flags) = (open("/proc/self/pagemap")?, open("/proc/kpageflags")?);
        let page = rustix::param::page_size() as u64;
        let mut folios = Self::default();
        let mut count = Count { page, run: None, folios: &mut folios };
        for range in ranges {
            let mut at = range.start / page;
            let end = range.end / page;
            while at < end {
                let len = ((end - at) as usize).min(PIECE);
                let entries = read(&pagemap, "/proc/self/pagemap", at, len)?;
                let mut index = 0;
                while index < entries.len() {
                    let frames = following(&entries[index..])?;
                    if frames.is_empty() {
                        count.end();
                        index += 1;
                        continue;
                    }
                    let (first, len) = (frames.start, (frames.end - frames.start) as usize);
                    let words = read(&flags, "/proc/kpageflags", first, len)?;
                    for (frame, word) in (first..).zip(words) {
                        count.page(at + index as u64, frame, word);
                        index += 1;
                    }
                }
                at += len as u64;
            }
            count.end();
        }
        Ok(folios)
    }
}

/// The frames of the leading entries that follow on each other; none where the first is not present.
fn following(entries: &[u64]) -> Result<Range<u64>, Error> {
    let mut frames = 0..0;
    for &entry in entries {
        if entry & PRESENT == 0 {
            break;
        }
        let frame = entry & FRAME;
        if frame == 0 {
            return Err(Error::Hidden);
        }
        if frames.is_empty() {
            frames = frame..frame + 1;
        } else if frame == frames.end {
            frames.end += 1;
        } else {
            break;
        }
    }
    Ok(frames)
}

fn read(file: &File, path: &'static str, first: u64, count: usize) -> Result<Vec<u64>, Error> {
    let mut bytes = vec![0; count * 8];
    file.read_exact_at(&mut bytes, first * 8).map_err(|source| Error::Read { path, source })?;
    Ok(bytes.chunks_exact(8).map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default())).collect())
}

/// Pages that belong together so far.
struct Run {
    /// The first page's number in the address space.
    page: u64,
    /// The next frame that would belong to it.
    next: u64,
    pages: u64,
}

struct Count<'a> {
    page: u64,
    run: Option<Run>,
    folios: &'a mut Folios,
}

impl Count<'_> {
    fn page(&mut self, page: u64, frame: u64, flags: u64) {
        // A huge page's tails are not always marked; its head is, and what follows on until the next head.
        let tail = flags & TAIL != 0 && flags & HUGETLB == 0 || flags & (TAIL | HUGETLB) == (TAIL | HUGETLB);
        match &mut self.run {
            Some(run) if tail && run.next == frame && run.page + run.pages == page => {
                run.pages += 1;
                run.next += 1;
            }
            _ => {
                self.end();
                self.run = Some(Run { page, next: frame + 1, pages: 1 });
            }
        }
    }

    /// Counts a run in the largest powers of two that are aligned in the address space.
    fn end(&mut self) {
        let Some(run) = self.run.take() else { return };
        let (mut at, end) = (run.page, run.page + run.pages);
        while at < end {
            let aligned = if at == 0 { u64::MAX } else { 1 << at.trailing_zeros() };
            let pages = aligned.min(1 << (end - at).ilog2());
            *self.folios.sizes.entry(pages * self.page).or_default() += pages * self.page;
            self.folios.mapped += pages * self.page;
            at += pages;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(pages: &[(u64, u64, u64)]) -> BTreeMap<u64, u64> {
        let mut folios = Folios::default();
        let mut count = Count { page: 1, run: None, folios: &mut folios };
        for &(page, frame, flags) in pages {
            count.page(page, frame, flags);
        }
        count.end();
        folios.sizes
    }

    #[test]
    fn a_folio_is_a_head_and_its_tails_where_they_are_mapped_together() {
        let whole: Vec<_> = (0..16).map(|n| (32 + n, 100 + n, if n == 0 { 0 } else { TAIL })).collect();
        assert_eq!(sizes(&whole), BTreeMap::from([(16, 16)]));
        // A part of it, from its middle on.
        assert_eq!(sizes(&whole[8..]), BTreeMap::from([(8, 8)]));
        // Two heads in a row are two folios, and a gap in the frames ends one.
        assert_eq!(sizes(&[(0, 7, 0), (1, 8, 0)]), BTreeMap::from([(1, 2)]));
        assert_eq!(sizes(&[(0, 7, 0), (1, 9, TAIL)]), BTreeMap::from([(1, 2)]));
    }

    #[test]
    fn frames_follow_on_until_a_hole() {
        let entries = [PRESENT | 5, PRESENT | 6, 0, PRESENT | 7];
        assert_eq!(following(&entries).unwrap(), 5..7);
        assert!(following(&entries[2..]).unwrap().is_empty());
        assert!(matches!(following(&[PRESENT]), Err(Error::Hidden)));
    }
}
