//! Sizes in bytes, as people write them: `512M`, `3G`, `4096K`, or plain bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serializer, de};

use super::Error;

/// The suffixes, largest first, and how many bits each one shifts. Powers of 1024 throughout.
const SUFFIXES: [(char, u32); 5] = [('P', 50), ('T', 40), ('G', 30), ('M', 20), ('K', 10)];

/// A size in bytes that is written in the largest unit in which it is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = SUFFIXES.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift);
        // Through `pad`, so that a width in a format string is honoured.
        match unit {
            Some((suffix, shift)) => f.pad(&format!("{}{suffix}", self.0 >> shift)),
            None => f.pad(&self.0.to_string()),
        }
    }
}

impl FromStr for Size {
    type Err = Error;

    /// Reads a whole number with an optional suffix K, M, G, T or P of either case.
    ///
    /// # Errors
    /// [`Error::Size`] for anything else, [`Error::SizeTooLarge`] for 2^64 bytes and more.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::Size { value: text.to_owned() };
        let last = text.chars().next_back().ok_or_else(bad)?;
        let shift =
            SUFFIXES.iter().find(|(suffix, _)| last.eq_ignore_ascii_case(suffix)).map(|(_, shift)| *shift);
        let digits = match shift {
            Some(_) => &text[..text.len() - last.len_utf8()],
            None => text,
        };
        // `u64::from_str` would take a leading plus sign.
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(bad());
        }
        // All digits: the only thing that can be wrong is that there are too many of them.
        let too_large = || Error::SizeTooLarge { value: text.to_owned() };
        let number: u64 = digits.parse().map_err(|_| too_large())?;
        number.checked_mul(1 << shift.unwrap_or(0)).map(Size).ok_or_else(too_large)
    }
}

/// Serialises a `u64` field as a size string; for `#[serde(with = "size")]`.
///
/// # Errors
/// Those of the serialiser.
pub(super) fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&Size(*bytes))
}

/// Reads a `u64` field from a size string or a number of bytes.
///
/// # Errors
/// As [`Size::from_str`]; negative numbers and fractions are refused.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = u64;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a size such as \"512M\", or a whole number of bytes")
        }

        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            text.parse::<Size>().map(|size| size.0).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor)
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_is_a_power_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4097", 4097),
            ("4096K", 4 << 20),
            ("512M", 512 << 20),
            ("512m", 512 << 20),
            ("3G", 3 << 30),
            ("2T", 2 << 40),
            ("1P", 1 << 50),
        ] {
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes), "{text}");
        }
    }

    #[test]
    fn display_uses_the_largest_exact_unit() {
        for (bytes, text) in [
            (0, "0"),
            (1, "1"),
            (1023, "1023"),
            (4096, "4K"),
            (4097, "4097"),
            (3 << 30, "3G"),
            ((3 << 30) + (1 << 20), "3073M"),
            (u64::MAX, "18446744073709551615"),
        ] {
            assert_eq!(Size(bytes).to_string(), text);
            assert_eq!(text.parse::<Size>().unwrap(), Size(bytes));
        }
    }

    #[test]
    fn what_is_not_a_size_is_refused_and_named() {
        for text in ["", "M", "-1M", "+1M", "1.5G", "512MB", "512 M", "0x1000", "1G2M", "é", "1é"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(matches!(&error, Error::Size { value } if value == text), "{text}: {error}");
        }
    }

    #[test]
    fn sizes_beyond_64_bits_are_refused_not_wrapped() {
        for text in ["18446744073709551616", "16384P", "99999999999999999999999G"] {
            assert!(matches!(text.parse::<Size>(), Err(Error::SizeTooLarge { .. })), "{text}");
        }
        assert_eq!("16383P".parse::<Size>().unwrap(), Size(16383 << 50));
    }
}
