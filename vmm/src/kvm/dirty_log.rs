//! KVM's dirty log: which pages the guest has written (Documentation/virt/kvm/api.rst, KVM_GET_DIRTY_LOG and
//! KVM_CLEAR_DIRTY_LOG).
//!
//! It is on for as long as a [`KvmDirtyLog`] lives. With manual protection, reading the bitmap changes nothing: pages
//! are made clean, and protected against writing again, by a call that names them. So a few ranges can be taken out
//! of a slot and the rest stays dirty. With `INITIALLY_SET` turning the log on is cheap: every page counts as written
//! until it is taken for the first time, and only then is it protected.

#![expect(unsafe_code, reason = "KVM_CLEAR_DIRTY_LOG is an ioctl that no crate wraps")]

use std::io;
use std::ops::Range;
use std::sync::{Arc, Weak};

use kvm_bindings::{
    KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, KVM_DIRTY_LOG_INITIALLY_SET, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
    KVMIO, kvm_clear_dirty_log, kvm_clear_dirty_log__bindgen_ty_1, kvm_enable_cap,
};
use vmm_sys_util::errno;
use vmm_sys_util::ioctl::ioctl_with_ref;

use super::memslot::{MappedVm, Slot};
use crate::memory::bitmap;
use crate::memory::dirty::DirtyLog;

mod number {
    vmm_sys_util::ioctl_iowr_nr!(KVM_CLEAR_DIRTY_LOG, super::KVMIO, 0xc0, super::kvm_clear_dirty_log);
}
use number::KVM_CLEAR_DIRTY_LOG;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// KVM has no manual protection.
    #[error("this host's KVM can't take single pages out of its dirty log: that needs Linux 5.1")]
    NoManualProtect,
    /// KVM refused manual protection.
    #[error("KVM refused to manage its dirty log by hand: {0}")]
    Enable(errno::Error),
    /// KVM refused to log a slot.
    #[error("KVM refused to log what is written")]
    Slot(#[from] super::memslot::Error),
}

/// The dirty log of a VM. It does not keep the VM alive; when that has gone, nothing can be taken any more.
#[derive(Debug)]
pub struct KvmDirtyLog {
    vm: Weak<MappedVm>,
    page: u64,
}

impl KvmDirtyLog {
    /// Turns the log of every slot on.
    ///
    /// # Errors
    /// [`Error`]; then no slot has one.
    pub fn start(vm: &Arc<MappedVm>) -> Result<Self, Error> {
        let has = vm.check_extension_raw(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2.into()).unsigned_abs();
        if has & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE == 0 {
            return Err(Error::NoManualProtect);
        }
        let wanted = has & (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
        let mut cap = kvm_enable_cap { cap: KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, ..kvm_enable_cap::default() };
        cap.args[0] = wanted.into();
        vm.enable_cap(&cap).map_err(Error::Enable)?;
        // Made first: where a slot is refused, dropping it turns the others' off.
        let log = Self { vm: Arc::downgrade(vm), page: rustix::param::page_size() as u64 };
        vm.log_dirty(true)?;
        Ok(log)
    }

    /// Takes what is dirty of `ranges` in one slot.
    fn take_slot(
        &self,
        vm: &MappedVm,
        slot: &Slot,
        ranges: &[Range<u64>],
        visit: &mut dyn FnMut(Range<u64>),
    ) -> io::Result<()> {
        let Some(pages) = pages(&slot.guest, ranges, self.page) else { return Ok(()) };
        let size = usize::try_from(slot.guest.end - slot.guest.start).map_err(io::Error::other)?;
        let mut taken = vm.get_dirty_log(slot.number, size).map_err(os)?;
        let (first, last) = (pages.iter().map(|run| run.start).min(), pages.iter().map(|run| run.end).max());
        let window = bitmap::words(&(first.unwrap_or(0)..last.unwrap_or(0)));
        taken.truncate(window.end as usize);
        drop(taken.drain(..window.start as usize));
        for (index, word) in window.clone().zip(&mut taken) {
            *word &= pages.iter().fold(0, |mask, run| mask | bitmap::mask(index, run));
        }
        if taken.iter().all(|word| *word == 0) {
            return Ok(());
        }
        // What is written from here on is in the log again, and what was written before is there to be read once
        // this returns. Where it fails everything is visited all the same: it may be dirty still, and is visited again.
        let cleared = clear(vm, slot, window.start * bitmap::WORD, self.page, &taken);
        bitmap::runs(taken, window.start * bitmap::WORD, &mut |run| {
            visit(slot.guest.start + run.start * self.page..slot.guest.start + run.end * self.page);
        });
        cleared
    }
}

impl DirtyLog for KvmDirtyLog {
    fn take(&self, ranges: &[Range<u64>], visit: &mut dyn FnMut(Range<u64>)) -> io::Result<()> {
        let Some(vm) = self.vm.upgrade() else {
            return Err(io::Error::new(
                io::ErrorKind::NotConnected,
                "the VM has gone, and its dirty log with it",
            ));
        };
        vm.slots().iter().try_for_each(|slot| self.take_slot(&vm, slot, ranges, visit))
    }
}

impl Drop for KvmDirtyLog {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.vm.upgrade().map(|vm| vm.log_dirty(false)) {
            tracing::warn!(%error, "KVM goes on logging what the guest writes");
        }
    }
}

/// The pages of the slot at `guest` that are in `ranges`, from its first page on; `None` where there is none.
fn pages(guest: &Range<u64>, ranges: &[Range<u64>], page: u64) -> Option<Vec<Range<u64>>> {
    let pages: Vec<_> = ranges
        .iter()
        .map(|range| range.start.max(guest.start)..range.end.min(guest.end))
        .filter(|part| part.start < part.end)
        .map(|part| (part.start - guest.start) / page..(part.end - guest.start).div_ceil(page))
        .collect();
    (!pages.is_empty()).then_some(pages)
}

/// Makes the pages clean whose bit is set in `bits`, which stand for the slot's pages from `first` on, a multiple of 64.
fn clear(vm: &MappedVm, slot: &Slot, first: u64, page: u64, bits: &[u64]) -> io::Result<()> {
    let all = (slot.guest.end - slot.guest.start) / page;
    // Whole words, or up to the slot's last page.
    let count = (bits.len() as u64 * bitmap::WORD).min(all.saturating_sub(first));
    let argument = kvm_clear_dirty_log {
        slot: slot.number,
        num_pages: u32::try_from(count).map_err(io::Error::other)?,
        first_page: first,
        __bindgen_anon_1: kvm_clear_dirty_log__bindgen_ty_1 { dirty_bitmap: bits.as_ptr().cast_mut().cast() },
    };
    // SAFETY: the descriptor is a VM's and the operation's number is made from the type of its argument. The kernel
    // only reads the bitmap, `num_pages` bits in whole words of 64, which are at most those of `bits`.
    let done = unsafe { ioctl_with_ref(&**vm, KVM_CLEAR_DIRTY_LOG(), &argument) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn os(error: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(error.errno())
}

#[cfg(test)]
mod tests;
