//! Errors of the operations. Each leaves the tables as they were.

use core::fmt;

use crate::attributes::AttributesError;

/// Why an operation on tables was refused. Nothing has changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The range is empty, runs backwards, or leaves the input address space.
    Range {
        /// First address asked for.
        start: u64,
        /// First address after it.
        end: u64,
        /// Bytes of input address space.
        ipa_size: u64,
    },
    /// An address or length that isn't a multiple of the granule.
    Misaligned {
        /// The address.
        address: u64,
        /// The granule in bytes.
        granule: u64,
    },
    /// Output addresses beyond the configured output size.
    Output {
        /// First output address asked for.
        oa: u64,
        /// The output size in bits.
        oa_bits: u32,
    },
    /// There is a valid leaf where something new was to be mapped.
    Mapped {
        /// The first such address.
        ipa: u64,
    },
    /// No frames left: so many were needed and not to be had.
    Frames {
        /// Frames that the operation needs.
        needed: u64,
    },
    /// The allocator returned a frame that descriptors can't hold, or a misaligned one.
    BadFrame {
        /// Its physical address.
        frame: u64,
    },
    /// Attributes that the configuration can't encode.
    Attributes(AttributesError),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { start, end, ipa_size } => write!(
                f,
                "range {start:#x}..{end:#x} is empty or leaves the input address space of {ipa_size:#x} bytes"
            ),
            Self::Misaligned { address, granule } => {
                write!(f, "address {address:#x} is not a multiple of the granule of {granule:#x} bytes")
            }
            Self::Output { oa, oa_bits } => {
                write!(f, "the output from {oa:#x} on does not fit into {oa_bits} bits of output address")
            }
            Self::Mapped { ipa } => write!(f, "{ipa:#x} is mapped already: clear it first"),
            Self::Frames { needed } => write!(f, "out of table frames: {needed} needed"),
            Self::BadFrame { frame } => {
                write!(f, "the allocator returned {frame:#x}, which is misaligned or beyond the address size")
            }
            Self::Attributes(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for Error {}

impl From<AttributesError> for Error {
    fn from(error: AttributesError) -> Self {
        Self::Attributes(error)
    }
}
