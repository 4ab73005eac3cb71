//! Protection: permissions, and marks that software sets itself.
//!
//! None of this changes a translation's size or address, so it is done in place, by compare-and-exchange
//! against hardware that sets AF and dirty meanwhile. What straddles an end of the range is cut first, but only
//! where it is going to change: a leaf that already says what is asked stays as large as it is.

use core::ops::Range;

use crate::atomic::Relaxed;
use crate::attributes::AttributesError;
use crate::attributes::Execute;
use crate::clear::Harvest;
use crate::convert::update;
use crate::descriptor::{AF, DBM, DIRTY, Descriptor, S2AP_R, S2AP_W, SW_DIRTY, XN_SHIFT, is_leaf};
use crate::error::Error;
use crate::frames::Frames;
use crate::geometry::Granule;
use crate::tables::Tables;
use crate::tlbi::Executor;
use crate::walk::Leaf;

/// Permissions to change; what is `None` stays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Protection {
    /// May be read.
    pub read: Option<bool>,
    /// May be written. Granting it makes nothing dirty; taking it away keeps dirty.
    pub write: Option<bool>,
    /// Who may execute.
    pub execute: Option<Execute>,
}

/// Marks to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Set the access flag.
    pub young: bool,
    /// Set dirty.
    pub dirty: bool,
}

/// Takes write permission from a leaf's word. Dirty moves to the software bit.
#[inline]
const fn without_write(word: u64) -> u64 {
    let dirty = if word & DIRTY != 0 { SW_DIRTY } else { 0 };
    word & !(DBM | S2AP_W) | dirty
}

impl<G: Granule, F: Frames, E: Executor> Tables<G, F, E> {
    /// Changes permissions of every leaf in `range`.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`], [`Error::Attributes`]; [`Error::Frames`] where cutting needs
    /// frames and there are none.
    pub fn protect(&mut self, range: Range<u64>, protection: Protection) -> Result<(), Error> {
        let xn: Option<u64> = match protection.execute {
            None => None,
            Some(Execute::Any) => Some(0b00),
            Some(Execute::None) => Some(0b10),
            Some(other) if !self.config.encoding.xnx => {
                return Err(AttributesError::NeedsXnx(other).into());
            }
            Some(Execute::El0) => Some(0b01),
            Some(Execute::El1) => Some(0b11),
        };
        self.change(
            range,
            |mut word| {
                match protection.read {
                    Some(true) => word |= S2AP_R,
                    Some(false) => word &= !S2AP_R,
                    None => {}
                }
                match protection.write {
                    // A leaf that kept its dirty bit in software keeps it there: it isn't dirtied by this.
                    Some(true) => word |= DBM,
                    Some(false) => word = without_write(word),
                    None => {}
                }
                if let Some(xn) = xn {
                    word = word & !(0b11 << XN_SHIFT) | xn << XN_SHIFT;
                }
                word
            },
            |_, _| {},
        )
    }

    /// Takes write permission from every leaf in `range`: clears DBM *and* S2AP\[1\], so that neither software
    /// nor hardware can make it writable. Dirty moves to the software bit and stays there until it is
    /// collected or the leaf is cleared. Whole groups stay folded.
    ///
    /// `visit` sees each leaf that was writable as it was before, the sum is returned.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`]; [`Error::Frames`] where cutting needs frames and there are
    /// none.
    pub fn write_protect(
        &mut self,
        range: Range<u64>,
        mut visit: impl FnMut(Leaf),
    ) -> Result<Harvest, Error> {
        let mut harvest = Harvest::default();
        self.change(range, without_write, |leaf, entries| {
            harvest.add(entries, leaf.bytes, leaf.descriptor.bits());
            visit(leaf);
        })?;
        Ok(harvest)
    }

    /// Sets marks on every leaf in `range`, exactly there. Returns the bytes of leaves that changed. Dirty is
    /// S2AP\[1\] on a writable leaf, the software bit on another.
    ///
    /// # Errors
    /// [`Error::Range`], [`Error::Misaligned`]; [`Error::Frames`] where cutting needs frames and there are
    /// none.
    pub fn mark(&mut self, range: Range<u64>, marks: Marks) -> Result<u64, Error> {
        let mut bytes = 0;
        self.change(
            range,
            |mut word| {
                if marks.young {
                    word |= AF;
                }
                if marks.dirty && !Descriptor::new(word).dirty() {
                    word |= if word & DBM != 0 { S2AP_W } else { SW_DIRTY };
                }
                word
            },
            |leaf, _| bytes += leaf.bytes,
        )?;
        Ok(bytes)
    }

    /// Changes the words of all leaves in `range`. `visit` sees each leaf that changed as it was before, and
    /// its number of descriptors. `new` must not depend on anything but the word, and applying it twice must
    /// be the same as once.
    fn change(
        &mut self,
        range: Range<u64>,
        new: impl Fn(u64) -> u64,
        mut visit: impl FnMut(Leaf, u64),
    ) -> Result<(), Error> {
        self.check(&range)?;
        self.cut_ends(&range, 0, |word, level| is_leaf(word, level) && new(word) != word)?;
        let (walker, pending) = self.walker_and_pending();
        let config = walker.config;
        walker.walk(&range, |slot| {
            // Whether anything changes is decided on every raw entry: a group's members may differ in what
            // hardware wrote, and the one that matters may be any of them.
            if slot.entries.iter().all(|entry| {
                let word = entry.load(Relaxed);
                new(word) == word
            }) {
                return;
            }
            let mut gathered = slot.gathered();
            let mut dirty = 0;
            for entry in slot.entries {
                let old = update(entry, slot.level, &new);
                gathered |= old & (DIRTY | AF);
                dirty |= new(old) & (DIRTY | AF);
            }
            // Members never differ in more than the address: what one has, all get.
            for entry in slot.entries {
                if entry.load(Relaxed) & dirty != dirty {
                    update(entry, slot.level, |word| word | dirty);
                }
            }
            if E::LIVE {
                pending.add_leaves::<G>(slot.range(), slot.level);
            }
            visit(slot.leaf(config, gathered), slot.entries.len() as u64);
        });
        self.finish();
        Ok(())
    }
}
