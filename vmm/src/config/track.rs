//! What is tracked of the guest's use of its memory.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Error, json, words};

/// What is tracked of the guest's use of its memory: what it writes, and what it uses at all.
///
/// Written `[dirty=on|off][,young=off|presence|faults|damon]`, or in JSON as an object with the same keys. What
/// is not named is off, and what is off is not known: all of memory counts as dirty then, and as young.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct TrackConfig {
    /// KVM's dirty log, and the writes of devices.
    #[serde(deserialize_with = "json::switch")]
    pub dirty: bool,
    /// What sees pages used.
    pub young: Watch,
}

impl TrackConfig {
    /// The keys, in the order in which they are written.
    pub(super) const KEYS: &'static [&'static str] = &["dirty", "young"];

    /// Whether there is nothing to write into a configuration.
    pub(super) fn is_off(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for TrackConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dirty={},young={}", if self.dirty { "on" } else { "off" }, self.young)
    }
}

impl FromStr for TrackConfig {
    type Err = Error;

    /// Reads the form of the command line.
    ///
    /// # Errors
    /// [`Error::UnknownKey`], [`Error::UnknownValue`], [`Error::KeyTwice`], [`Error::NoValue`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut track = Self::default();
        let mut seen = Vec::new();
        for word in words::split(text) {
            match words::key_value(&word, "--track", Self::KEYS, &mut seen)? {
                ("dirty", value) => track.dirty = words::switch("dirty", value)?,
                (_, value) => track.young = value.parse()?,
            }
        }
        Ok(track)
    }
}

impl<'de> json::StringOrObject<'de> for TrackConfig {
    const EXPECTING: &'static str = "an object, or a string such as \"dirty=on,young=presence\"";

    fn from_object<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The derived implementation, which `remote = "Self"` makes an inherent function.
        Self::deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for TrackConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::string_or_object(deserializer)
    }
}

impl Serialize for TrackConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// What sees pages used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Watch {
    /// Nothing: all of memory counts as young.
    #[default]
    Off,
    /// Presence in the page tables, which is taken away to see it come back: memfd and file.
    Presence,
    /// userfaultfd: the first use of what was never used, or was given back since. anon and memfd.
    Faults,
    /// DAMON, the kernel's sampling monitor: any memory, for root.
    Damon,
}

impl Watch {
    /// The words that [`FromStr`] takes.
    pub const VALUES: &'static [&'static str] = &["off", "presence", "faults", "damon"];
}

impl fmt::Display for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Presence => "presence",
            Self::Faults => "faults",
            Self::Damon => "damon",
        })
    }
}

impl FromStr for Watch {
    type Err = Error;

    /// Reads one of the words.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for another word.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "off" => Ok(Self::Off),
            "presence" => Ok(Self::Presence),
            "faults" => Ok(Self::Faults),
            "damon" => Ok(Self::Damon),
            _ => Err(Error::UnknownValue { what: "young", value: text.to_owned(), valid: Self::VALUES }),
        }
    }
}

impl Serialize for Watch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

json::deserialize_from_str!(Watch, "\"off\", \"presence\", \"faults\" or \"damon\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_read_and_written_back() {
        for word in Watch::VALUES {
            let text = format!("dirty=on,young={word}");
            let track: TrackConfig = text.parse().unwrap();
            assert_eq!((track.dirty, track.to_string()), (true, text.clone()));
            let json = serde_json::to_string(&track).unwrap();
            assert_eq!(serde_json::from_str::<TrackConfig>(&json).unwrap(), track);
            assert_eq!(serde_json::from_str::<TrackConfig>(&format!("{text:?}")).unwrap(), track);
        }
        let young: TrackConfig = "young=damon".parse().unwrap();
        assert_eq!(young, TrackConfig { dirty: false, young: Watch::Damon });
    }

    #[test]
    fn wrong_words_are_refused_and_the_right_ones_named() {
        for (text, expected) in [
            ("dirt=on", "did you mean \"dirty\"?"),
            ("dirty", "\"dirty\" needs a value"),
            ("dirty=yes", "on or off"),
            ("young=zap", "off, presence, faults or damon"),
            ("dirty=on,dirty=off", "\"dirty\" is given twice"),
            ("", "unknown key"),
        ] {
            let message = text.parse::<TrackConfig>().unwrap_err().to_string();
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
