//! Kernel files: told apart by content, never by name.
//!
//! Principles: a file is hostile, so every offset and length in it is checked, and nothing grows beyond
//! [`MAX_SIZE`]; a file that can't be used is answered with what it is and what to give instead; an
//! uncompressed Image is never copied to the heap, and a decompressed one is gone once [`Kernel`] is dropped.
//!
//! | module | noun |
//! |---|---|
//! | `file` | [`Kernel`], opened and ready to be read into guest memory |
//! | `format` | [`Format`], and what else a file may turn out to be |
//! | `image` | [`Header`] of an arm64 Image, and how long the file must be |
//! | `zboot` | where an EFI zboot file keeps its payload |
//! | `decompress` | gzip and zstd, with a limit |
//! | `error` | [`Error`], [`Reason`] |

mod decompress;
mod error;
mod file;
mod format;
mod image;
#[cfg(test)]
mod testing;
mod zboot;

pub use error::{Error, Reason};
pub use file::Kernel;
pub use format::Format;
pub use image::Header;

/// The largest kernel in bytes, on disk and decompressed. A hundred times what distributions ship; a
/// file that decompresses to more is a bomb.
pub const MAX_SIZE: u64 = 1 << 30;

/// The little-endian `u16` at `offset`, where there is one.
fn le16(bytes: &[u8], offset: usize) -> Option<u16> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u16::from_le_bytes(*chunk))
}

/// The little-endian `u32` at `offset`, where there is one.
fn le32(bytes: &[u8], offset: usize) -> Option<u32> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u32::from_le_bytes(*chunk))
}

/// The little-endian `u64` at `offset`, where there is one.
fn le64(bytes: &[u8], offset: usize) -> Option<u64> {
    bytes.get(offset..)?.first_chunk().map(|chunk| u64::from_le_bytes(*chunk))
}
