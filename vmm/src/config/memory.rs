//! Guest RAM: how much, of what, in which blocks.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Backing, BlockSize, Error, Size, json, size, words};

/// Guest RAM: how much, of what, in which blocks.
///
/// Written `SIZE[,backing=anon|memfd|hugetlb|file:PATH|private:PATH]
/// [,block=auto|4K|64K|2M|32M|1G][,prefault=on|off]`, or in JSON as an object with the keys `size`, `backing`, `block` and `prefault`. What is not named has its
/// default: 512M, anon, auto, off.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self")]
pub struct MemoryConfig {
    /// Size in bytes; a whole number of blocks.
    #[serde(with = "size")]
    pub size: u64,
    /// What the host allocates it from.
    pub backing: Backing,
    /// The unit in which the host is asked to allocate it.
    pub block: BlockSize,
    /// Populate all of it before the guest starts.
    #[serde(deserialize_with = "json::switch")]
    pub prefault: bool,
}

impl MemoryConfig {
    /// The keys, in the order in which they are written.
    pub(super) const KEYS: &'static [&'static str] = &["size", "backing", "block", "prefault"];
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { size: 512 << 20, backing: Backing::Anon, block: BlockSize::Auto, prefault: false }
    }
}

impl fmt::Display for MemoryConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", Size(self.size))?;
        if self.backing != Backing::Anon {
            write!(f, ",backing={}", words::escape(&self.backing.to_string()))?;
        }
        if self.block != BlockSize::Auto {
            write!(f, ",block={}", self.block)?;
        }
        if self.prefault {
            f.write_str(",prefault=on")?;
        }
        Ok(())
    }
}

impl FromStr for MemoryConfig {
    type Err = Error;

    /// Reads the form of the command line. The size may also be written `size=SIZE`, in any place.
    ///
    /// # Errors
    /// [`Error::Size`] and its like, [`Error::UnknownKey`], [`Error::UnknownValue`], [`Error::KeyTwice`],
    /// [`Error::NoValue`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut memory = Self::default();
        let mut seen = Vec::new();
        for (index, word) in words::split(text).iter().enumerate() {
            if index == 0 && !word.contains('=') {
                memory.size = word.parse::<Size>()?.0;
                seen.push("size");
                continue;
            }
            match words::key_value(word, "--memory", Self::KEYS, &mut seen)? {
                ("size", value) => memory.size = value.parse::<Size>()?.0,
                ("backing", value) => memory.backing = value.parse()?,
                ("block", value) => memory.block = value.parse()?,
                (_, value) => memory.prefault = words::switch("prefault", value)?,
            }
        }
        Ok(memory)
    }
}

impl<'de> json::StringOrObject<'de> for MemoryConfig {
    const EXPECTING: &'static str = "an object, or a string such as \"1G,backing=memfd\"";

    fn from_object<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The derived implementation, which `remote = "Self"` makes an inherent function.
        Self::deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for MemoryConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::string_or_object(deserializer)
    }
}

impl Serialize for MemoryConfig {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> MemoryConfig {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<MemoryConfig>().unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_named_has_its_default() {
        assert_eq!(read("1G"), MemoryConfig { size: 1 << 30, ..MemoryConfig::default() });
        assert_eq!(read("block=2M"), MemoryConfig { block: BlockSize::Size2M, ..MemoryConfig::default() });
    }

    #[test]
    fn every_key_is_read_in_any_order() {
        let memory = MemoryConfig {
            size: 3 << 30,
            backing: Backing::Hugetlb,
            block: BlockSize::Size1G,
            prefault: true,
        };
        assert_eq!(read("3G,backing=hugetlb,block=1G,prefault=on"), memory);
        assert_eq!(read("prefault=on,block=1G,size=3G,backing=hugetlb"), memory);
        assert!(!read("3G,prefault=off").prefault);
    }

    #[test]
    fn a_path_with_commas_and_equals_signs_survives() {
        let memory = read("1G,backing=file:/srv/a,,b=c.ram,block=4K");
        assert_eq!(memory.backing, Backing::File("/srv/a,b=c.ram".into()));
        assert_eq!(read(&memory.to_string()), memory);
    }

    #[test]
    fn display_is_read_back_as_the_same_memory() {
        for text in ["512M", "1G,backing=memfd", "3G,backing=hugetlb,block=1G,prefault=on"] {
            assert_eq!(read(text).to_string(), text);
        }
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        assert_eq!(
            refusal("1G,blok=2M"),
            "unknown key \"blok\" in --memory: did you mean \"block\"? (valid: size, backing, block, prefault)"
        );
        assert!(refusal("1G,preflt").contains("did you mean \"prefault\"?"));
        assert!(refusal("1G,").contains("unknown key \"\""));
    }

    #[test]
    fn a_key_without_value_or_given_twice_is_refused() {
        assert_eq!(refusal("1G,prefault"), "\"prefault\" needs a value: write prefault=...");
        assert!(refusal("1G,block=2M,block=4K").contains("\"block\" is given twice"));
        assert!(refusal("1G,size=2G").contains("\"size\" is given twice"));
    }

    #[test]
    fn unknown_values_list_the_valid_ones() {
        assert!(refusal("1G,backing=memfs").contains("anon, memfd, hugetlb, file:PATH or private:PATH"));
        assert!(refusal("1G,block=3M").contains("auto, 4K, 64K, 2M, 32M or 1G"));
        assert!(refusal("1G,prefault=yes").contains("on or off"));
        assert!(refusal("lots").contains("\"lots\""));
        assert!(refusal("").contains("\"\""));
    }
}
