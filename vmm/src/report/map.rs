//! How guest memory is made up.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::Folios;
use crate::memory::ledger::{Books, Error, State, Summary};

/// Cells of the strip.
const CELLS: u64 = 256;

/// A piece of the address space, by what is in it. Bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Cell {
    /// Populated, in blocks.
    pub blocks: u64,
    /// Populated, in contiguous groups.
    pub groups: u64,
    /// Populated, in pages.
    pub pages: u64,
    /// Held by the balloon.
    pub released: u64,
    /// Zero when last looked at.
    pub vacant: u64,
    /// Not loaded yet.
    pub absent: u64,
    /// Of what is populated, dirty.
    pub dirty: u64,
}

/// How guest memory is made up, as the ledger has it after a look at the host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Map {
    /// Sums over all of it.
    pub summary: Summary,
    /// Bytes per page of the host.
    pub page: u64,
    /// The addresses that the strip shows: the regions of RAM, one after the other.
    pub ram: Vec<Range<u64>>,
    /// Bytes that a cell stands for; the last one may be shorter.
    pub cell: u64,
    /// The strip.
    pub strip: Vec<Cell>,
    /// In which sizes the host maps it.
    pub host: Option<Folios>,
    /// Why that is not known.
    pub host_unknown: Option<String>,
}

impl Map {
    /// Looks at the host, and draws up the map.
    ///
    /// # Errors
    /// [`Error`].
    pub fn draw_up(books: &mut Books) -> Result<Self, Error> {
        let ram: Vec<_> = books.ram().collect();
        books.refresh(&ram)?;
        books.fold_dirty(&ram)?;
        let summary = books.summary()?;
        let page = rustix::param::page_size() as u64;
        let cell = summary.total.div_ceil(CELLS).next_multiple_of(page).max(page);
        let mut strip = vec![Cell::default(); summary.total.div_ceil(cell) as usize];
        let mut offset = 0;
        for range in &ram {
            let at = |address: u64| address - range.start + offset;
            books.stretches(range.clone(), |stretch| {
                let (start, end) = (at(stretch.range.start), at(stretch.range.end));
                spread(&mut strip, cell, start..end, |cell, bytes| match stretch.state {
                    State::Populated { dirty, .. } => cell.dirty += if dirty { bytes } else { 0 },
                    State::Released => cell.released += bytes,
                    State::Vacant => cell.vacant += bytes,
                    State::Absent => cell.absent += bytes,
                });
            })?;
            books.leaves(range.clone(), |leaf| {
                let kind = |cell: &mut Cell, bytes| match (leaf.is_group(), leaf.bytes > page) {
                    (true, _) => cell.groups += bytes,
                    (false, true) => cell.blocks += bytes,
                    (false, false) => cell.pages += bytes,
                };
                spread(&mut strip, cell, at(leaf.ipa)..at(leaf.ipa + leaf.bytes), kind);
            })?;
            offset += range.end - range.start;
        }
        let (host, host_unknown) = match Folios::of(&books.host()) {
            Ok(folios) => (Some(folios), None),
            Err(error) => (None, Some(error.to_string())),
        };
        Ok(Self { summary, page, ram, cell, strip, host, host_unknown })
    }
}

/// Hands each cell that `range` touches to `add`, with the bytes of it that are in there.
fn spread(strip: &mut [Cell], size: u64, range: Range<u64>, mut add: impl FnMut(&mut Cell, u64)) {
    let mut at = range.start;
    while at < range.end {
        let index = at / size;
        let end = range.end.min((index + 1) * size);
        if let Some(cell) = strip.get_mut(index as usize) {
            add(cell, end - at);
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::config::MemoryConfig;
    use crate::memory::{GuestRam, Ledger};

    const BASE: u64 = 1 << 30;

    #[test]
    fn the_strip_shows_every_byte_once_and_in_its_place() {
        let config = MemoryConfig { size: 64 << 20, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        let mut books = ledger.open();
        ram.memory().write_slice(&[1; 4096], GuestAddress(BASE + (8 << 20))).unwrap();
        books.hold(BASE + (32 << 20)..BASE + (48 << 20)).unwrap();
        let map = Map::draw_up(&mut books).unwrap();
        assert_eq!(map.cell * map.strip.len() as u64, 64 << 20);
        let sum = |of: fn(&Cell) -> u64| map.strip.iter().map(of).sum::<u64>();
        let populated = sum(|cell| cell.blocks + cell.groups + cell.pages);
        assert_eq!(populated, map.summary.populated);
        assert_eq!(sum(|cell| cell.dirty), populated);
        assert_eq!(populated + sum(|cell| cell.released) + sum(|cell| cell.vacant), 64 << 20);
        let at = |offset: u64| map.strip[(offset / map.cell) as usize];
        let written = at(8 << 20);
        assert!(written.blocks + written.groups + written.pages > 0);
        assert_eq!((at(40 << 20).released, at(40 << 20).vacant), (map.cell, 0));
        assert_eq!((at(60 << 20).released, at(60 << 20).vacant), (0, map.cell));
        if let Some(folios) = &map.host {
            assert_eq!(folios.sizes.values().sum::<u64>(), folios.mapped);
            assert!(folios.mapped >= 4096 && folios.mapped <= populated);
        }
        let text = map.to_string();
        assert!(text.contains("guest memory 64M") && text.contains("released to the host"), "{text}");
    }
}
