//! One virtio-block device on a raw file.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Error, json, words};

/// One virtio-block device on a raw file.
///
/// Written `PATH[,ro]`, or in JSON as an object with the keys `path` and `ro`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, remote = "Self")]
pub struct DiskConfig {
    /// The raw image: a file or a block device, a whole number of 512-byte sectors.
    pub path: PathBuf,
    /// The guest may not write.
    #[serde(rename = "ro", default, deserialize_with = "json::switch")]
    pub read_only: bool,
}

impl DiskConfig {
    /// The keys of the JSON object.
    pub(super) const KEYS: &'static [&'static str] = &["path", "ro"];
}

impl fmt::Display for DiskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&words::escape(&self.path.to_string_lossy()))?;
        f.write_str(if self.read_only { ",ro" } else { "" })
    }
}

impl FromStr for DiskConfig {
    type Err = Error;

    /// Reads the form of the command line.
    ///
    /// # Errors
    /// [`Error::EmptyPath`], [`Error::DiskOption`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut words = words::split(text).into_iter();
        let path = PathBuf::from(words.next().unwrap_or_default());
        if path.as_os_str().is_empty() {
            return Err(Error::EmptyPath { what: "disk" });
        }
        let mut read_only = false;
        for word in words {
            if word != "ro" {
                return Err(Error::DiskOption { value: word });
            }
            read_only = true;
        }
        Ok(Self { path, read_only })
    }
}

impl<'de> json::StringOrObject<'de> for DiskConfig {
    const EXPECTING: &'static str = "an object, or a string such as \"disk.img,ro\"";

    fn from_object<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The derived implementation, which `remote = "Self"` makes an inherent function.
        Self::deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for DiskConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::string_or_object(deserializer)
    }
}

impl Serialize for DiskConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_writable_unless_it_says_ro() {
        for (text, path, read_only) in
            [("a.img", "a.img", false), ("a.img,ro", "a.img", true), ("a,,b=c.img,ro", "a,b=c.img", true)]
        {
            let disk: DiskConfig = text.parse().unwrap();
            assert_eq!(disk, DiskConfig { path: path.into(), read_only });
            assert_eq!(disk.to_string(), text);
        }
    }

    #[test]
    fn an_unknown_disk_option_is_not_taken_for_a_part_of_the_path() {
        for text in ["a.img,rw", "a,b.img", "a.img,"] {
            let message = text.parse::<DiskConfig>().unwrap_err().to_string();
            assert!(message.contains("the only one is \"ro\""), "{message}");
        }
        assert!(matches!(",ro".parse::<DiskConfig>(), Err(Error::EmptyPath { .. })));
    }
}
