//! A balloon: what it holds, what it may take, and in which units memory is given back.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{BlockSize, Error, Size, json, size, words};

/// A virtio-balloon device.
///
/// Written `[size=SIZE][,stats=SECONDS][,report=on|off][,hint=on|off][,deflate-on-oom=on|off]`
/// `[,block=auto|4K|64K|2M|32M|1G][,repopulate=off|block][,must-tell-host=on|off]`, or in JSON as an object
/// with the same keys. What is not named has its default: an empty balloon, everything off, blocks of the
/// size that the memory has, and a guest that must tell before it uses a page again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, remote = "Self", rename_all = "kebab-case")]
pub struct BalloonConfig {
    /// What the guest is asked for from the start, in bytes: a multiple of 4 KiB.
    #[serde(with = "size")]
    pub size: u64,
    /// Seconds between two questions for the guest's statistics; 0 where it is not asked.
    pub stats: u64,
    /// Free page reporting: the guest names the blocks that it has no use for, all by itself.
    #[serde(deserialize_with = "json::switch")]
    pub report: bool,
    /// Free page hinting: the guest names its free blocks when it is asked to.
    #[serde(deserialize_with = "json::switch")]
    pub hint: bool,
    /// The guest may take pages back when it has no others.
    #[serde(deserialize_with = "json::switch")]
    pub deflate_on_oom: bool,
    /// The unit in which memory goes back to the host.
    pub block: BlockSize,
    /// What comes back before the guest is told that it may use a page again.
    pub repopulate: Repopulate,
    /// Whether the guest is asked to tell before it uses a page of the balloon again: without that a page can
    /// be given back only with the descriptor that names it, and what is no whole block is not.
    #[serde(deserialize_with = "json::switch")]
    pub must_tell_host: bool,
}

impl BalloonConfig {
    /// The keys, in the order in which they are written.
    pub(super) const KEYS: &'static [&'static str] =
        &["size", "stats", "report", "hint", "deflate-on-oom", "block", "repopulate", "must-tell-host"];

    /// The unit in which guest and device count, whatever their pages are (virtio 1.3, 5.5.6).
    pub const PAGE: u64 = 4 << 10;

    /// The most that a balloon can be asked to hold: the device counts in 32 bits.
    pub const LARGEST: u64 = u32::MAX as u64 * Self::PAGE;

    /// The longest time between two questions for statistics, in seconds: 18 hours.
    pub const LONGEST_INTERVAL: u64 = u16::MAX as u64;
}

impl Default for BalloonConfig {
    fn default() -> Self {
        Self {
            size: 0,
            stats: 0,
            report: false,
            hint: false,
            deflate_on_oom: false,
            block: BlockSize::Auto,
            repopulate: Repopulate::Off,
            must_tell_host: true,
        }
    }
}

/// What is brought back to guest memory before the guest uses it again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repopulate {
    /// Nothing: each page comes when it is touched.
    #[default]
    Off,
    /// Blocks that leave the balloon, whole.
    Block,
}

impl Repopulate {
    /// The words that [`FromStr`] takes.
    pub(super) const VALUES: &'static [&'static str] = &["off", "block"];
}

impl fmt::Display for Repopulate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Off => "off",
            Self::Block => "block",
        })
    }
}

impl FromStr for Repopulate {
    type Err = Error;

    /// Reads one of the words.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for another word.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "off" => Ok(Self::Off),
            "block" => Ok(Self::Block),
            _ => Err(Error::UnknownValue { what: "repopulate", value: text.to_owned(), valid: Self::VALUES }),
        }
    }
}

impl Serialize for Repopulate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

json::deserialize_from_str!(Repopulate, "\"off\" or \"block\"");

impl fmt::Display for BalloonConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "size={}", Size(self.size))?;
        if self.stats != 0 {
            write!(f, ",stats={}", self.stats)?;
        }
        for (on, word) in
            [(self.report, "report"), (self.hint, "hint"), (self.deflate_on_oom, "deflate-on-oom")]
        {
            if on {
                write!(f, ",{word}=on")?;
            }
        }
        if self.block != BlockSize::Auto {
            write!(f, ",block={}", self.block)?;
        }
        if self.repopulate != Repopulate::Off {
            write!(f, ",repopulate={}", self.repopulate)?;
        }
        if !self.must_tell_host {
            f.write_str(",must-tell-host=off")?;
        }
        Ok(())
    }
}

impl FromStr for BalloonConfig {
    type Err = Error;

    /// Reads the form of the command line; nothing at all is the default balloon. The size may also come
    /// first, without its key.
    ///
    /// # Errors
    /// [`Error::Size`] and its like, [`Error::UnknownKey`], [`Error::UnknownValue`], [`Error::KeyTwice`],
    /// [`Error::NoValue`], [`Error::StatisticsSeconds`].
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut balloon = Self::default();
        if text.is_empty() {
            return Ok(balloon);
        }
        let mut seen = Vec::new();
        for (index, word) in words::split(text).iter().enumerate() {
            if index == 0 && word.starts_with(|first: char| first.is_ascii_digit()) && !word.contains('=') {
                balloon.size = word.parse::<Size>()?.0;
                seen.push("size");
                continue;
            }
            match words::key_value(word, "--balloon", Self::KEYS, &mut seen)? {
                ("size", value) => balloon.size = value.parse::<Size>()?.0,
                ("stats", value) => balloon.stats = seconds(value)?,
                ("report", value) => balloon.report = words::switch("report", value)?,
                ("hint", value) => balloon.hint = words::switch("hint", value)?,
                ("deflate-on-oom", value) => balloon.deflate_on_oom = words::switch("deflate-on-oom", value)?,
                ("block", value) => balloon.block = value.parse()?,
                ("repopulate", value) => balloon.repopulate = value.parse()?,
                (_, value) => balloon.must_tell_host = words::switch("must-tell-host", value)?,
            }
        }
        Ok(balloon)
    }
}

/// A whole number of seconds.
fn seconds(text: &str) -> Result<u64, Error> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    // All digits: what doesn't fit is too long, which is said when the whole is validated.
    if digits {
        Ok(text.parse().unwrap_or(u64::MAX))
    } else {
        Err(Error::StatisticsSeconds { value: text.to_owned() })
    }
}

impl<'de> json::StringOrObject<'de> for BalloonConfig {
    const EXPECTING: &'static str = "an object, or a string such as \"size=256M,stats=5\"";

    fn from_object<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The derived implementation, which `remote = "Self"` makes an inherent function.
        Self::deserialize(deserializer)
    }
}

impl<'de> Deserialize<'de> for BalloonConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        json::string_or_object(deserializer)
    }
}

impl Serialize for BalloonConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "size=256M,stats=5,report=on,hint=on,deflate-on-oom=on,block=2M,repopulate=block,\
                       must-tell-host=off";

    fn read(text: &str) -> BalloonConfig {
        text.parse().unwrap()
    }

    fn refusal(text: &str) -> String {
        text.parse::<BalloonConfig>().unwrap_err().to_string()
    }

    #[test]
    fn nothing_is_an_empty_balloon_that_must_be_told() {
        assert_eq!(read(""), BalloonConfig::default());
        assert!(read("").must_tell_host);
    }

    #[test]
    fn every_key_is_read_and_written_back() {
        let balloon = BalloonConfig {
            size: 256 << 20,
            stats: 5,
            report: true,
            hint: true,
            deflate_on_oom: true,
            block: BlockSize::Size2M,
            repopulate: Repopulate::Block,
            must_tell_host: false,
        };
        assert_eq!(read(ALL), balloon);
        assert_eq!(balloon.to_string(), ALL);
        assert_eq!(read("256M,stats=5").to_string(), "size=256M,stats=5");
        assert_eq!(read("report=off,must-tell-host=on,repopulate=off,block=auto"), BalloonConfig::default());
    }

    #[test]
    fn an_unknown_key_names_the_nearest_one() {
        for (text, nearest) in [
            ("sise=1M", "size"),
            ("stat=5", "stats"),
            ("reports=on", "report"),
            ("deflate_on_oom=on", "deflate-on-oom"),
            ("must-tell=on", "must-tell-host"),
        ] {
            let message = refusal(text);
            assert!(message.contains(&format!("in --balloon: did you mean \"{nearest}\"?")), "{message}");
        }
    }

    #[test]
    fn wrong_values_are_refused_and_named() {
        for (text, expected) in [
            ("size=much", "\"much\" is not a size"),
            ("12X", "\"12X\" is not a size"),
            ("stats=often", "\"often\" is not a number of seconds"),
            ("stats=-1", "\"-1\" is not a number of seconds"),
            ("stats=", "\"\" is not a number of seconds"),
            ("report=yes", "on or off"),
            ("block=3M", "auto, 4K, 64K, 2M, 32M or 1G"),
            ("repopulate=page", "off or block"),
            ("hint", "\"hint\" needs a value"),
            ("1M,size=2M", "\"size\" is given twice"),
        ] {
            let message = refusal(text);
            assert!(message.contains(expected), "{text}: {message}");
        }
    }
}
