//! Whether vCPUs have EL2, and of which kind.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Error;

/// Whether vCPUs have EL2: a guest that starts there can be a hypervisor itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum El2 {
    /// The guest starts at EL1 and has nothing above it.
    #[default]
    Off,
    /// The guest starts at EL2, and `HCR_EL2.E2H` is 1 whatever it writes: EL2 is as a host's kernel
    /// likes it (the Virtualization Host Extensions).
    On,
    /// The guest starts at EL2 and may clear `HCR_EL2.E2H`, as a hypervisor of its own does that has the
    /// kernel below it at EL1. Fewer CPUs can give it.
    E2h0,
}

impl El2 {
    /// The words that [`FromStr`] takes.
    pub(super) const VALUES: &'static [&'static str] = &["on", "e2h0", "off"];

    /// Whether the guest starts at EL2.
    pub const fn is_on(self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Whether there is nothing to write into a configuration.
    pub(super) const fn is_off(&self) -> bool {
        !self.is_on()
    }
}

impl fmt::Display for El2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::On => "on",
            Self::E2h0 => "e2h0",
        })
    }
}

impl FromStr for El2 {
    type Err = Error;

    /// Reads one of the words.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for another word.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "off" => Ok(Self::Off),
            "on" => Ok(Self::On),
            "e2h0" => Ok(Self::E2h0),
            _ => Err(Error::UnknownValue { what: "el2", value: text.to_owned(), valid: Self::VALUES }),
        }
    }
}

impl Serialize for El2 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for El2 {
    /// Reads one of the words, or a switch.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = El2;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false, \"on\", \"e2h0\" or \"off\"")
            }

            fn visit_bool<E: de::Error>(self, on: bool) -> Result<El2, E> {
                Ok(if on { El2::On } else { El2::Off })
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<El2, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_written_back() {
        for word in El2::VALUES {
            assert_eq!(word.parse::<El2>().unwrap().to_string(), *word);
        }
        let message = "vhe".parse::<El2>().unwrap_err().to_string();
        assert!(message.contains("unknown el2 \"vhe\": use on, e2h0 or off"), "{message}");
    }

    #[test]
    fn json_takes_a_switch_too() {
        let read = |text: &str| serde_json::from_str::<El2>(text);
        for (text, expected) in [
            ("true", El2::On),
            ("false", El2::Off),
            ("\"on\"", El2::On),
            ("\"off\"", El2::Off),
            ("\"e2h0\"", El2::E2h0),
        ] {
            assert_eq!(read(text).unwrap(), expected, "{text}");
        }
        for text in ["1", "null", "\"E2H0\"", "{}"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
