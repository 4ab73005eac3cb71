//! From a configuration to mapped memory.

use std::sync::{Mutex, PoisonError};

use vm_memory::{GuestAddress, GuestMemoryBackend};

use crate::config::{self, MemoryConfig};

use super::GuestMemory;
use super::backing::{Backing, Fresh};
use super::block::Plan;
use super::error::Error;
use super::host::Host;
use super::hugetlb;
use super::mapping::{Harmless, Mapping, Object};
use super::region::Region;

/// What stage 2 can use of a mapping: its blocks are no larger.
const CONGRUENCE: usize = 1 << 30;

/// Bytes populated per system call, so that a failure can say how far it came.
const POPULATE: u64 = 256 << 20;

/// The guest's RAM: the mapped regions, and what they live in.
#[derive(Debug)]
pub struct GuestRam {
    memory: GuestMemory,
    backing: Backing,
    /// The file, where it was created for this guest and may have to go again.
    fresh: Mutex<Option<Fresh>>,
}

impl GuestRam {
    /// Allocates what `config` asks for, at guest-physical `base`.
    ///
    /// `base` should be a multiple of 1 GiB: stage 2 uses no block that is larger than its alignment.
    /// The memory reads as zero, but for a file that held some before. A file that is created goes with the
    /// value, until [`GuestRam::keep`]. Unless `prefault` asks for it,
    /// nothing is populated; hugetlb pages are promised by the kernel all the same.
    ///
    /// # Errors
    ///
    /// [`Error`]: a size that is 0, not whole blocks or more than the host has; a short pool; a file
    /// that can't be used.
    pub fn allocate(config: &MemoryConfig, base: GuestAddress) -> Result<Self, Error> {
        Self::allocate_unless(config, base, &|| false)
    }

    /// The same, given up as soon as `is_stopped` says so: `prefault` may take minutes, and asks before each piece.
    ///
    /// # Errors
    ///
    /// [`Error`], and [`Error::Stopped`] where that was so: nothing is left of it.
    pub fn allocate_unless(
        config: &MemoryConfig,
        base: GuestAddress,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        Self::allocate_on(&Host::live(), config, base, is_stopped)
    }

    fn allocate_on(
        host: &Host,
        config: &MemoryConfig,
        base: GuestAddress,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<Self, Error> {
        let size = config.size;
        if size == 0 {
            return Err(Error::Zero);
        }
        let plan = Plan::new(host, config)?;
        let block = plan.block(host);
        let misplaced = || Error::Base { base: base.0, size };
        if base.0.checked_add(size).is_none() || !base.0.is_multiple_of(block.min(CONGRUENCE as u64)) {
            return Err(misplaced());
        }
        fits(host, config)?;

        let mut fresh = None;
        let backing = match (&config.backing, &plan) {
            (config::Backing::Anon, _) => Backing::Anon,
            (config::Backing::Memfd, _) => Backing::memfd(size)?,
            (config::Backing::File(path), _) => {
                let (backing, created) = Backing::file(path, size)?;
                fresh = created;
                backing
            }
            (config::Backing::Private(path), _) => Backing::private(path, size)?,
            (config::Backing::Hugetlb, Plan::Pool(pool)) => Backing::hugetlb(size, pool)?,
            (config::Backing::Hugetlb, _) => unreachable!("a plan for hugetlb has a pool"),
        };
        let mapping = map(&backing, base, size).map_err(|source| match &plan {
            // Somebody was faster: say what the pool has now.
            Plan::Pool(pool) => match hugetlb::pool(host, pool.page) {
                Ok(now) if now.available < size / pool.page => now.short(size / pool.page),
                _ => Error::Map { size, source },
            },
            _ => Error::Map { size, source },
        })?;
        let region = Region::new(mapping, base, 0, block)
            .map_err(|source| Error::Map { size, source })?
            .ok_or_else(misplaced)?;
        advise(&region, &plan);
        if config.prefault {
            populate(&region, is_stopped)?;
        }
        let memory = GuestMemory::from_regions(vec![region]).map_err(|_| misplaced())?;
        Ok(Self { memory, backing, fresh: Mutex::new(fresh) })
    }

    /// The memory for whoever reads and writes it by guest-physical address.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// The regions in ascending order: one memslot each.
    pub fn regions(&self) -> impl Iterator<Item = &Region> {
        self.memory.iter()
    }

    /// Bytes in all.
    pub fn size(&self) -> u64 {
        self.regions().map(Region::size).sum()
    }

    /// The guest has started: a file that was created for it stays.
    pub fn keep(&self) {
        // A panic elsewhere changes nothing about what is to be kept.
        if let Some(fresh) = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take() {
            fresh.keep();
        }
    }

    /// What the bytes live in.
    pub fn backing(&self) -> &Backing {
        &self.backing
    }
}

/// Refuses what the host can never give, and, where all of it is wanted now, what it can't give now.
/// Without `prefault` more than what is free is allowed: a guest seldom touches all, and a balloon may
/// take some back. Pools and file systems have been asked themselves.
fn fits(host: &Host, config: &MemoryConfig) -> Result<(), Error> {
    if matches!(config.backing, config::Backing::Hugetlb | config::Backing::File(_)) {
        return Ok(());
    }
    let (size, info) = (config.size, host.meminfo()?);
    if size > info.total {
        return Err(Error::LargerThanHost { size, host: info.total });
    }
    if size > info.available {
        if config.prefault {
            return Err(Error::NotAvailable { size, available: info.available });
        }
        tracing::warn!(size, available = info.available, "the guest's memory is more than the host has free");
    }
    Ok(())
}

/// Maps with the largest congruence that the address space has room for.
fn map(backing: &Backing, base: GuestAddress, size: u64) -> std::io::Result<Mapping> {
    let object = match backing {
        Backing::Anon => Object::Anon,
        Backing::Memfd(file) | Backing::File { file, .. } => Object::File(file, 0),
        Backing::Hugetlb { file, .. } => Object::Huge(file, 0),
        Backing::PrivateFile { file, .. } => Object::Private(file, 0),
    };
    let len = usize::try_from(size).map_err(std::io::Error::other)?;
    // An address space that has no room for the largest congruence still has it for a smaller one; the
    // least that a huge page needs is its own size.
    let least = match backing {
        Backing::Hugetlb { page, .. } => *page as usize,
        _ => super::mapping::GUARD,
    };
    let mut congruence = CONGRUENCE;
    loop {
        match Mapping::new(object, base.0, len, congruence) {
            Err(_) if congruence / 16 >= least => congruence /= 16,
            done => return done,
        }
    }
}

/// Advice is a wish: a kernel without huge pages, or one that knows no such advice, changes nothing
/// about what the guest sees.
fn advise(region: &Region, plan: &Plan) {
    let wish = match plan {
        Plan::Pages => Some(Harmless::Pages),
        Plan::Transparent(_) => Some(Harmless::Huge),
        Plan::FileSystem | Plan::Pool(_) => None,
    };
    for advice in wish.into_iter().chain([Harmless::NoDump]) {
        if let Err(error) = region.advise(0, region.size(), advice) {
            tracing::debug!(?advice, %error, "the host doesn't take this advice");
        }
    }
}

fn populate(region: &Region, is_stopped: &dyn Fn() -> bool) -> Result<(), Error> {
    let size = region.size();
    let mut done = 0;
    while done < size {
        if is_stopped() {
            return Err(Error::Stopped { done, size });
        }
        let len = POPULATE.min(size - done);
        region.advise(done, len, Harmless::Populate).map_err(|source| Error::Populate {
            done,
            size,
            source,
        })?;
        done += len;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
