//! What backs guest RAM, and where it lies in this process.
//!
//! # Principles
//!
//! - **The host mapping is congruent to the guest address modulo 1 GiB**, so that KVM's stage 2 can
//!   use every block size that the backing gives.
//! - **Fail at the start.** A size that is not whole blocks, a short hugetlb pool or a full disk is an
//!   error that names the figure and the file, not a SIGBUS later. (Anonymous memory and files may be
//!   more than is free when the guest comes to touch them; `prefault` is for who wants to know.)
//! - **The type of the backing decides** what can be done to the memory later (how it is discarded,
//!   whether it outlives the guest); nobody looks at mmap flags.
//! - **A [`Region`] owns its mapping**: whoever holds a clone of [`GuestMemory`] can't be left with a
//!   dangling one. All access goes through vm-memory's volatile accessors, where a dirty bitmap can
//!   be attached.
//!
//! # Map
//!
//! | module | what it holds |
//! |---|---|
//! | [`ram`] | [`GuestRam`]: from a configuration to mapped memory |
//! | [`region`] | [`Region`]: one contiguous piece of guest RAM, as KVM and the devices see it |
//! | [`backing`] | [`Backing`]: what the bytes live in |
//! | [`block`] | which block size a configuration gets on this host |
//! | [`ledger`] | [`Ledger`]: what is known about every page |
//! | [`release`] | [`Release`](release::Release): the way of memory back to the host |
//! | [`teardown`] | the end of a guest's memory |
//! | [`hugetlb`] | the host's pools of huge pages |
//! | [`transparent`] | the host's transparent huge page settings, for all their sizes |
//! | [`host`] | where sysfs and procfs are, the page size, how much memory there is |
//! | [`discard`] | [`Discard`]: gives memory back, so that it reads as zero and is free |
//! | [`dirty`] | [`Dirty`]: which pages were written, by whomever |
//! | [`young`] | [`Young`]: which pages were used |
//! | [`presence`] | [`Presence`]: which parts hold something |
//! | [`populate`] | [`Populate`]: brings memory back whole |
//! | [`marks`] | [`Marks`](marks::Marks): a mark for each page of a region |
//! | [`bitmap`] | from bits to ranges |
//! | [`piece`] | checked ranges of guest RAM |
//! | `pagemap` | the page tables of this process, as the kernel shows them |
//! | `advice` | what madvise does to them, many in one call |
//! | `anonymous` | which parts of a private file have made way |
//! | `scratch` | pages of our own, to find out what this kernel does |
//! | `mapping` | reserve, place, guard: the address space itself |
//! | [`error`] | everything that can go wrong, and what to do about it |

mod advice;
mod anonymous;
pub mod backing;
pub mod bitmap;
pub mod block;
pub mod dirty;
pub mod discard;
pub mod error;
pub mod host;
pub mod hugetlb;
pub mod ledger;
mod mapping;
pub mod marks;
mod pagemap;
pub mod piece;
pub mod populate;
pub mod presence;
pub mod ram;
pub mod region;
pub mod release;
mod scratch;
pub mod teardown;
#[cfg(test)]
mod testing;
pub mod transparent;
pub mod young;

pub use backing::Backing;
pub use dirty::Dirty;
pub use discard::Discard;
pub use error::Error;
pub use host::Host;
pub use ledger::Ledger;
pub use mapping::GUARD;
pub use populate::Populate;
pub use presence::Presence;
pub use ram::GuestRam;
pub use region::Region;
pub use young::Young;

/// All of guest RAM, as the devices, the loader and the device tree writer see it.
///
/// A clone shares the regions; the memory is unmapped when the last clone has gone.
pub type GuestMemory = vm_memory::GuestRegionCollection<Region>;
