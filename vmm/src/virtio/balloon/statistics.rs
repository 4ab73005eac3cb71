//! What the guest says about its memory (virtio 1.3, 5.5.6.3).

use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::memory::GuestMemory;
use crate::virtio::chain::Buffer;

/// Bytes of one entry: a tag of 16 bits and a value of 64, packed and little-endian.
const ENTRY: usize = 10;

/// Entries looked at. There are 16 tags, each sent once; what lies behind is not worth reading.
const MOST: usize = 64;

/// The guest's last word on its memory: a field for each tag that virtio 1.3 knows. What the guest didn't
/// say is absent, and so is all of it before its first answer. The values are the guest's claims.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Statistics {
    /// When the guest said so, in seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update: Option<u64>,
    /// Bytes swapped in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<u64>,
    /// Bytes swapped out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<u64>,
    /// Page faults that needed I/O.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// Page faults that didn't.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// Bytes not used for anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub free_memory: Option<u64>,
    /// Bytes in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_memory: Option<u64>,
    /// Bytes that applications could get without swapping.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_memory: Option<u64>,
    /// Bytes that could be had by dropping caches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_caches: Option<u64>,
    /// Huge pages allocated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_allocations: Option<u64>,
    /// Huge pages that could not be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hugetlb_failures: Option<u64>,
    /// Invocations of the out-of-memory killer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oom_kill: Option<u64>,
    /// Allocations that had to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alloc_stall: Option<u64>,
    /// Pages scanned in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_scan: Option<u64>,
    /// Pages scanned by who needed some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_scan: Option<u64>,
    /// Pages reclaimed in the background.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub async_reclaim: Option<u64>,
    /// Pages reclaimed by who needed some.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_reclaim: Option<u64>,
}

impl Statistics {
    /// Reads what the guest sent: the last of several values counts, an unknown tag does not, and neither
    /// does an entry that isn't whole.
    pub(super) fn read(buffer: &Buffer, memory: &GuestMemory) -> Self {
        let mut bytes = [0; ENTRY * MOST];
        let len = buffer.len().min(bytes.len() as u64) as usize;
        let bytes = &mut bytes[..len - len % ENTRY];
        let mut statistics = Self { last_update: now(), ..Self::default() };
        if buffer.read(memory, 0, bytes).is_err() {
            return statistics;
        }
        for entry in bytes.as_chunks::<ENTRY>().0 {
            let [t0, t1, value @ ..] = *entry;
            if let Some(field) = statistics.field(u16::from_le_bytes([t0, t1])) {
                *field = Some(u64::from_le_bytes(value));
            }
        }
        statistics
    }

    fn field(&mut self, tag: u16) -> Option<&mut Option<u64>> {
        Some(match tag {
            0 => &mut self.swap_in,
            1 => &mut self.swap_out,
            2 => &mut self.major_faults,
            3 => &mut self.minor_faults,
            4 => &mut self.free_memory,
            5 => &mut self.total_memory,
            6 => &mut self.available_memory,
            7 => &mut self.disk_caches,
            8 => &mut self.hugetlb_allocations,
            9 => &mut self.hugetlb_failures,
            10 => &mut self.oom_kill,
            11 => &mut self.alloc_stall,
            12 => &mut self.async_scan,
            13 => &mut self.direct_scan,
            14 => &mut self.async_reclaim,
            15 => &mut self.direct_reclaim,
            _ => return None,
        })
    }
}

/// Seconds since 1970; absent where the host's clock is before that.
fn now() -> Option<u64> {
    SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs())
}
