//! One contiguous piece of guest RAM, as KVM and the devices see it.
#![expect(unsafe_code, reason = "tells vm-memory where the mapping is")]

use std::io;

use vm_memory::bitmap::BS;
use vm_memory::guest_memory::Result as MemoryResult;
use vm_memory::mmap::MmapRegionBuilder;
use vm_memory::{
    GuestAddress, GuestMemoryRegion, GuestMemoryRegionBytes, GuestRegionMmap, GuestUsize,
    MemoryRegionAddress, VolatileSlice,
};

use super::dirty::DeviceDirty;
use super::mapping::{Harmless, Mapping};

/// A mapped range of guest-physical addresses. It owns the mapping.
#[derive(Debug)]
pub struct Region {
    /// vm-memory's view of `mapping`; it doesn't own it.
    view: GuestRegionMmap<DeviceDirty>,
    mapping: Mapping,
    guest: GuestAddress,
    object: u64,
    block: u64,
}

impl Region {
    /// Puts a mapping, which shows its memory object from byte `object` on, at a guest-physical address;
    /// `None` where the range would wrap around.
    pub(super) fn new(
        mapping: Mapping,
        guest: GuestAddress,
        object: u64,
        block: u64,
    ) -> io::Result<Option<Self>> {
        let dirty = DeviceDirty::new(mapping.size() as u64, rustix::param::page_size() as u64);
        let builder = MmapRegionBuilder::new_with_bitmap(mapping.size(), dirty)
            .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
            // Only recorded: nothing here decides by flags.
            .with_mmap_flags(libc::MAP_NORESERVE);
        // SAFETY: the range is mapped for as long as `mapping` lives. The view doesn't leave this value
        // but by reference (`GuestRegionMmap::get_mmap`, which would share it, is not reachable: the
        // field is private), and it is not the owner, so the range is unmapped once.
        let view = unsafe { builder.with_raw_mmap_pointer(mapping.start()) }.build();
        let view = view.map_err(io::Error::other)?;
        Ok(GuestRegionMmap::new(view, guest).map(|view| Self { view, mapping, guest, object, block }))
    }

    /// Guest-physical address of the first byte.
    pub fn guest(&self) -> GuestAddress {
        self.guest
    }

    /// Address of the first byte in this process.
    pub fn host(&self) -> usize {
        self.mapping.start() as usize
    }

    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.mapping.size() as u64
    }

    /// Where the first byte lies in the memory object that backs the guest.
    pub fn object(&self) -> u64 {
        self.object
    }

    /// The unit that the host was asked to allocate it in, in bytes.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// What the devices wrote.
    pub(super) fn device_dirty(&self) -> &DeviceDirty {
        // Of what the view derefs to: its own gives a slice of it.
        (*self.view).bitmap()
    }

    /// Puts anonymous memory in the place of `offset..offset + len`.
    pub(super) fn replace(&self, offset: u64, len: u64) -> io::Result<()> {
        self.mapping.replace(offset as usize, len as usize)
    }

    pub(super) fn advise(&self, offset: u64, len: u64, advice: Harmless) -> io::Result<()> {
        self.mapping.advise(offset as usize, len as usize, advice)
    }
}

impl GuestMemoryRegion for Region {
    type B = DeviceDirty;

    fn len(&self) -> GuestUsize {
        self.size()
    }

    fn start_addr(&self) -> GuestAddress {
        self.guest
    }

    fn bitmap(&self) -> BS<'_, Self::B> {
        GuestMemoryRegion::bitmap(&self.view)
    }

    fn get_host_address(&self, addr: MemoryRegionAddress) -> MemoryResult<*mut u8> {
        self.view.get_host_address(addr)
    }

    fn get_slice(
        &self,
        offset: MemoryRegionAddress,
        count: usize,
    ) -> MemoryResult<VolatileSlice<'_, BS<'_, Self::B>>> {
        GuestMemoryRegion::get_slice(&self.view, offset, count)
    }
}

impl GuestMemoryRegionBytes for Region {}
