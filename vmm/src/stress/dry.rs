//! A storm without a guest: this thread writes and checks the pages, and asks the release itself. It needs no KVM.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::audit::audit;
use super::canary::Canaries;
use super::dice::Dice;
use crate::config::{Backing, BlockSize, MemoryConfig};
use crate::lock::lock;
use crate::memory::release::{Contract, Observer, Options, Release, Released};
use crate::memory::{GuestRam, Ledger};

const BASE: u64 = 0x4000_0000;
const PAGE: u64 = 4096;
/// Pages of a group, as they are picked.
const GROUP: u64 = 16;
/// Steps between two audits.
const AUDIT: u64 = 8;

/// What a page holds: the stamp of a generation, or zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Zero,
    Stamp(u64),
}

#[derive(Clone, Copy, Debug)]
struct Page {
    content: Content,
    held: bool,
    /// Written since the storm began, or since it was released: must be told as dirty.
    dirty: bool,
}

/// What the release told, and who has to know.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<Range<u64>>>>);

impl Observer for Told {
    fn released(&mut self, released: &Released<'_>) {
        let clean = released.leaves.iter().filter(|leaf| !leaf.dirty);
        lock(&self.0).extend(clean.map(|leaf| leaf.range.clone()));
    }
}

/// A storm without a guest.
pub(super) struct Dry {
    ram: GuestRam,
    ledger: Ledger,
    release: Release,
    canaries: [Canaries; 1],
    told: Told,
    contract: Contract,
    pages: Vec<Page>,
    /// Bytes of what is cleared at once when it is put in whole.
    unit: u64,
    generation: u64,
}

impl Dry {
    /// `pages` pages in `backing`, gathered into blocks of 64 KiB.
    pub(super) fn new(backing: Backing, contract: Contract, pages: u64) -> Self {
        let size = pages * PAGE;
        let config = MemoryConfig { size, backing, block: BlockSize::Size4K, ..MemoryConfig::default() };
        let ram = GuestRam::allocate(&config, GuestAddress(BASE)).unwrap();
        let ledger = Ledger::new(&ram).unwrap();
        let options = Options { block: Some(64 << 10), ..Options::default() };
        let release = Release::new(&ram, ledger.clone(), options);
        let told = Told::default();
        release.observe(Box::new(told.clone()));
        let region = ledger.open().host().remove(0);
        let canaries = [Canaries::place(region).unwrap()];
        let page = Page { content: Content::Zero, held: false, dirty: false };
        let unit = release.unit();
        let pages = vec![page; pages as usize];
        Self { ram, ledger, release, canaries, told, contract, pages, unit, generation: 0 }
    }

    /// Storms; returns what was wrong first, with its step.
    pub(super) fn storm(&mut self, seed: u64, steps: u64) -> Result<(), String> {
        for step in 0..steps {
            let mut dice = Dice::new(seed ^ step.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            self.step(&mut dice).map_err(|what| format!("step {step}: {what}"))?;
            self.check_all().map_err(|what| format!("step {step}: {what}"))?;
            if step % AUDIT == 0 {
                self.audit().map_err(|what| format!("step {step}: {what}"))?;
            }
        }
        Ok(())
    }

    fn step(&mut self, dice: &mut Dice) -> Result<(), String> {
        let act = dice.weighted(&[(6, 'i'), (5, 'd'), (4, 'w'), (3, 'r'), (2, 's')]);
        let pick = self.pick(dice);
        let failed = |error: crate::memory::release::Error| error.to_string();
        match act {
            Some('i') => {
                let pages: Vec<u64> = pick.into_iter().filter(|&page| !self.page(page).held).collect();
                self.release.inflate(&ranges(&pages), self.contract).map_err(failed)?;
                if self.contract == Contract::MustTell {
                    self.release.work().map_err(failed)?;
                }
                for &page in &pages {
                    self.page(page).held = true;
                    if self.contract == Contract::Free {
                        self.settle_content(page)?;
                    }
                }
                if self.contract == Contract::Free {
                    self.check_cleared(&pages)?;
                }
            }
            Some('d') => {
                let pages: Vec<u64> = pick.into_iter().filter(|&page| self.page(page).held).collect();
                let early = self.contract == Contract::Free && dice.below(2) == 0;
                if early {
                    self.write(&pages);
                }
                self.release.deflate(&ranges(&pages)).map_err(failed)?;
                for &page in &pages {
                    self.page(page).held = false;
                    if !early {
                        self.settle_content(page)?;
                    }
                }
            }
            Some('w') => {
                let pages: Vec<u64> = pick.into_iter().filter(|&page| !self.page(page).held).collect();
                self.write(&pages);
            }
            Some('r') => {
                let pages: Vec<u64> = pick.into_iter().filter(|&page| !self.page(page).held).collect();
                let cleared = self.release.report(&ranges(&pages)).map_err(failed)?;
                let mut zero = 0;
                for &page in &pages {
                    self.settle_content(page)?;
                    zero += if self.page(page).content == Content::Zero { PAGE } else { 0 };
                }
                if cleared > zero {
                    return Err(format!("{cleared} bytes reported as cleared, {zero} are"));
                }
            }
            _ => self.release.settle().map_err(failed)?,
        }
        self.check_told()
    }

    /// Pages, by index: single ones, groups without one, whole groups.
    fn pick(&mut self, dice: &mut Dice) -> Vec<u64> {
        let all = self.pages.len() as u64;
        let shape = dice.below(3);
        let mut pages: Vec<u64> = (0..=dice.below(6))
            .flat_map(|_| {
                let first = dice.below(all / GROUP) * GROUP;
                let hole = first + dice.below(GROUP);
                let group = first..first + GROUP;
                group.filter(move |&page| match shape {
                    0 => page == hole,
                    1 => page != hole,
                    _ => true,
                })
            })
            .collect();
        pages.sort_unstable();
        pages.dedup();
        pages
    }

    fn page(&mut self, page: u64) -> &mut Page {
        &mut self.pages[page as usize]
    }

    fn write(&mut self, pages: &[u64]) {
        self.generation += 1;
        for &page in pages {
            let word = stamp(page, self.generation);
            let bytes: Vec<u8> = word.to_le_bytes().repeat(PAGE as usize / 8);
            self.ram.memory().write_slice(&bytes, GuestAddress(BASE + page * PAGE)).unwrap();
            let generation = self.generation;
            let page = self.page(page);
            (page.content, page.dirty) = (Content::Stamp(generation), true);
        }
    }

    /// What a page that may have been cleared holds: what it held, or zeros.
    fn settle_content(&mut self, page: u64) -> Result<(), String> {
        let old = self.page(page).content;
        if self.holds(page, Content::Zero) {
            self.page(page).content = Content::Zero;
            self.page(page).dirty = false;
            Ok(())
        } else if self.holds(page, old) {
            Ok(())
        } else {
            Err(format!("page {page} holds neither {old:?} nor zeros"))
        }
    }

    fn holds(&self, page: u64, content: Content) -> bool {
        let word = match content {
            Content::Zero => 0,
            Content::Stamp(generation) => stamp(page, generation),
        };
        let mut bytes = [0; PAGE as usize];
        self.ram.memory().read_slice(&mut bytes, GuestAddress(BASE + page * PAGE)).unwrap();
        bytes.chunks_exact(8).all(|chunk| chunk == word.to_le_bytes())
    }

    /// Whole units that were put in at once are cleared.
    fn check_cleared(&mut self, pages: &[u64]) -> Result<(), String> {
        let per_unit = self.unit / PAGE;
        for range in ranges(pages) {
            let (start, end) = ((range.start - BASE).div_ceil(self.unit), (range.end - BASE) / self.unit);
            for page in start * per_unit..end * per_unit {
                if self.page(page).content != Content::Zero {
                    return Err(format!("page {page} was put in with its unit, and is not cleared"));
                }
            }
        }
        Ok(())
    }

    /// Every page that the guest has, and without MUST_TELL_HOST every other one, holds what it has to.
    fn check_all(&mut self) -> Result<(), String> {
        for page in 0..self.pages.len() as u64 {
            let Page { content, held, .. } = *self.page(page);
            let known = !held || self.contract == Contract::Free;
            // Reading zeros of shared memory would populate them.
            if known && content != Content::Zero && !self.holds(page, content) {
                return Err(format!("page {page} does not hold {content:?}"));
            }
        }
        Ok(())
    }

    /// What was written was told as dirty.
    fn check_told(&mut self) -> Result<(), String> {
        let clean = std::mem::take(&mut *lock(&self.told.0));
        match clean.first() {
            // Nothing collects dirty pages here, so none is clean.
            Some(range) => Err(format!("{:#x} was released as clean", range.start)),
            None => Ok(()),
        }
    }

    fn audit(&self) -> Result<(), String> {
        let audit = audit(&self.ledger, &self.canaries, 0).map_err(|error| error.to_string())?;
        audit.findings.first().map_or(Ok(()), |finding| Err(finding.clone()))
    }
}

/// What every word of a page holds.
fn stamp(page: u64, generation: u64) -> u64 {
    (page + 1) << 32 | generation
}

/// Pages in ascending order as ranges of addresses.
fn ranges(pages: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for &page in pages {
        let start = BASE + page * PAGE;
        match ranges.last_mut() {
            Some(last) if last.end == start => last.end += PAGE,
            _ => ranges.push(start..start + PAGE),
        }
    }
    ranges
}
