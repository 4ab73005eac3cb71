//! What guest RAM is allocated from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Serialize, Serializer, ser};

use super::Error;

/// What guest RAM is allocated from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// Private anonymous memory, in transparent huge pages where the block size asks for them.
    #[default]
    Anon,
    /// A memfd, mapped shared.
    Memfd,
    /// A memfd of huge pages from the pool of the block size.
    Hugetlb,
    /// A file, mapped shared: it holds the guest's memory after the guest has gone.
    File(PathBuf),
    /// A file, mapped private: the guest starts with what it holds, and it is never written.
    Private(PathBuf),
}

impl Backing {
    /// The words that [`FromStr`] takes.
    pub(super) const VALUES: &'static [&'static str] =
        &["anon", "memfd", "hugetlb", "file:PATH", "private:PATH"];
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anon => f.pad("anon"),
            Self::Memfd => f.pad("memfd"),
            Self::Hugetlb => f.pad("hugetlb"),
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Private(path) => write!(f, "private:{}", path.display()),
        }
    }
}

impl FromStr for Backing {
    type Err = Error;

    /// Reads one of the words; a path is taken as it stands.
    ///
    /// # Errors
    /// [`Error::UnknownValue`] for another word, [`Error::EmptyPath`] for `file:` or `private:` alone.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text {
            "anon" => Ok(Self::Anon),
            "memfd" => Ok(Self::Memfd),
            "hugetlb" => Ok(Self::Hugetlb),
            _ => match text.split_once(':') {
                Some(("file" | "private", "")) => Err(Error::EmptyPath { what: "backing file" }),
                Some(("file", path)) => Ok(Self::File(path.into())),
                Some(("private", path)) => Ok(Self::Private(path.into())),
                _ => {
                    Err(Error::UnknownValue { what: "backing", value: text.to_owned(), valid: Self::VALUES })
                }
            },
        }
    }
}

impl Serialize for Backing {
    /// # Errors
    /// Where the path of a file is not UTF-8: it could not be read back.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) | Self::Private(path) if path.to_str().is_none() => {
                Err(ser::Error::custom("the path is not UTF-8"))
            }
            _ => serializer.collect_str(self),
        }
    }
}

super::json::deserialize_from_str!(Backing, "a backing such as \"memfd\"");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_backing_is_read_and_written_back() {
        for text in ["anon", "memfd", "hugetlb", "file:/dev/shm/ram,1=2:3", "private:/srv/ram:1"] {
            assert_eq!(text.parse::<Backing>().unwrap().to_string(), text);
        }
        assert_eq!("file:a:b".parse::<Backing>().unwrap(), Backing::File("a:b".into()));
    }

    #[test]
    fn unknown_backings_list_the_valid_ones() {
        for text in ["memfs", "", "Anon", "file", "private", "files:x", "/dev/shm/ram"] {
            let message = text.parse::<Backing>().unwrap_err().to_string();
            assert!(message.contains("anon, memfd, hugetlb, file:PATH or private:PATH"), "{message}");
        }
    }

    #[test]
    fn a_backing_file_needs_a_name() {
        for text in ["file:", "private:"] {
            assert!(matches!(text.parse::<Backing>(), Err(Error::EmptyPath { .. })));
        }
    }
}
