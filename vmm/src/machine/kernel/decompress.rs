//! gzip and zstd, with a limit.

use std::error::Error;
use std::io::{self, BufRead, Read};

use flate2::bufread::GzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::{MAX_SIZE, Reason};

/// How a kernel is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// RFC 1952.
    Gzip,
    /// RFC 8878.
    Zstd,
}

impl Method {
    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// Decompresses all of `input`; room for `size_hint` bytes is made at the start.
    ///
    /// What follows the first gzip member or zstd frame is left alone: signatures are appended there.
    ///
    /// # Errors
    /// [`Reason::CompressedTruncated`], [`Reason::Corrupt`]; [`Reason::Bomb`] beyond [`MAX_SIZE`].
    pub(super) fn decompress(self, input: impl BufRead, size_hint: u64) -> Result<Vec<u8>, Reason> {
        self.decompress_up_to(MAX_SIZE, input, size_hint)
    }

    fn decompress_up_to(self, limit: u64, input: impl BufRead, size_hint: u64) -> Result<Vec<u8>, Reason> {
        let mut bytes = Vec::new();
        // A hint that no kernel has is nobody's.
        if let Ok(capacity) = usize::try_from(size_hint)
            && size_hint <= limit
        {
            // One more byte, so that the end is found without growing.
            bytes.reserve_exact(capacity + 1);
        }
        let outcome = match self {
            Self::Gzip => GzDecoder::new(input).take(limit + 1).read_to_end(&mut bytes),
            Self::Zstd => StreamingDecoder::new(input)
                .map_err(io::Error::other)
                .and_then(|decoder| decoder.take(limit + 1).read_to_end(&mut bytes)),
        };
        match outcome {
            Ok(_) if bytes.len() as u64 > limit => Err(Reason::Bomb),
            Ok(_) => Ok(bytes),
            Err(error) if ends_early(&error) => Err(Reason::CompressedTruncated { method: self.name() }),
            Err(source) => Err(Reason::Corrupt { method: self.name(), source }),
        }
    }
}

/// Whether an unexpected end is at the bottom of `error`: the zstd decoder wraps it several times.
fn ends_early(error: &io::Error) -> bool {
    let is_end = |error: &io::Error| error.kind() == io::ErrorKind::UnexpectedEof;
    let mut cause = error.get_ref().map(|inner| inner as &(dyn Error + 'static));
    while let Some(inner) = cause {
        if inner.downcast_ref().is_some_and(is_end) {
            return true;
        }
        cause = inner.source();
    }
    is_end(error)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gzip, zstd};
    use super::*;

    fn packed(method: Method, bytes: &[u8]) -> Vec<u8> {
        match method {
            Method::Gzip => gzip(bytes),
            Method::Zstd => zstd(bytes),
        }
    }

    /// Something that neither compresses to nothing nor not at all.
    fn content() -> Vec<u8> {
        (0..40_000u32).flat_map(|word| (word.wrapping_mul(2_654_435_761) >> 20).to_le_bytes()).collect()
    }

    #[test]
    fn what_was_compressed_comes_back_whatever_the_hint() {
        for method in [Method::Gzip, Method::Zstd] {
            let packed = packed(method, &content());
            for hint in [0, 5, content().len() as u64, MAX_SIZE, u64::MAX] {
                assert_eq!(method.decompress(packed.as_slice(), hint).unwrap(), content(), "{method:?}");
            }
        }
    }

    #[test]
    fn what_follows_the_data_is_left_alone() {
        for method in [Method::Gzip, Method::Zstd] {
            let mut packed = packed(method, &content());
            packed.extend_from_slice(b"signature");
            assert_eq!(method.decompress(packed.as_slice(), 0).unwrap(), content(), "{method:?}");
        }
    }

    #[test]
    fn data_cut_off_anywhere_is_truncated() {
        for method in [Method::Gzip, Method::Zstd] {
            let packed = packed(method, &content());
            for length in [2, 5, 30, packed.len() / 2, packed.len() - 1] {
                let refused = method.decompress(&packed[..length], 0);
                assert!(
                    matches!(refused, Err(Reason::CompressedTruncated { .. })),
                    "{method:?} of {length}: {refused:?}"
                );
            }
        }
    }

    #[test]
    fn damaged_data_is_refused() {
        for method in [Method::Gzip, Method::Zstd] {
            let mut packed = packed(method, &content());
            let middle = packed.len() / 2;
            packed[4..middle].fill(0xa5);
            let refused = method.decompress(packed.as_slice(), 0);
            assert!(
                matches!(refused, Err(Reason::Corrupt { .. } | Reason::CompressedTruncated { .. })),
                "{method:?}: {refused:?}"
            );
        }
    }

    #[test]
    fn a_bomb_stops_at_the_limit() {
        for method in [Method::Gzip, Method::Zstd] {
            let packed = packed(method, &vec![0; 100_001]);
            assert!(matches!(method.decompress_up_to(100_000, packed.as_slice(), 0), Err(Reason::Bomb)));
            assert_eq!(method.decompress_up_to(100_001, packed.as_slice(), 0).unwrap().len(), 100_001);
        }
    }
}
