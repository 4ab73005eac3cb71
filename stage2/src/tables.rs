//! Tables: one translation, from its start level down, and what every operation on it stands on.
//!
//! # Ownership
//!
//! [`Tables`] own their frames, the invalidations that structural operations still owe
//! ([`pending`](Tables::pending)), and the frames unlinked meanwhile. A frame goes back to the allocator in
//! [`flush`](Tables::flush), after the invalidation was executed and never before: a walker may hold a
//! pointer to it until then.
//!
//! Structural operations take `&mut self`. Fault-side ones take `&self`, never unlink anything, and put
//! what they owe into a [`Gather`] of the caller's.
//!
//! # Exhaustion
//!
//! A structural operation first counts the frames that it needs and reserves them all; then nothing can fail
//! any more. If it can't have them, it has changed nothing.

use core::ops::Range;

use crate::atomic::Entry;
use crate::config::Config;
use crate::error::Error;
use crate::frames::{Chain, Frames};
use crate::gather::{Gather, Sequence};
use crate::geometry::{Granule, Level, aligned};
use crate::tlbi::Executor;
use crate::walk::Walker;

/// The stage-2 translation of one VM: granule `G`, frames from `F`, invalidations by `E`.
#[derive(Debug)]
pub struct Tables<G: Granule, F: Frames, E: Executor> {
    pub(crate) config: Config<G>,
    pub(crate) frames: F,
    pub(crate) mmu: E,
    pub(crate) root: u64,
    pub(crate) pending: Gather,
    /// Unlinked, not yet freed: their invalidation is owed.
    dead: Chain,
    /// Allocated for the operation under way.
    reserve: Chain,
    /// Frames that are part of the tables, without the start level.
    linked: u64,
}

/// What an operation works with: the parts of [`Tables`], borrowed apart, so that slices of entries can
/// stay borrowed while frames are linked and unlinked.
pub(crate) struct Work<'a, G: Granule, F: Frames, E: Executor> {
    pub(crate) config: &'a Config<G>,
    pub(crate) frames: &'a F,
    pub(crate) root: u64,
    pub(crate) mmu: &'a E,
    pub(crate) pending: &'a mut Gather,
    dead: &'a mut Chain,
    reserve: &'a mut Chain,
    linked: &'a mut u64,
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Empty tables: a zeroed start level. Nothing is executed: before `VTTBR_EL2` may point to it, the zeroes
    /// must be visible to the walkers, by the barrier of the first [`map`](Self::map) or by one of the caller's.
    ///
    /// # Errors
    /// [`Error::Frames`] and [`Error::BadFrame`].
    pub fn new(config: Config<G>, mut frames: F, mmu: E) -> Result<Self, Error> {
        let root = allocate(&config, &mut frames, config.root_size())?;
        let pending = Gather::new(&config);
        Ok(Self {
            config,
            frames,
            mmu,
            root,
            pending,
            dead: Chain::default(),
            reserve: Chain::default(),
            linked: 0,
        })
    }

    /// The configuration.
    pub const fn config(&self) -> &Config<G> {
        &self.config
    }

    /// Physical address of the start level: what [`Config::vttbr`] takes.
    pub const fn root(&self) -> u64 {
        self.root
    }

    /// Where the frames come from.
    pub const fn frames(&self) -> &F {
        &self.frames
    }

    /// The executor.
    pub const fn executor(&self) -> &E {
        &self.mmu
    }

    /// Bytes of frames that the tables hold: start level, tables, and unlinked frames not yet freed.
    pub fn frame_bytes(&self) -> u64 {
        self.config.root_size() + (self.linked + self.dead.len()) * G::SIZE
    }

    /// The whole input address space.
    pub const fn whole(&self) -> Range<u64> {
        0..self.config.ipa_size()
    }

    /// What structural operations still owe. Until [`flush`](Self::flush) a translation that is gone from the
    /// tables may still be used by hardware, in the ranges that this names.
    pub const fn pending(&self) -> &Gather {
        &self.pending
    }

    /// An empty gather for the operations that take `&self`.
    pub fn gather(&self) -> Gather {
        Gather::new(&self.config)
    }

    /// Executes what a gather owes, and empties it.
    pub fn invalidate(&self, gather: &mut Gather) {
        if E::LIVE && !gather.is_empty() {
            self.mmu.execute(gather.sequence());
        }
        gather.clear();
    }

    /// Executes what structural operations owe, then frees the frames that they unlinked. Does nothing, and
    /// issues nothing, where nothing is owed.
    pub fn flush(&mut self) {
        if E::LIVE && !self.pending.is_empty() {
            self.mmu.execute(self.pending.sequence());
        }
        self.pending.clear();
        while let Some(frame) = self.dead.pop(&self.frames) {
            self.frames.free(frame, G::SIZE);
        }
    }

    /// What a walk needs.
    #[inline]
    pub(crate) fn walker(&self) -> Walker<'_, G, F> {
        Walker { config: &self.config, frames: &self.frames, root: self.root }
    }

    /// What a walk needs, and apart from it the gather of structural operations.
    #[inline]
    pub(crate) fn walker_and_pending(&mut self) -> (Walker<'_, G, F>, &mut Gather) {
        (Walker { config: &self.config, frames: &self.frames, root: self.root }, &mut self.pending)
    }

    /// Refuses a range that is empty, misaligned or outside the input address space.
    pub(crate) fn check(&self, range: &Range<u64>) -> Result<(), Error> {
        if range.start >= range.end || range.end > self.config.ipa_size() {
            let ipa_size = self.config.ipa_size();
            return Err(Error::Range { start: range.start, end: range.end, ipa_size });
        }
        for address in [range.start, range.end] {
            if !aligned(address, G::SIZE) {
                return Err(Error::Misaligned { address, granule: G::SIZE });
            }
        }
        Ok(())
    }

    /// Allocates the frames that an operation needs, all or none.
    pub(crate) fn reserve(&mut self, needed: u64) -> Result<(), Error> {
        while self.reserve.len() < needed {
            match allocate(&self.config, &mut self.frames, G::SIZE) {
                Ok(frame) => self.reserve.push(&self.frames, frame),
                Err(error) => {
                    self.release_reserve();
                    return Err(match error {
                        Error::Frames { .. } => Error::Frames { needed },
                        other => other,
                    });
                }
            }
        }
        Ok(())
    }

    fn release_reserve(&mut self) {
        while let Some(frame) = self.reserve.pop(&self.frames) {
            self.frames.free(frame, G::SIZE);
        }
    }

    /// The parts, borrowed apart.
    pub(crate) fn work(&mut self) -> Work<'_, G, F, E> {
        Work {
            config: &self.config,
            frames: &self.frames,
            root: self.root,
            mmu: &self.mmu,
            pending: &mut self.pending,
            dead: &mut self.dead,
            reserve: &mut self.reserve,
            linked: &mut self.linked,
        }
    }

    /// Ends an operation: what was reserved and not needed goes back, and so does what was unlinked where
    /// no walker can hold a pointer to it any more, because none walks or because nothing is owed.
    pub(crate) fn finish(&mut self) {
        self.release_reserve();
        if !E::LIVE || self.pending.is_empty() {
            self.flush();
        }
    }
}

impl<'a, G: Granule, F: Frames, E: Executor> Work<'a, G, F, E> {
    /// The start level's entries.
    #[inline]
    pub(crate) fn root_table(&self) -> &'a [Entry] {
        self.frames.table(self.root, self.config.root_entries())
    }

    /// The table below a table descriptor.
    #[inline]
    pub(crate) fn child(&self, word: u64) -> (&'a [Entry], u64) {
        let frame = self.config.format.table(word);
        (self.frames.table(frame, G::ENTRIES), frame)
    }

    /// A zeroed frame from the reserve, and its entries. The count made before the operation covers it.
    pub(crate) fn new_table(&mut self) -> (&'a [Entry], u64) {
        let frame = self.reserve.pop(self.frames).expect("the frames needed were counted and reserved");
        *self.linked += 1;
        (self.frames.table(frame, G::ENTRIES), frame)
    }

    /// The descriptor that points to a table.
    #[inline]
    pub(crate) fn table_word(&self, frame: u64) -> u64 {
        use crate::descriptor::{TYPE, VALID};
        self.config.format.encode(frame) | VALID | TYPE
    }

    /// Takes over a frame that has just been unlinked. All its entries must be invalid: a walker may
    /// still look at it until the invalidation, which the caller adds to `pending`.
    pub(crate) fn bury(&mut self, frame: u64) {
        self.dead.push(self.frames, frame);
        *self.linked -= 1;
    }

    /// Owes leaves of one level.
    #[inline]
    pub(crate) fn owe_leaves(&mut self, range: Range<u64>, level: Level) {
        if E::LIVE {
            self.pending.add_leaves::<G>(range, level);
        }
    }

    /// Owes a range whose table was unlinked.
    #[inline]
    pub(crate) fn owe_tables(&mut self, range: Range<u64>) {
        if E::LIVE {
            self.pending.add_tables::<G>(range);
        }
    }

    /// Executes everything owed, now: the step between break and make.
    pub(crate) fn invalidate_now(&mut self) {
        if E::LIVE && !self.pending.is_empty() {
            self.mmu.execute(self.pending.sequence());
            self.pending.clear();
        }
    }

    /// Makes new descriptors visible to the walkers.
    pub(crate) fn publish(&self) {
        if E::LIVE {
            self.mmu.execute(Sequence::publish());
        }
    }
}

impl<G: Granule, F: Frames, E: Executor> Drop for Tables<G, F, E> {
    /// Gives every frame back, after one invalidation of the VMID where anything may be cached. The owner
    /// has made sure that no `VTTBR_EL2` points here any more.
    fn drop(&mut self) {
        self.tear_down(|_| {});
        self.flush();
        self.frames.free(self.root, self.config.root_size());
    }
}

fn allocate<G: Granule, F: Frames>(config: &Config<G>, frames: &mut F, size: u64) -> Result<u64, Error> {
    let frame = frames.allocate(size).ok_or(Error::Frames { needed: 1 })?;
    // A walker that meets a table beyond the output size takes an address size fault.
    if frame >> config.oa_bits != 0 || !aligned(frame, size) {
        frames.free(frame, size);
        return Err(Error::BadFrame { frame });
    }
    Ok(frame)
}
