//! Kernel files for the tests.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// An Image to be written.
pub(super) struct Image {
    pub(super) text_offset: u64,
    pub(super) image_size: u64,
    pub(super) flags: u64,
    /// Start and length of each section in the file; no EFI stub where there is none.
    pub(super) sections: Vec<(u32, u32)>,
    /// Length of the file.
    pub(super) size: usize,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            text_offset: 0,
            image_size: 0x4000,
            flags: 0b1010,
            sections: vec![(0x1000, 0x1000)],
            size: 0x2000,
        }
    }
}

impl Image {
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..self.size).map(|index| (index / 7) as u8).collect();
        let mut put =
            |offset: usize, field: &[u8]| bytes[offset..offset + field.len()].copy_from_slice(field);
        put(0, b"MZ\0\x91");
        put(8, &self.text_offset.to_le_bytes());
        put(16, &self.image_size.to_le_bytes());
        put(24, &self.flags.to_le_bytes());
        put(32, &[0; 24]);
        put(56, b"ARM\x64");
        put(60, &[0; 4]);
        if !self.sections.is_empty() {
            put(60, &64u32.to_le_bytes());
            put(64, b"PE\0\0\x64\xaa");
            put(70, &(self.sections.len() as u16).to_le_bytes());
            // An optional header of 16 bytes, so that it is not taken for nothing.
            put(64 + 20, &16u16.to_le_bytes());
            for (index, (start, length)) in self.sections.iter().enumerate() {
                let entry = 64 + 24 + 16 + 40 * index;
                put(entry + 16, &length.to_le_bytes());
                put(entry + 20, &start.to_le_bytes());
            }
        }
        bytes
    }
}

/// A plain Image.
pub(super) fn image() -> Vec<u8> {
    Image::default().bytes()
}

/// The bytes within gzip.
pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The bytes within zstd.
pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    compress_to_vec(bytes, CompressionLevel::Fastest)
}

/// An EFI zboot file: header, payload at 4 KiB, and what follows it.
pub(super) fn zboot(method: &str, payload: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 0x1000];
    bytes[..8].copy_from_slice(b"MZ\0\0zimg");
    bytes[8..12].copy_from_slice(&0x1000u32.to_le_bytes());
    bytes[12..16].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes[24..24 + method.len()].copy_from_slice(method.as_bytes());
    bytes[56..60].copy_from_slice(&0x8182_23cdu32.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(tail);
    bytes
}
