//! The unit in which the host is asked to allocate guest RAM.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{Error, Size};

/// The unit in which the host is asked to allocate guest RAM.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BlockSize {
    /// The largest that the backing and the host give.
    #[default]
    Auto,
    /// Base pages.
    Size4K,
    /// One contiguous group of 4 KiB pages.
    Size64K,
    /// One level-2 block with a 4 KiB granule.
    Size2M,
    /// One contiguous group of 2 MiB blocks, or a level-2 block with a 16 KiB granule.
    Size32M,
    /// One level-1 block with a 4 KiB granule.
    Size1G,
}

impl BlockSize {
    /// Every fixed size, smallest first.
    pub const FIXED: [Self; 5] = [Self::Size4K, Self::Size64K, Self::Size2M, Self::Size32M, Self::Size1G];

    /// The words that [`FromStr`] takes.
    pub(super) const VALUES: &'static [&'static str] = &["auto", "4K", "64K", "2M", "32M", "1G"];

    /// The size in bytes; `None` for [`BlockSize::Auto`].
    #[must_use]
    pub const fn bytes(self) -> Option<u64> {
        match self {
            Self::Auto => None,
            Self::Size4K => Some(4 << 10),
            Self::Size64K => Some(64 << 10),
            Self::Size2M => Some(2 << 20),
            Self::Size32M => Some(32 << 20),
            Self::Size1G => Some(1 << 30),
        }
    }
}

impl fmt::Display for BlockSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bytes() {
            Some(bytes) => Size(bytes).fmt(f),
            None => f.pad("auto"),
        }
    }
}

impl FromStr for BlockSize {
    type Err = Error;

    /// Reads `auto` or one of the sizes, in any notation that [`Size`] takes (`2048K` is `2M`).
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for every other word.
    fn from_str(text: &str) -> Result<Self, Error> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let bytes = text.parse::<Size>().ok().map(|size| size.0);
        Self::FIXED.into_iter().find(|block| bytes.is_some() && block.bytes() == bytes).ok_or_else(|| {
            Error::UnknownValue { what: "block size", value: text.to_owned(), valid: Self::VALUES }
        })
    }
}

impl Serialize for BlockSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

super::json::deserialize_from_str!(BlockSize, "a block size such as \"2M\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_value_is_read_and_written_back() {
        for value in BlockSize::VALUES {
            assert_eq!(value.parse::<BlockSize>().unwrap().to_string(), *value);
        }
        assert_eq!(BlockSize::VALUES.len(), BlockSize::FIXED.len() + 1);
    }

    #[test]
    fn other_notations_of_a_valid_size_are_taken() {
        assert_eq!("2048k".parse::<BlockSize>().unwrap(), BlockSize::Size2M);
        assert_eq!("65536".parse::<BlockSize>().unwrap(), BlockSize::Size64K);
    }

    #[test]
    fn unknown_block_sizes_list_the_valid_ones() {
        for value in ["8K", "0", "huge", "", "AUTO"] {
            let message = value.parse::<BlockSize>().unwrap_err().to_string();
            assert!(message.contains("auto, 4K, 64K, 2M, 32M or 1G"), "{message}");
        }
    }
}
