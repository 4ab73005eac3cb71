//! The whole ledger held against the host.

use std::ops::Range;

use serde::{Deserialize, Serialize};
use vm_memory::{Bytes, GuestAddress};

use super::{Books, Error, State};

/// Bytes looked at together.
const PIECE: usize = 64 << 10;

/// What came out. Bytes.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Check {
    /// All of RAM.
    pub total: u64,
    /// What the host holds for it.
    pub present: u64,
    /// What the ledger says is populated.
    pub populated: u64,
    /// Softly vacant, and filled since it was looked at: no contradiction, the guest need not say.
    pub filled: u64,
    /// Hard `Released`, and present but zero: the guest has read it.
    pub read: u64,
    /// Hard `Released`, and not zero: the driver broke its promise, or something is lost.
    pub broken: Vec<Range<u64>>,
    /// Populated by the ledger, and nothing there: something is lost.
    pub lost: Vec<Range<u64>>,
}

impl Check {
    /// Whether the ledger and the host agree.
    pub fn holds(&self) -> bool {
        self.broken.is_empty() && self.lost.is_empty()
    }
}

impl Books {
    /// Holds the whole ledger against the host's own view. While the guest runs it may fill and read what it likes, so
    /// only what has no innocent explanation is `broken` or `lost`.
    ///
    /// # Errors
    /// [`Error`] where the host can't say or memory can't be read.
    pub fn check(&mut self) -> Result<Check, Error> {
        let mut check = Check::default();
        let ram: Vec<_> = self.ram().collect();
        for range in ram {
            check.total += range.end - range.start;
            // The ledger is open, so nothing is released or populated by us between the two looks.
            let mut present = Vec::new();
            self.presence().scan(range.clone(), &mut |part| present.push(part))?;
            check.present += present.iter().map(|part| part.end - part.start).sum::<u64>();
            let mut stretches = Vec::new();
            self.stretches(range, |stretch| stretches.push(stretch))?;
            for stretch in stretches {
                let inside: Vec<_> = overlaps(&present, &stretch.range).collect();
                let bytes = inside.iter().map(|part| part.end - part.start).sum::<u64>();
                match stretch.state {
                    State::Populated { .. } => {
                        check.populated += stretch.range.end - stretch.range.start;
                        gaps(&inside, &stretch.range, |gap| check.lost.push(gap));
                    }
                    State::Vacant => check.filled += bytes,
                    State::Released => {
                        for part in inside {
                            self.released(part, &mut check)?;
                        }
                    }
                    State::Absent => {}
                }
            }
        }
        Ok(check)
    }

    /// Looks into a released stretch that is present.
    fn released(&self, part: Range<u64>, check: &mut Check) -> Result<(), Error> {
        let mut bytes = vec![0; PIECE];
        let mut at = part.start;
        while at < part.end {
            let piece = &mut bytes[..(part.end - at).min(PIECE as u64) as usize];
            self.memory().read_slice(piece, GuestAddress(at))?;
            let len = piece.len() as u64;
            if piece.iter().all(|&byte| byte == 0) {
                check.read += len;
            } else {
                check.broken.push(at..at + len);
            }
            at += len;
        }
        Ok(())
    }
}

/// The parts of `sorted` inside `range`.
fn overlaps<'a>(sorted: &'a [Range<u64>], range: &'a Range<u64>) -> impl Iterator<Item = Range<u64>> + 'a {
    let first = sorted.partition_point(|part| part.end <= range.start);
    sorted[first..]
        .iter()
        .take_while(|part| part.start < range.end)
        .map(|part| part.start.max(range.start)..part.end.min(range.end))
}

/// What of `range` is in none of `parts`, which are sorted and inside it.
fn gaps(parts: &[Range<u64>], range: &Range<u64>, mut visit: impl FnMut(Range<u64>)) {
    let mut at = range.start;
    for part in parts {
        if at < part.start {
            visit(at..part.start);
        }
        at = part.end;
    }
    if at < range.end {
        visit(at..range.end);
    }
}
