//! Every operation against a flat map of pages, at random, over granules and kinds of tables.
//!
//! Nothing here writes like hardware: what a TLB may cache is the business of the model under `tests/`.

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use crate::testing::*;
use crate::*;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Page {
    Unmapped(Option<Marker>),
    Mapped { oa: u64, write: bool, young: bool, dirty: bool, software: u8 },
}

struct Flat<G: Granule> {
    base: u64,
    pages: Vec<Page>,
    granule: core::marker::PhantomData<G>,
}

impl<G: Granule> Flat<G> {
    fn part(&mut self, range: &Range<u64>) -> &mut [Page] {
        let index = |ipa: u64| (ipa.clamp(self.base, self.end()) - self.base) as usize / G::SIZE as usize;
        let part = index(range.start)..index(range.end);
        &mut self.pages[part]
    }

    fn end(&self) -> u64 {
        self.base + self.pages.len() as u64 * G::SIZE
    }

    /// Sums over a range as an operation would report them.
    fn harvest(&mut self, range: &Range<u64>) -> (u64, bool, bool) {
        let mut sum = (0, false, false);
        for page in self.part(range) {
            if let Page::Mapped { young, dirty, .. } = page {
                sum = (sum.0 + G::SIZE, sum.1 | *dirty, sum.2 | *young);
            }
        }
        sum
    }
}

fn check<G: Granule, F: Frames, E: Executor>(tables: &Tables<G, F, E>, flat: &mut Flat<G>) {
    let mut at = flat.base;
    let mut last: Option<Run> = None;
    for run in tables.runs(flat.base..flat.end()).unwrap() {
        assert_eq!(run.range.start, at, "runs leave no gap");
        at = run.range.end;
        if let Some(last) = last {
            let follows = match (last.content, run.content) {
                (Content::Mapped { oa: a, attributes: x }, Content::Mapped { oa: b, attributes: y }) => {
                    x == y && a + (last.range.end - last.range.start) == b
                }
                (a, b) => a == b,
            };
            assert!(!follows, "runs are maximal: {last:x?} {run:x?}");
        }
        for (index, page) in flat.part(&run.range).iter().enumerate() {
            let found = match run.content {
                Content::Unmapped => Page::Unmapped(None),
                Content::Marked(marker) => Page::Unmapped(Some(marker)),
                Content::Mapped { oa, attributes: a } => Page::Mapped {
                    oa: oa + index as u64 * G::SIZE,
                    write: a.write,
                    young: a.young,
                    dirty: a.dirty,
                    software: a.software,
                },
            };
            assert_eq!(found, *page, "page {index} of {:x?}", run.range);
        }
        last = Some(run);
    }
    assert_eq!(at, flat.end());
    assert_sound(tables, true);
}

fn storm<G: Granule, F: Frames, E: Executor>(tables: &mut Tables<G, F, E>, seed: u64, steps: u32) {
    let mut rng = Rng(seed);
    let block = G::size(Level::L2);
    let base = (1 << 36) - block;
    let pages = (3 * block / G::SIZE) as usize;
    let mut flat: Flat<G> =
        Flat { base, pages: vec![Page::Unmapped(None); pages], granule: Default::default() };
    let group = G::group_size(Level::L3);
    for step in 0..steps {
        let unit = rng.pick(&[G::SIZE, group, group, block]);
        let count = (3 * block) / unit;
        let start = base + rng.below(count) * unit;
        let most = (flat.end() - start) / unit;
        let mut range = start..start + (1 + rng.below(most.min(40))) * unit;
        if rng.below(4) == 0 && range.end < flat.end() {
            range.end += G::SIZE;
        }
        let mut gather = tables.gather();
        let operation = rng.below(16);
        match operation {
            0..=3 => {
                let existing = rng.pick(&[Existing::Keep, Existing::Refuse]);
                let oa = match rng.below(3) {
                    0 => range.start - base,
                    1 => (range.start - base) ^ group,
                    _ => range.start - base + G::SIZE,
                };
                let (write, dirty) = (rng.below(4) != 0, rng.below(3) == 0);
                let attributes = Attributes { write, dirty, software: rng.below(2) as u8, ..Attributes::RAM };
                let mapped = |page: &Page| matches!(page, Page::Mapped { .. });
                let result = tables.map(range.clone(), oa, &attributes, existing);
                let first = flat.part(&range).iter().position(mapped);
                if let (Existing::Refuse, Some(first)) = (existing, first) {
                    let ipa = range.start + first as u64 * G::SIZE;
                    assert_eq!(result, Err(Error::Mapped { ipa }));
                } else {
                    result.unwrap();
                    for (index, page) in flat.part(&range).iter_mut().enumerate() {
                        if !mapped(page) {
                            let oa = oa + index as u64 * G::SIZE;
                            *page =
                                Page::Mapped { oa, write, young: true, dirty, software: attributes.software };
                        }
                    }
                }
            }
            4..=6 => {
                let leave =
                    rng.pick(&[None, Some(Marker::Vacant), Some(Marker::Released), Some(Marker::Absent)]);
                let mut seen = range.start;
                let sum = tables
                    .get_and_clear(range.clone(), Clear { leave, full: rng.below(8) == 0 }, |leaf| {
                        assert!(leaf.ipa >= seen && leaf.range().end <= range.end);
                        let (bytes, dirty, young) = flat.harvest(&leaf.range());
                        assert_eq!((leaf.bytes, leaf.dirty(), leaf.young()), (bytes, dirty, young));
                        seen = leaf.range().end;
                    })
                    .unwrap();
                assert_eq!((sum.bytes, sum.dirty, sum.young), flat.harvest(&range));
                flat.part(&range).fill(Page::Unmapped(leave));
            }
            7 => {
                let change = |marker| match marker {
                    Some(Marker::Released) => Some(Marker::Vacant),
                    None => Some(Marker::Absent),
                    other => other,
                };
                let mut bytes = 0;
                for page in flat.part(&range) {
                    if let Page::Unmapped(marker) = page
                        && change(*marker) != *marker
                    {
                        *marker = change(*marker);
                        bytes += G::SIZE;
                    }
                }
                assert_eq!(tables.remark(range.clone(), change), Ok(bytes));
            }
            8 => {
                tables.write_protect(range.clone(), |_| {}).unwrap();
                for page in flat.part(&range) {
                    if let Page::Mapped { write, .. } = page {
                        *write = false;
                    }
                }
            }
            9 => {
                let write = rng.below(3) != 0;
                let protection = Protection { write: Some(write), ..Protection::default() };
                tables.protect(range.clone(), protection).unwrap();
                for page in flat.part(&range) {
                    if let Page::Mapped { write: now, .. } = page {
                        *now = write;
                    }
                }
            }
            10 => {
                let marks = Marks { young: rng.below(2) == 0, dirty: rng.below(2) == 0 };
                let mut bytes = 0;
                for page in flat.part(&range) {
                    if let Page::Mapped { young, dirty, .. } = page {
                        if marks.young && !*young || marks.dirty && !*dirty {
                            bytes += G::SIZE;
                        }
                        *young |= marks.young;
                        *dirty |= marks.dirty;
                    }
                }
                assert_eq!(tables.mark(range.clone(), marks), Ok(bytes));
            }
            11 => {
                let mut seen = Vec::new();
                tables.collect_dirty(range.clone(), &mut gather, |leaf| seen.push(leaf)).unwrap();
                for leaf in seen {
                    for page in flat.part(&leaf.range()) {
                        let Page::Mapped { dirty, .. } = page else { panic!("{leaf:x?} is not mapped") };
                        assert!(*dirty);
                        *dirty = false;
                    }
                }
                assert!(!flat.harvest(&range).1);
            }
            12 => {
                let mut seen = Vec::new();
                tables.age(range.clone(), &mut gather, |leaf| seen.push(leaf)).unwrap();
                for leaf in seen {
                    for page in flat.part(&leaf.range()) {
                        let Page::Mapped { young, .. } = page else { panic!("{leaf:x?} is not mapped") };
                        assert!(*young);
                        *young = false;
                    }
                }
                assert!(!flat.harvest(&range).2);
            }
            13 => {
                let access = rng.pick(&[Access::Read, Access::Write]);
                let page = flat.part(&range)[0];
                let result = tables.set_access_flags(range.start, access, &mut gather);
                match page {
                    Page::Unmapped(marker) => {
                        assert!(matches!(result, Err(Unresolved::Unmapped { marker: m, .. }) if m == marker));
                    }
                    Page::Mapped { write: false, .. } if access == Access::Write => {
                        assert!(matches!(result, Err(Unresolved::Denied { .. })));
                    }
                    Page::Mapped { .. } => {
                        result.unwrap();
                        let Ok(Lookup::Leaf(leaf)) = tables.lookup(range.start) else { panic!() };
                        for page in flat.part(&leaf.range()) {
                            if let Page::Mapped { young, dirty, .. } = page {
                                *young = true;
                                *dirty |= access == Access::Write;
                            }
                        }
                    }
                }
            }
            14 => match rng.below(2) {
                0 => tables.unfold(range.clone()).unwrap(),
                _ => tables.split(range.clone(), Level::L3).unwrap(),
            },
            _ => {
                tables.optimise(range.clone(), Merge::Uniform, |_| {}).unwrap();
            }
        }
        tables.invalidate(&mut gather);
        if rng.below(3) == 0 {
            tables.flush();
        }
        if step % 8 == 0 || operation == 15 {
            check(tables, &mut flat);
        }
    }
    let whole = base..flat.end();
    let expected = flat.harvest(&whole);
    let sum = tables.tear_down(|_| {});
    assert_eq!((sum.bytes, sum.dirty, sum.young), expected);
    tables.flush();
    assert_eq!(tables.frame_bytes(), tables.config().root_size(), "only the start level is left");
}

#[test]
fn ledgers_agree_with_a_flat_map() {
    for seed in 1..6 {
        storm(&mut ledger::<G4K>(40), seed, 400);
        storm(&mut ledger::<G16K>(40), seed, 120);
        storm(&mut ledger::<G64K>(40), seed, 60);
    }
}

#[test]
fn live_tables_agree_with_a_flat_map_at_every_bbm_level() {
    for (seed, bbm) in
        [BbmLevel::Level0, BbmLevel::Level1, BbmLevel::Level2, BbmLevel::Level3].into_iter().enumerate()
    {
        storm(&mut live::<G4K>(48, bbm), 77 + seed as u64, 400);
        storm(&mut live::<G16K>(52, bbm), 78 + seed as u64, 120);
        storm(&mut live::<G64K>(52, bbm), 79 + seed as u64, 60);
    }
}
