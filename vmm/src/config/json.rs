//! The vocabulary of the command line, from JSON.
//!
//! Two passes: [`check_keys`] walks the document and answers an unknown key with the nearest valid one
//! and with where it stands; serde then reads the values and refuses what has the wrong type.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess};
use serde_json::Value;

use super::{BalloonConfig, DiskConfig, Error, MemoryConfig, TrackConfig, VmConfig, words};

/// `Deserialize` through `FromStr`, for values that are single words.
macro_rules! deserialize_from_str {
    ($type:ty, $expecting:literal) => {
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $crate::config::json::word(deserializer, $expecting)
            }
        }
    };
}
pub(super) use deserialize_from_str;

/// Reads a value from a string through its `FromStr`.
pub(super) fn word<'de, D, T>(deserializer: D, expecting: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: FromStr<Err = Error>,
{
    struct Visitor<T>(&'static str, PhantomData<T>);
    impl<T: FromStr<Err = Error>> de::Visitor<'_> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }
    }
    deserializer.deserialize_str(Visitor(expecting, PhantomData))
}

/// A type that is written as a string or as an object.
pub(super) trait StringOrObject<'de>: FromStr<Err = Error> {
    /// What to ask for where neither is found.
    const EXPECTING: &'static str;

    /// Reads the object.
    fn from_object<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error>;
}

/// Reads a value from a string, as on the command line, or from an object.
pub(super) fn string_or_object<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: StringOrObject<'de>,
{
    struct Visitor<T>(PhantomData<T>);
    impl<'de, T: StringOrObject<'de>> de::Visitor<'de> for Visitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTING)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::from_object(MapAccessDeserializer::new(map))
        }
    }
    deserializer.deserialize_any(Visitor(PhantomData))
}

/// Reads a switch from `true`, `false`, `"on"` or `"off"`.
pub(super) fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    struct Visitor;
    impl de::Visitor<'_> for Visitor {
        type Value = bool;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("true, false, \"on\" or \"off\"")
        }

        fn visit_bool<E: de::Error>(self, on: bool) -> Result<bool, E> {
            Ok(on)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<bool, E> {
            words::switch("switch", text).map_err(E::custom)
        }
    }
    deserializer.deserialize_any(Visitor)
}

/// Refuses every unknown key of a configuration, at any depth.
///
/// Values of the wrong type are left for serde to refuse.
///
/// # Errors
/// [`Error::UnknownKey`].
pub(super) fn check_keys(document: &Value) -> Result<(), Error> {
    check_object(document, "the configuration", VmConfig::KEYS)?;
    check_object(&document["memory"], "memory", MemoryConfig::KEYS)?;
    check_object(&document["balloon"], "balloon", BalloonConfig::KEYS)?;
    check_object(&document["track"], "track", TrackConfig::KEYS)?;
    for (index, disk) in document["disks"].as_array().into_iter().flatten().enumerate() {
        check_object(disk, &format!("disks[{index}]"), DiskConfig::KEYS)?;
    }
    Ok(())
}

fn check_object(value: &Value, place: &str, keys: &'static [&'static str]) -> Result<(), Error> {
    for key in value.as_object().into_iter().flat_map(|object| object.keys()) {
        words::known(key, place, keys)?;
    }
    Ok(())
}
