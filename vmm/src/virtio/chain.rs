//! A checked descriptor chain.

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::memory::GuestMemory;

/// One buffer of the guest's. That it is in guest memory is checked when it is accessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Guest-physical address of the first byte.
    pub address: GuestAddress,
    /// Bytes; never 0.
    pub len: u32,
}

/// The buffer or a part of it is not in guest memory.
#[derive(Debug, thiserror::Error)]
#[error("a buffer of the driver's is not in guest memory")]
pub struct NotMemory;

/// A descriptor chain, walked to its end, as two sequences of bytes: first what the device reads, then
/// what it writes (virtio 1.3, 2.7.4.2). How the driver cut them into descriptors means nothing.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// What the device may read.
    pub readable: Buffer,
    /// What the device may write.
    pub writable: Buffer,
    sound: bool,
}

impl Chain {
    /// Replaces the content by what `chain` has. No more than `limit` descriptors are looked at.
    ///
    /// A chain that doesn't end, leaves the table, nests indirect tables, has more than 4 GiB or has
    /// something to read behind something to write is not [sound](Self::is_sound).
    pub(super) fn walk(&mut self, chain: DescriptorChain<&GuestMemory>, limit: u16) {
        self.readable.clear();
        self.writable.clear();
        self.sound = true;
        // virtio-queue ends the iteration at whatever is wrong; what is left open then shows it.
        let mut open = true;
        for descriptor in chain.take(usize::from(limit)) {
            open = descriptor.has_next();
            let span = Span { address: descriptor.addr(), len: descriptor.len() };
            if descriptor.is_write_only() {
                self.writable.push(span);
            } else {
                // Read behind write: out of order.
                self.sound &= self.writable.spans.is_empty();
                self.readable.push(span);
            }
        }
        self.sound &= !open;
    }

    /// Whether it is a chain as the specification has it.
    pub fn is_sound(&self) -> bool {
        self.sound
    }
}

/// A sequence of bytes in the guest's memory, in pieces.
#[derive(Clone, Debug, Default)]
pub struct Buffer {
    spans: Vec<Span>,
    len: u64,
}

impl Buffer {
    fn clear(&mut self) {
        self.spans.clear();
        self.len = 0;
    }

    fn push(&mut self, span: Span) {
        if span.len > 0 {
            self.spans.push(span);
            self.len += u64::from(span.len);
        }
    }

    /// Bytes in all: fewer than 4 Gi, by virtio-queue's count.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there is not a single byte.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pieces of `start..end`, which is clipped to what there is, none longer than `piece`.
    pub fn pieces(&self, start: u64, end: u64, piece: u32) -> impl Iterator<Item = Span> {
        let mut at = 0;
        let spans = self.spans.iter().filter_map(move |span| {
            let from = start.saturating_sub(at).min(u64::from(span.len)) as u32;
            let to = end.saturating_sub(at).min(u64::from(span.len)) as u32;
            at += u64::from(span.len);
            (from < to).then_some((span.address, from, to))
        });
        spans.flat_map(move |(address, from, to)| {
            (from..to).step_by(piece.max(1) as usize).map(move |offset| Span {
                // It may wrap for an address that is nowhere near memory; then it isn't memory.
                address: GuestAddress(address.0.saturating_add(u64::from(offset))),
                len: piece.max(1).min(to - offset),
            })
        })
    }

    /// Copies from `start` on into `bytes`.
    ///
    /// # Errors
    ///
    /// [`NotMemory`], also where the buffer is too short.
    pub fn read(&self, memory: &GuestMemory, start: u64, bytes: &mut [u8]) -> Result<(), NotMemory> {
        let mut left = bytes;
        let end = start.saturating_add(left.len() as u64);
        for span in self.pieces(start, end, u32::MAX) {
            let (now, later) = left.split_at_mut(span.len as usize);
            memory.read_slice(now, span.address).map_err(|_| NotMemory)?;
            left = later;
        }
        if left.is_empty() { Ok(()) } else { Err(NotMemory) }
    }

    /// Copies `bytes` to `start` and what follows.
    ///
    /// # Errors
    ///
    /// [`NotMemory`], also where the buffer is too short.
    pub fn write(&self, memory: &GuestMemory, start: u64, bytes: &[u8]) -> Result<(), NotMemory> {
        let mut left = bytes;
        let end = start.saturating_add(left.len() as u64);
        for span in self.pieces(start, end, u32::MAX) {
            let (now, later) = left.split_at(span.len as usize);
            memory.write_slice(now, span.address).map_err(|_| NotMemory)?;
            left = later;
        }
        if left.is_empty() { Ok(()) } else { Err(NotMemory) }
    }

    /// Whether all of it is in guest memory.
    pub fn is_memory(&self, memory: &GuestMemory) -> bool {
        self.spans.iter().all(|span| memory.check_range(span.address, span.len as usize))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn buffer(spans: &[(u64, u32)]) -> Buffer {
        let mut buffer = Buffer::default();
        for &(address, len) in spans {
            buffer.push(Span { address: GuestAddress(address), len });
        }
        buffer
    }

    proptest! {
        #[test]
        fn pieces_are_the_bytes_of_the_range_in_order(
            spans in proptest::collection::vec((0u64..1000, 0u32..20), 0..6),
            start in 0u64..60,
            len in 0u64..60,
            piece in 0u32..10,
        ) {
            let bytes: Vec<u64> =
                spans.iter().flat_map(|&(address, len)| address..address + u64::from(len)).collect();
            let end = start + len;
            let expected: Vec<_> = bytes.iter().copied().skip(start as usize).take(len as usize).collect();
            let pieces: Vec<_> = buffer(&spans).pieces(start, end, piece).collect();
            prop_assert!(pieces.iter().all(|span| span.len >= 1 && span.len <= piece.max(1)));
            let seen: Vec<_> =
                pieces.iter().flat_map(|span| span.address.0..span.address.0 + u64::from(span.len)).collect();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn addresses_at_the_end_of_everything_do_not_overflow() {
        let spans: Vec<_> = buffer(&[(u64::MAX, u32::MAX)]).pieces(0, u64::MAX, 1 << 30).collect();
        assert_eq!(spans.len(), 4);
        assert!(spans.iter().all(|span| span.address.0 == u64::MAX));
    }
}
