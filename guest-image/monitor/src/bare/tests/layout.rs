//! Where the tests put their leaves: one kind of leaf, at an IPA and an OA that allow it, over the arena.

use core::ops::Range;

use stage2::{Config, Granule, Level};

use crate::bare::bed::bed;
use crate::bare::payload;

/// A kind of leaf.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Kind {
    /// Its level.
    pub(super) level: Level,
    /// Whether it is a contiguous group.
    pub(super) group: bool,
}

impl Kind {
    /// Pages, one by one.
    pub(super) const PAGE: Self = Self { level: Level::L3, group: false };
    /// A group of pages.
    pub(super) const GROUP: Self = Self { level: Level::L3, group: true };
    /// A block of the level above pages.
    pub(super) const BLOCK: Self = Self { level: Level::L2, group: false };

    /// Bytes of one.
    pub(super) fn size<G: Granule>(self) -> u64 {
        if self.group { G::group_size(self.level) } else { G::size(self.level) }
    }

    /// What it is called.
    pub(super) fn name(self) -> &'static str {
        match (self.level.number(), self.group) {
            (3, false) => "pages",
            (3, true) => "groups of pages",
            (2, false) => "L2 blocks",
            (2, true) => "groups of L2 blocks",
            (1, false) => "L1 blocks",
            (1, true) => "groups of L1 blocks",
            _ => "L0 blocks",
        }
    }

    /// Every kind that a configuration can have.
    pub(super) fn all<G: Granule>(config: &Config<G>) -> impl Iterator<Item = Self> {
        let (top, config) = (config.largest_leaf(), *config);
        let levels = (top.number()..=3).rev().filter_map(Level::new);
        levels.flat_map(move |level| {
            let groups = config.group(level) > 1;
            [Self { level, group: false }, Self { level, group: true }]
                .into_iter()
                .take(1 + usize::from(groups))
        })
    }
}

/// One leaf, or some in a row: where it stands and what of it is memory that may be touched.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Where it is mapped.
    pub(super) ipa: u64,
    /// To where.
    pub(super) oa: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// What of it is arena, as offsets.
    pub(super) arena: Range<u64>,
}

impl Place {
    /// A place for up to `count` leaves of a kind; as many as the arena holds, and one at least. `None` where
    /// even one would reach beyond the input or output address space.
    pub(super) fn find<G: Granule>(config: &Config<G>, kind: Kind, count: u64) -> Option<Self> {
        let (size, arena) = (kind.size::<G>(), bed().arena);
        let bytes = size * count.min(arena.size() / size).max(1);
        let oa = arena.start & !(size - 1);
        // Not at 0, where a wrong address would be found most easily; and not over the payload's home, whose
        // block or group of any size below 4 GiB must stay apart.
        let mut ipa = size.max(1 << 29);
        if ipa < 1 << 32 && ipa + bytes > payload::HOME & !(size - 1) {
            ipa = size.max(1 << 32);
        }
        let fits = ipa + bytes <= config.ipa_size() && oa + bytes <= 1 << config.oa_bits();
        let first = arena.start - oa;
        fits.then(|| Self { ipa, oa, bytes, arena: first..bytes.min(first + arena.size()) })
    }

    /// The addresses that it maps.
    pub(super) const fn range(&self) -> Range<u64> {
        self.ipa..self.ipa + self.bytes
    }

    /// Where offset `at` into the arena's part is for the payload.
    pub(super) const fn ipa_at(&self, at: u64) -> u64 {
        self.ipa + self.arena.start + at
    }

    /// And where for EL2.
    pub(super) const fn oa_at(&self, at: u64) -> u64 {
        self.oa + self.arena.start + at
    }

    /// Bytes of the arena's part.
    pub(super) const fn touchable(&self) -> u64 {
        self.arena.end - self.arena.start
    }
}
