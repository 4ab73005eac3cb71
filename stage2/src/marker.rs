//! Markers: what software remembers about addresses that are not mapped.
//!
//! A marker is an *invalid* descriptor: bit 0 is clear, so no walker takes it for a translation. Its bits
//! stay clear of everything that a harvest ORs together (AF, S2AP, software dirty) and of the Contiguous
//! bit, so a marker never looks young, dirty or like a member of a group.

/// What is known about an address that has no valid leaf.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Marker {
    /// Zero when last looked at: never touched, reported free, or inflated softly.
    Vacant = 1,
    /// Held by the balloon; reads as zero until it is given back.
    Released = 2,
    /// Its content lives elsewhere and is not loaded yet.
    Absent = 3,
}

/// Where the code stands in the descriptor: bits 3:1.
const SHIFT: u32 = 1;
const MASK: u64 = 0b111 << SHIFT;

impl Marker {
    /// Every marker.
    pub const ALL: [Self; 3] = [Self::Vacant, Self::Released, Self::Absent];

    /// The invalid descriptor that carries it.
    #[inline]
    pub const fn word(self) -> u64 {
        (self as u64) << SHIFT
    }

    /// The marker in an invalid descriptor, if there is one. A valid descriptor has none.
    #[inline]
    pub const fn from_word(word: u64) -> Option<Self> {
        if word & !MASK != 0 {
            return None;
        }
        match word >> SHIFT {
            1 => Some(Self::Vacant),
            2 => Some(Self::Released),
            3 => Some(Self::Absent),
            _ => None,
        }
    }

    /// The descriptor for "this marker" or, for `None`, for "nothing known" (all zero).
    #[inline]
    pub(crate) const fn word_of(marker: Option<Self>) -> u64 {
        match marker {
            Some(marker) => marker.word(),
            None => 0,
        }
    }
}
