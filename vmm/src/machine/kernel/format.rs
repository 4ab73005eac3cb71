//! What a file turns out to be.

use super::image::{Header, MAGIC_OFFSET};
use super::zboot::Payload;
use super::{Reason, le16, le32};

/// The kernel files that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An uncompressed Image.
    Image,
    /// An Image within gzip.
    Gzip,
    /// An Image within an EFI program that decompresses itself.
    Zboot,
}

/// How many bytes of a file [`Format::recognise`] wants to see.
pub(super) const HEAD_SIZE: usize = 4096;

/// Compressions that are not read: how they begin, their names, and what undoes them.
const COMPRESSIONS: [(&[u8], &str, &str); 7] = [
    (b"\x28\xb5\x2f\xfd", "zstd", "zstd -d"),
    (b"\xfd7zXZ\0", "xz", "xz -d"),
    (b"BZh", "bzip2", "bzip2 -d"),
    (b"\x02\x21\x4c\x18", "lz4", "lz4 -d"),
    (b"\x04\x22\x4d\x18", "lz4", "lz4 -d"),
    (b"\x89LZO\0", "lzo", "lzop -d"),
    (b"\x5d\0\0", "lzma", "xz -d --format=lzma"),
];

impl Format {
    /// Tells from the first [`HEAD_SIZE`] bytes (or all of them) what a file is.
    ///
    /// # Errors
    /// A [`Reason`] for everything that is no arm64 kernel.
    pub(super) fn recognise(head: &[u8]) -> Result<Self, Reason> {
        if head.is_empty() {
            return Err(Reason::Empty);
        }
        if head.starts_with(b"\x1f\x8b") {
            return Ok(Self::Gzip);
        }
        if Payload::recognise(head) {
            return Ok(Self::Zboot);
        }
        if Header::parse(head)?.is_some() {
            return Ok(Self::Image);
        }
        Err(foreign(head))
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Image => "Image",
            Self::Gzip => "gzip'ed Image",
            Self::Zboot => "EFI zboot",
        }
    }
}

/// What a file is that is no arm64 kernel.
fn foreign(head: &[u8]) -> Reason {
    let architecture =
        |architecture: &str, kind| Reason::Architecture { architecture: architecture.into(), kind };
    if head.starts_with(b"\x7fELF") {
        return match le16(head, 18) {
            Some(183) | None => Reason::Elf,
            Some(machine) => architecture(&elf_machine(machine), "an ELF file"),
        };
    }
    // Linux, Documentation/arch/x86/boot.rst.
    if head.get(0x202..0x206) == Some(b"HdrS") {
        return architecture("x86", "bzImage");
    }
    // Linux, arch/arm/boot/compressed/head.S.
    if le32(head, 0x24) == Some(0x016f_2818) {
        return architecture("32-bit ARM", "zImage");
    }
    // Linux, arch/riscv/include/asm/image.h.
    if head.get(MAGIC_OFFSET..MAGIC_OFFSET + 4) == Some(b"RSC\x05") {
        return architecture("RISC-V", "Image");
    }
    if let Some((_, method, tool)) = COMPRESSIONS.iter().find(|(magic, ..)| head.starts_with(magic)) {
        return Reason::Compressed { method, tool };
    }
    if head.starts_with(b"\x27\x05\x19\x56") {
        return Reason::Wrapped { kind: "a U-Boot uImage" };
    }
    if head.starts_with(b"\xd0\x0d\xfe\xed") {
        return Reason::Wrapped { kind: "a flattened device tree or FIT image" };
    }
    if head.len() < super::image::HEADER_SIZE {
        return Reason::Truncated { size: head.len() as u64, needed: super::image::HEADER_SIZE as u64 };
    }
    if head.starts_with(b"MZ") {
        return Reason::EfiProgram;
    }
    let start: Vec<_> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Reason::Unknown { start: start.join(" ") }
}

/// The machine that an ELF file is for (its `e_machine`).
fn elf_machine(machine: u16) -> String {
    match machine {
        3 => "32-bit x86".into(),
        21 => "64-bit PowerPC".into(),
        22 => "s390".into(),
        40 => "32-bit ARM".into(),
        62 => "x86-64".into(),
        243 => "RISC-V".into(),
        258 => "LoongArch".into(),
        other => format!("ELF machine {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{gzip, image, zboot};
    use super::*;

    fn with(size: usize, offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; size];
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
        file
    }

    #[test]
    fn each_format_is_known_by_its_content() {
        assert_eq!(Format::recognise(&image()).unwrap(), Format::Image);
        assert_eq!(Format::recognise(&gzip(&image())).unwrap(), Format::Gzip);
        assert_eq!(Format::recognise(&zboot("gzip", b"", &[])).unwrap(), Format::Zboot);
    }

    #[test]
    fn an_empty_file_is_empty() {
        assert!(matches!(Format::recognise(&[]), Err(Reason::Empty)));
    }

    #[test]
    fn a_file_shorter_than_a_header_is_truncated() {
        for length in [1, 2, 32, 63] {
            let refused = Format::recognise(&image()[..length]);
            assert!(matches!(refused, Err(Reason::Truncated { size, needed: 64 }) if size == length as u64));
        }
    }

    #[test]
    fn kernels_for_other_machines_are_named() {
        let mut x86 = with(4096, 0x202, b"HdrS");
        x86[..2].copy_from_slice(b"MZ");
        for (file, name) in [
            (x86, "x86"),
            (with(4096, 0x24, &0x016f_2818u32.to_le_bytes()), "32-bit ARM"),
            (with(4096, 56, b"RSC\x05"), "RISC-V"),
            (with(64, 0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0"), "x86-64"),
        ] {
            let message = Format::recognise(&file).unwrap_err().to_string();
            assert!(message.contains(&format!("it is for {name} (")), "{message}");
        }
    }

    #[test]
    fn an_arm64_vmlinux_is_told_to_use_the_image() {
        let vmlinux = with(64, 0, b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0");
        let refused = Format::recognise(&vmlinux).unwrap_err();
        assert!(matches!(refused, Reason::Elf));
        assert!(refused.to_string().contains("arch/arm64/boot/Image"));
    }

    #[test]
    fn other_compressions_are_named_with_what_undoes_them() {
        for (magic, method, tool) in COMPRESSIONS {
            let refused = Format::recognise(&with(4096, 0, magic));
            assert!(
                matches!(refused, Err(Reason::Compressed { method: m, tool: t }) if (m, t) == (method, tool))
            );
        }
    }

    #[test]
    fn wrappers_and_other_programs_are_named() {
        let recognise = |start: &[u8]| Format::recognise(&with(4096, 0, start)).unwrap_err();
        assert!(matches!(recognise(b"\x27\x05\x19\x56"), Reason::Wrapped { .. }));
        assert!(matches!(recognise(b"\xd0\x0d\xfe\xed"), Reason::Wrapped { .. }));
        assert!(matches!(recognise(b"MZ"), Reason::EfiProgram));
        assert!(recognise(b"#!/bin/sh").to_string().contains("23 21 2f 62 69 6e 2f 73"));
    }
}
