//! What the driver asks for (virtio 1.3, 5.2.6), and what comes of it.

use std::io;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use vm_memory::Bytes;

use crate::memory::GuestMemory;
use crate::virtio::chain::{Chain, NotMemory};
use crate::virtio::device::Stop;

use super::disk::Disk;

/// Bytes of the header.
const HEADER: u64 = 16;
/// Bytes of a range to discard or zero.
const RANGE: u64 = 16;
/// Ranges in one request.
pub(super) const MAX_RANGES: u32 = 8;
/// Sectors in one range to discard.
pub(super) const MAX_DISCARD: u32 = 1 << 22;
/// Sectors in one range to zero: it may have to be written.
pub(super) const MAX_ZEROES: u32 = 1 << 15;

/// Bytes moved by one system call, so that a reset doesn't wait for long.
const PIECE: u32 = 1 << 20;

/// What became of a request.
enum Failure {
    /// VIRTIO_BLK_S_IOERR, after this many bytes were given to the driver.
    Io(u64),
    /// VIRTIO_BLK_S_UNSUPP.
    Unsupported,
    /// A reset waits: the driver wants no answer any more.
    Stopped,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        tracing::warn!(%error, "disk");
        Self::Io(0)
    }
}

impl From<NotMemory> for Failure {
    fn from(_: NotMemory) -> Self {
        Self::Io(0)
    }
}

/// Carries out a request and writes its status. Returns how many bytes of the writable part have been
/// written, counted from its start, or `None` where a reset waits.
pub(super) fn carry_out(
    disk: &mut Disk,
    memory: &GuestMemory,
    chain: &Chain,
    stop: &Stop,
    writes_through: bool,
) -> Option<u32> {
    // The status is the last byte that the device may write. Without it there is no way to answer.
    let Some(status_at) = chain.writable.len().checked_sub(1) else { return Some(0) };
    let mut request = Request { disk, memory, chain, stop, data_len: status_at };
    let done = if chain.is_sound() { request.execute(writes_through) } else { Err(Failure::Io(0)) };
    let (status, given) = match done {
        Ok(given) => (VIRTIO_BLK_S_OK, given),
        Err(Failure::Io(given)) => (VIRTIO_BLK_S_IOERR, given),
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        Err(Failure::Stopped) => return None,
    };
    let told = chain.writable.write(memory, status_at, &[status as u8]).is_ok();
    // The used length says what was written from the start without a gap: up to the status only where
    // all before it was.
    let written = if told && given == status_at { given + 1 } else { given };
    Some(u32::try_from(written).unwrap_or(u32::MAX))
}

struct Request<'a> {
    disk: &'a mut Disk,
    memory: &'a GuestMemory,
    chain: &'a Chain,
    stop: &'a Stop,
    /// Bytes that may be given to the driver, before the status.
    data_len: u64,
}

impl Request<'_> {
    fn execute(&mut self, writes_through: bool) -> Result<u64, Failure> {
        // type, reserved, sector
        let mut header = [0; HEADER as usize];
        self.chain.readable.read(self.memory, 0, &mut header)?;
        let [t0, t1, t2, t3, _, _, _, _, sector @ ..] = header;
        let sector = u64::from_le_bytes(sector);
        match u32::from_le_bytes([t0, t1, t2, t3]) {
            VIRTIO_BLK_T_IN => return self.read(sector),
            VIRTIO_BLK_T_OUT => self.write(sector)?,
            VIRTIO_BLK_T_FLUSH => self.disk.flush()?,
            VIRTIO_BLK_T_GET_ID => return self.id(),
            VIRTIO_BLK_T_DISCARD => self.ranges(MAX_DISCARD, |disk, at, len, flags| match flags {
                0 => Ok(disk.discard(at, len)?),
                _ => Err(Failure::Unsupported),
            })?,
            VIRTIO_BLK_T_WRITE_ZEROES => self.ranges(MAX_ZEROES, |disk, at, len, flags| match flags {
                0 => Ok(disk.zero(at, len, false)?),
                VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP => Ok(disk.zero(at, len, true)?),
                _ => Err(Failure::Unsupported),
            })?,
            _ => return Err(Failure::Unsupported),
        }
        if writes_through {
            self.disk.flush()?;
        }
        Ok(0)
    }

    fn read(&mut self, sector: u64) -> Result<u64, Failure> {
        let len = self.data_len;
        let at = self.disk.range(sector, len).ok_or(Failure::Io(0))?;
        let file = self.disk.at(at)?;
        let mut given = 0;
        for span in self.chain.writable.pieces(0, len, PIECE) {
            if self.stop.is_asked() {
                return Err(Failure::Stopped);
            }
            self.memory.read_exact_volatile_from(span.address, file, span.len as usize).map_err(|error| {
                tracing::debug!(%error, "disk read");
                Failure::Io(given)
            })?;
            given += u64::from(span.len);
        }
        Ok(given)
    }

    fn write(&mut self, sector: u64) -> Result<(), Failure> {
        let end = self.chain.readable.len();
        let at = self.disk.range(sector, end.saturating_sub(HEADER)).ok_or(Failure::Io(0))?;
        // All of it first: a sector that was written before the mistake was noticed stays written.
        if self.disk.is_read_only() || !self.chain.readable.is_memory(self.memory) {
            return Err(Failure::Io(0));
        }
        let file = self.disk.at(at)?;
        for span in self.chain.readable.pieces(HEADER, end, PIECE) {
            if self.stop.is_asked() {
                return Err(Failure::Stopped);
            }
            self.memory.write_all_volatile_to(span.address, file, span.len as usize).map_err(|error| {
                tracing::warn!(%error, "disk write");
                Failure::Io(0)
            })?;
        }
        Ok(())
    }

    fn id(&mut self) -> Result<u64, Failure> {
        let id = self.disk.id();
        let len = self.data_len.min(id.len() as u64);
        self.chain.writable.write(self.memory, 0, &id[..len as usize])?;
        Ok(len)
    }

    /// Checks all ranges, then does `each` to one after the other: offset and bytes on the disk, flags.
    fn ranges(
        &mut self,
        most: u32,
        each: impl Fn(&mut Disk, u64, u64, u32) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let len = self.chain.readable.len().saturating_sub(HEADER);
        let count = len / RANGE;
        let good = len > 0 && len.is_multiple_of(RANGE) && count <= u64::from(MAX_RANGES);
        if !good || self.disk.is_read_only() {
            return Err(Failure::Io(0));
        }
        let mut ranges = Vec::new();
        for index in 0..count {
            // sector, sectors, flags
            let mut range = [0; RANGE as usize];
            self.chain.readable.read(self.memory, HEADER + index * RANGE, &mut range)?;
            let [s0, s1, s2, s3, s4, s5, s6, s7, n0, n1, n2, n3, flags @ ..] = range;
            let sector = u64::from_le_bytes([s0, s1, s2, s3, s4, s5, s6, s7]);
            let sectors = u32::from_le_bytes([n0, n1, n2, n3]);
            let bytes = u64::from(sectors) * Disk::SECTOR;
            let at = self.disk.range(sector, bytes).filter(|_| sectors <= most).ok_or(Failure::Io(0))?;
            ranges.push((at, bytes, u32::from_le_bytes(flags)));
        }
        for (at, bytes, flags) in ranges {
            if self.stop.is_asked() {
                return Err(Failure::Stopped);
            }
            each(self.disk, at, bytes, flags)?;
        }
        Ok(())
    }
}
