//! A guest: tables that are installed on every CPU, with the payload's home in them.

use core::ops::Range;

use aarch64_cpu::registers::{HCR_EL2, Readable, VTCR_EL2, VTTBR_EL2, Writeable};
use arrayvec::ArrayVec;
use board::console;
use spin::rwlock::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use stage2::{Attributes, Config, Existing, Features, Gather, Granule, Options, Tables, Unresolved};

use crate::bare::bed::{self, bed};
use crate::bare::mmu::{Issued, Mmu};
use crate::bare::payload;
use crate::bare::pool::Pool;
use crate::bare::team::{Team, Yield};
use crate::bare::vcpu;
use crate::fail;
use crate::fault::{Fault, Kind};
use crate::tap::{Miss, Reason};

/// `HCR_EL2`: stage 2 on; a walk of stage 1 may not go to device memory; stage 1, where it is off, says
/// write-back; stage 2 forces the memory type.
const VM: u64 = 1 << 0;
const PTW: u64 = 1 << 2;
const DC: u64 = 1 << 12;
const FWB: u64 = 1 << 46;

/// The VMID of guests with this `VTCR_EL2`. One guest is alive at a time, and its end invalidates its VMID: so one would
/// do for all. But KVM keeps tables of its own for each VTCR_EL2 that it has seen, and empties all those of a VMID.
const fn vmid(vtcr: u64) -> u16 {
    // Below 256, which every CPU has; that two share one does no harm.
    1 + ((vtcr ^ vtcr >> 6 ^ vtcr >> 14 ^ vtcr >> 21) & 0x7f) as u16
}

/// The tables of a guest.
pub type GuestTables<G> = Tables<G, Pool, Mmu>;

/// Tables that are installed on every CPU.
#[derive(Debug)]
pub struct Guest<'a, G: Granule> {
    team: &'a Team,
    /// What hardware changes while others read needs no lock; what structural operations change does.
    tables: RwLock<GuestTables<G>, Yield>,
    config: Config<G>,
}

impl<'a, G: Granule> Guest<'a, G> {
    /// Empty tables but for the payload's home, on every CPU.
    ///
    /// # Errors
    /// Where there is no such configuration, or no frame for it.
    pub fn new(team: &'a Team, options: Options) -> Result<Self, Miss> {
        Self::with_features(team, &bed().features, options)
    }

    /// The same, on a CPU of which less is used than it has.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_features(team: &'a Team, features: &Features, options: Options) -> Result<Self, Miss> {
        let config = match Config::<G>::new(features, options) {
            Ok(config) => config,
            Err(error) => fail!("configuration: {error}"),
        };
        let tables = match Tables::new(config, Pool, Mmu::default()) {
            Ok(tables) => tables,
            Err(error) => fail!("tables: {error}"),
        };
        let Some(vttbr) = config.vttbr(tables.root(), vmid(config.vtcr())) else {
            fail!("no VTTBR_EL2 for a root at {:#x}", tables.root());
        };
        tables.executor().set(vttbr);
        let hcr = VM | DC | if config.encoding().fwb { FWB } else { 0 };
        team.all(&|_| {
            VTCR_EL2.set(config.vtcr());
            VTTBR_EL2.set(vttbr);
            HCR_EL2.set(HCR_EL2.get() | hcr);
            vcpu::isb();
            vcpu::prepare();
        });
        let guest = Self { team, tables: RwLock::new(tables), config };
        let home = bed().home;
        guest.map(payload::HOME, home, bed::HOME, &Attributes::RAM.dirty())?;
        Ok(guest)
    }

    /// The CPUs.
    pub const fn team(&self) -> &'a Team {
        self.team
    }

    /// The configuration.
    pub const fn config(&self) -> &Config<G> {
        &self.config
    }

    /// The tables, for what takes `&self`: beside other readers.
    pub fn read(&self) -> RwLockReadGuard<'_, GuestTables<G>, Yield> {
        self.tables.read()
    }

    /// The tables, for what changes their structure: alone. CPUs in EL1 go on.
    pub fn write(&self) -> RwLockWriteGuard<'_, GuestTables<G>, Yield> {
        self.tables.write()
    }

    /// What has been issued so far.
    pub fn issued(&self) -> Issued {
        self.read().executor().issued()
    }

    /// Maps `bytes` at `ipa` to `oa`.
    ///
    /// # Errors
    /// What the tables refuse.
    pub fn map(&self, ipa: u64, oa: u64, bytes: u64, attributes: &Attributes) -> Result<(), Miss> {
        let result = self.write().map(ipa..ipa + bytes, oa, attributes, Existing::Refuse);
        result.map_err(|error| Miss::Failed(Reason::new(format_args!("map {ipa:#x}: {error}"))))
    }

    /// Resolves a fault that needs no more than flags, as software does where hardware doesn't; `false` where
    /// another CPU was first.
    ///
    /// # Errors
    /// The fault needs more.
    pub fn resolve(&self, fault: &Fault) -> Result<bool, Unresolved> {
        let tables = self.read();
        if fault.kind() == Kind::Conflict {
            // FEAT_BBM level 2 obliges to this.
            let mut gather = tables.gather();
            gather.add_whole();
            tables.invalidate(&mut gather);
            return Ok(true);
        }
        let mut gather: Gather = tables.gather();
        let result = tables.set_access_flags(fault.ipa(), fault.access(), &mut gather);
        tables.invalidate(&mut gather);
        result
    }

    /// Executes what is owed, and frees what was unlinked.
    pub fn flush(&self) {
        self.write().flush();
    }

    /// Lets walks of stage 1 fault on device memory, or not, on this CPU.
    pub fn protect_walks(on: bool) {
        let hcr = HCR_EL2.get();
        HCR_EL2.set(if on { hcr | PTW } else { hcr & !PTW });
        vcpu::isb();
    }

    /// Has stage 1 be on in EL1 of this CPU, with its start level in the payload's home; or off.
    pub fn stage1(on: bool) {
        let hcr = HCR_EL2.get();
        if on {
            HCR_EL2.set(hcr & !DC);
            vcpu::stage1_on(payload::tables_ipa());
        } else {
            HCR_EL2.set(hcr | DC);
            vcpu::stage1_off();
        }
    }
}

impl<G: Granule> Drop for Guest<'_, G> {
    /// Takes the tables off every CPU, before they go.
    fn drop(&mut self) {
        self.team.all(&|_| {
            HCR_EL2.set(HCR_EL2.get() & !(VM | DC | FWB | PTW));
            vcpu::isb();
        });
        let Some(mut tables) = self.tables.try_write() else {
            console::fail(format_args!("a guest ends while its tables are in use"));
        };
        if bed().nested && bed().features.tlbi_range {
            forget_by_range(&mut tables);
        }
    }
}

/// Invalidates what is mapped, stretch by stretch, so that dropping the tables has nothing left to invalidate: KVM answers
/// an invalidation of a whole VMID by a walk over all of the input address space that it could have had, which takes
/// seconds on an emulated host. No CPU uses the tables any more, so nothing of them can be cached anew.
fn forget_by_range<G: Granule>(tables: &mut GuestTables<G>) {
    let mut stretches = ArrayVec::<Range<u64>, 8>::new();
    let mut all = true;
    let listed = tables.leaves(tables.whole(), |leaf| match stretches.last_mut() {
        Some(last) if last.end == leaf.ipa => last.end = leaf.range().end,
        _ => all &= stretches.try_push(leaf.range()).is_ok(),
    });
    // What can't be listed is left to the drop.
    if listed.is_ok() && all {
        tables.executor().retire::<G>(&stretches);
    }
}
