//! Where an EFI zboot file keeps its payload (Linux, drivers/firmware/efi/libstub/zboot-header.S).

use std::io::{Read, Seek, SeekFrom};

use super::decompress::Method;
use super::{Reason, le32};

/// The compressed payload of an EFI zboot file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Payload {
    /// Where it starts, in bytes from the start of the file.
    pub(super) offset: u64,
    /// Its length in bytes.
    pub(super) size: u64,
    /// How it is compressed.
    pub(super) method: Method,
}

impl Payload {
    /// Whether a file that begins with `head` is an EFI zboot file.
    pub(super) fn recognise(head: &[u8]) -> bool {
        head.starts_with(b"MZ") && head.get(4..8) == Some(b"zimg")
    }

    /// Reads the header of an EFI zboot file of `size` bytes.
    ///
    /// # Errors
    /// [`Reason::Truncated`], [`Reason::ZbootMethod`].
    pub(super) fn parse(head: &[u8], size: u64) -> Result<Self, Reason> {
        let header_end = 56;
        let (Some(offset), Some(length), Some(name)) =
            (le32(head, 8), le32(head, 12), head.get(24..header_end))
        else {
            return Err(Reason::Truncated { size, needed: header_end as u64 });
        };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        let method = match name {
            b"gzip" => Method::Gzip,
            // The name says the level; any frame is read.
            _ if name.starts_with(b"zstd") => Method::Zstd,
            _ => return Err(Reason::ZbootMethod { method: String::from_utf8_lossy(name).into_owned() }),
        };
        let payload = Self { offset: offset.into(), size: length.into(), method };
        // Two 32-bit numbers: no overflow in 64 bits.
        let needed = payload.offset + payload.size;
        if needed > size { Err(Reason::Truncated { size, needed }) } else { Ok(payload) }
    }

    /// How many bytes the payload claims to decompress to: both methods leave them as 32 bits, gzip at
    /// the end of the payload, the others behind it. A hint; 0 where there is none.
    pub(super) fn size_hint(&self, file: &mut (impl Read + Seek)) -> u64 {
        let end = self.offset + self.size;
        let position = match self.method {
            Method::Gzip => end.saturating_sub(4),
            Method::Zstd => end,
        };
        let mut hint = [0; 4];
        match file.seek(SeekFrom::Start(position)).and_then(|_| file.read_exact(&mut hint)) {
            Ok(()) => u32::from_le_bytes(hint).into(),
            Err(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::testing::zboot;
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let file = zboot("gzip", b"payload", &[]);
        assert!(Payload::recognise(&file));
        let payload = Payload::parse(&file, file.len() as u64).unwrap();
        assert_eq!(payload, Payload { offset: 0x1000, size: 7, method: Method::Gzip });
    }

    #[test]
    fn zstd_is_known_by_the_name_that_linux_writes() {
        let file = zboot("zstd22", b"payload", &[]);
        assert_eq!(Payload::parse(&file, file.len() as u64).unwrap().method, Method::Zstd);
    }

    #[test]
    fn other_compressions_are_refused_by_name() {
        for name in ["lz4", "lzma", "lzo", "xzkern", ""] {
            let file = zboot(name, b"payload", &[]);
            let refused = Payload::parse(&file, file.len() as u64);
            assert!(matches!(refused, Err(Reason::ZbootMethod { method }) if method == name));
        }
    }

    #[test]
    fn a_payload_beyond_the_end_of_the_file_is_refused() {
        let mut file = zboot("gzip", b"payload", &[]);
        let size = file.len() as u64;
        assert!(
            matches!(Payload::parse(&file, size - 1), Err(Reason::Truncated { needed, .. }) if needed == size)
        );
        file[8..16].fill(0xff);
        assert!(matches!(
            Payload::parse(&file, size),
            Err(Reason::Truncated { needed, .. }) if needed == 2 * u64::from(u32::MAX)
        ));
        assert!(matches!(Payload::parse(&file[..30], 30), Err(Reason::Truncated { .. })));
    }

    #[test]
    fn the_size_hint_is_read_from_where_each_method_leaves_it() {
        let gzip = zboot("gzip", &[9, 9, 9, 0x78, 0x56, 0x34, 0x12], &[1, 1, 1, 1]);
        let zstd = zboot("zstd22", &[9, 9, 9], &[0x78, 0x56, 0x34, 0x12]);
        for file in [gzip, zstd] {
            let payload = Payload::parse(&file, file.len() as u64).unwrap();
            assert_eq!(payload.size_hint(&mut Cursor::new(&file)), 0x1234_5678);
        }
        let without = zboot("zstd22", &[9, 9, 9], &[]);
        let payload = Payload::parse(&without, without.len() as u64).unwrap();
        assert_eq!(payload.size_hint(&mut Cursor::new(&without)), 0);
    }
}
