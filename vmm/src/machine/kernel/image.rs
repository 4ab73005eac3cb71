//! The header of an arm64 Image (Linux, Documentation/arch/arm64/booting.rst).

use std::io::{self, Read, Seek, SeekFrom};

use super::{Reason, le16, le32, le64};

/// Size of the header in bytes.
pub(super) const HEADER_SIZE: usize = 64;
/// The magic number, at [`MAGIC_OFFSET`].
const MAGIC: u32 = u32::from_le_bytes(*b"ARM\x64");
/// Where the magic number stands; RISC-V has its own at the same place.
pub(super) const MAGIC_OFFSET: usize = 56;
/// The boundary that `text_offset` counts from.
const TEXT_ALIGN: u64 = 2 << 20;
/// What `text_offset` was before Linux 3.17, where `image_size` is 0 and `text_offset` unreliable.
const OLD_TEXT_OFFSET: u64 = 0x8_0000;

/// What the header of an Image says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Where the Image wants to lie, in bytes from a 2 MiB boundary; less than 2 MiB.
    pub text_offset: u64,
    /// Memory that it takes from there in bytes, with its BSS; 0 where unknown (before Linux 3.17).
    pub image_size: u64,
    /// The flags: byte order, page size, placement.
    pub flags: u64,
    /// Where the PE header of its EFI stub is in the file; 0 without one.
    pe_offset: u32,
}

impl Header {
    /// Reads the header from the start of a file; `None` where it is no Image.
    ///
    /// # Errors
    /// [`Reason::BigEndian`], [`Reason::TextOffset`].
    pub(super) fn parse(head: &[u8]) -> Result<Option<Self>, Reason> {
        let (Some(MAGIC), Some(text_offset), Some(image_size), Some(flags), Some(pe_offset)) =
            (le32(head, MAGIC_OFFSET), le64(head, 8), le64(head, 16), le64(head, 24), le32(head, 60))
        else {
            return Ok(None);
        };
        if flags & 1 != 0 {
            return Err(Reason::BigEndian);
        }
        let text_offset = if image_size == 0 { OLD_TEXT_OFFSET } else { text_offset };
        if text_offset >= TEXT_ALIGN {
            return Err(Reason::TextOffset { offset: text_offset });
        }
        Ok(Some(Self { text_offset, image_size, flags, pe_offset }))
    }

    /// The kernel's page size in bytes, where it says.
    #[must_use]
    pub const fn page_size(&self) -> Option<u64> {
        match (self.flags >> 1) & 3 {
            1 => Some(4 << 10),
            2 => Some(16 << 10),
            3 => Some(64 << 10),
            _ => None,
        }
    }

    /// How many bytes the file must have at least.
    ///
    /// `image_size` can't tell, since it counts the BSS, which no file holds; the section table of the
    /// EFI stub's PE header does. Without an EFI stub, the header is all that is known.
    ///
    /// # Errors
    /// Those of reading; an unexpected end where the PE header itself is cut off.
    pub(super) fn needed_size(&self, file: &mut (impl Read + Seek)) -> io::Result<u64> {
        /// PE signature and COFF file header.
        const COFF_SIZE: u64 = 24;
        /// One entry of the section table.
        const SECTION_SIZE: usize = 40;

        let mut needed = HEADER_SIZE as u64;
        if self.pe_offset == 0 {
            return Ok(needed);
        }
        let pe_offset = u64::from(self.pe_offset);
        let mut coff = [0; COFF_SIZE as usize];
        file.seek(SeekFrom::Start(pe_offset))?;
        file.read_exact(&mut coff)?;
        if !coff.starts_with(b"PE\0\0") {
            // The field was reserved before there was an EFI stub.
            return Ok(needed);
        }
        let sections = le16(&coff, 6).unwrap_or_default();
        let optional_size = le16(&coff, 20).unwrap_or_default();
        // All small numbers: no overflow in 64 bits.
        file.seek(SeekFrom::Start(pe_offset + COFF_SIZE + u64::from(optional_size)))?;
        for _ in 0..sections {
            let mut section = [0; SECTION_SIZE];
            file.read_exact(&mut section)?;
            let (size, start) =
                (le32(&section, 16).unwrap_or_default(), le32(&section, 20).unwrap_or_default());
            if size != 0 {
                needed = needed.max(u64::from(start) + u64::from(size));
            }
        }
        Ok(needed)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::super::testing::{Image, image};
    use super::*;

    fn parse(bytes: &[u8]) -> Header {
        Header::parse(bytes).unwrap().unwrap()
    }

    #[test]
    fn the_fields_are_where_the_boot_protocol_has_them() {
        let bytes =
            Image { text_offset: 0x1000, image_size: 0x12_3456, flags: 0b1010, ..Image::default() }.bytes();
        let header = parse(&bytes);
        assert_eq!((header.text_offset, header.image_size, header.flags), (0x1000, 0x12_3456, 0b1010));
    }

    #[test]
    fn page_sizes_are_told() {
        for (flags, size) in [(0, None), (0b010, Some(4096)), (0b100, Some(16384)), (0b1110, Some(65536))] {
            assert_eq!(parse(&Image { flags, ..Image::default() }.bytes()).page_size(), size);
        }
    }

    #[test]
    fn an_image_without_a_size_lies_where_old_kernels_did() {
        let header = parse(&Image { text_offset: 0, image_size: 0, ..Image::default() }.bytes());
        assert_eq!((header.text_offset, header.image_size), (0x8_0000, 0));
    }

    #[test]
    fn a_text_offset_beyond_its_boundary_is_refused() {
        for text_offset in [2 << 20, u64::MAX] {
            let bytes = Image { text_offset, ..Image::default() }.bytes();
            assert!(
                matches!(Header::parse(&bytes), Err(Reason::TextOffset { offset }) if offset == text_offset)
            );
        }
    }

    #[test]
    fn big_endian_is_refused() {
        let bytes = Image { flags: 0b1011, ..Image::default() }.bytes();
        assert!(matches!(Header::parse(&bytes), Err(Reason::BigEndian)));
    }

    #[test]
    fn a_short_or_foreign_header_is_none() {
        assert!(Header::parse(&image()[..63]).unwrap().is_none());
        assert!(Header::parse(&[0; 64]).unwrap().is_none());
    }

    #[test]
    fn the_section_table_tells_how_long_the_file_must_be() {
        let bytes =
            Image { sections: vec![(0x1000, 0x300), (0x1300, 0x80), (0, 0)], ..Image::default() }.bytes();
        assert_eq!(parse(&bytes).needed_size(&mut Cursor::new(&bytes)).unwrap(), 0x1380);
    }

    #[test]
    fn without_an_efi_stub_only_the_header_is_needed() {
        let bytes = Image { sections: vec![], ..Image::default() }.bytes();
        assert_eq!(parse(&bytes).needed_size(&mut Cursor::new(&bytes)).unwrap(), 64);
    }

    #[test]
    fn a_pe_header_that_is_cut_off_is_an_unexpected_end() {
        let bytes = Image { sections: vec![(0x1000, 0x300)], ..Image::default() }.bytes();
        for length in [64, 70, 100, 130] {
            let error = parse(&bytes).needed_size(&mut Cursor::new(&bytes[..length])).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{length}");
        }
    }
}
