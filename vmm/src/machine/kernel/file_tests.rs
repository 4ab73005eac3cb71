use std::error::Error as _;

use tempfile::TempDir;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use super::super::testing::{Image, gzip, image, zboot, zstd};
use super::*;

/// Opens a file with this content.
fn open(bytes: &[u8]) -> Result<Kernel, Error> {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kernel");
    fs::write(&path, bytes).unwrap();
    Kernel::open(&path)
}

fn reason(bytes: &[u8]) -> Reason {
    open(bytes).unwrap_err().reason
}

#[test]
fn every_format_yields_the_same_image() {
    let size = image().len() as u32;
    for (file, format) in [
        (image(), Format::Image),
        (gzip(&image()), Format::Gzip),
        (zboot("gzip", &gzip(&image()), &[]), Format::Zboot),
        (zboot("zstd22", &zstd(&image()), &size.to_le_bytes()), Format::Zboot),
    ] {
        let mut kernel = open(&file).unwrap();
        assert_eq!(kernel.format(), format);
        assert_eq!((kernel.size(), kernel.memory_size()), (0x2000, 0x4000));
        assert_eq!(kernel.header().page_size(), Some(4096));
        let mut bytes = Vec::new();
        kernel.read_to_end(&mut bytes).unwrap();
        assert!(bytes == image(), "{format:?}");
    }
}

#[test]
fn an_image_goes_straight_to_guest_memory() {
    let memory: GuestMemoryMmap = GuestMemoryMmap::from_ranges(&[(GuestAddress(0x1000), 0x3000)]).unwrap();
    for file in [image(), gzip(&image())] {
        let mut kernel = open(&file).unwrap();
        let size = usize::try_from(kernel.size()).unwrap();
        memory.read_exact_volatile_from(GuestAddress(0x2000), &mut kernel, size).unwrap();
        let mut loaded = vec![0; size];
        memory.read_slice(&mut loaded, GuestAddress(0x2000)).unwrap();
        assert!(loaded == image());
    }
}

#[test]
fn a_built_in_image_is_read_from_where_it_is() {
    let bytes: &'static [u8] = image().leak();
    let mut kernel = Kernel::from_static(bytes).unwrap();
    let mut read = Vec::new();
    kernel.read_to_end(&mut read).unwrap();
    assert!(read == bytes);
    assert!(matches!(Kernel::from_static(b""), Err(Reason::Empty)));
    assert!(matches!(Kernel::from_static(gzip(bytes).leak()), Err(Reason::Truncated { .. })));
}

#[test]
fn a_file_longer_than_its_header_says_takes_its_own_size() {
    let kernel = open(&Image { image_size: 0x1000, ..Image::default() }.bytes()).unwrap();
    assert_eq!(kernel.memory_size(), 0x2000);
}

#[test]
fn a_truncated_image_is_refused_with_both_sizes() {
    assert!(matches!(reason(&image()[..0x1fff]), Reason::Truncated { size: 0x1fff, needed: 0x2000 }));
    assert!(matches!(reason(&image()[..80]), Reason::Truncated { size: 80, needed: 81 }));
    assert!(matches!(reason(&image()[..63]), Reason::Truncated { size: 63, needed: 64 }));
}

#[test]
fn a_truncated_image_within_a_whole_gzip_is_refused() {
    assert!(matches!(reason(&gzip(&image()[..0x1fff])), Reason::Truncated { size: 0x1fff, .. }));
    assert!(matches!(reason(&gzip(b"")), Reason::Empty));
}

#[test]
fn truncated_compressed_files_are_refused() {
    let packed = gzip(&image());
    assert!(matches!(reason(&packed[..packed.len() / 2]), Reason::CompressedTruncated { method: "gzip" }));
    let packed = zboot("gzip", &packed, &[]);
    assert!(matches!(reason(&packed[..packed.len() - 1]), Reason::Truncated { .. }));
}

#[test]
fn the_wrong_kernel_within_gzip_is_still_named() {
    let mut x86 = vec![0; 4096];
    x86[0x202..0x206].copy_from_slice(b"HdrS");
    assert!(matches!(reason(&gzip(&x86)), Reason::Architecture { .. }));
    let big_endian = Image { flags: 1, ..Image::default() }.bytes();
    assert!(matches!(reason(&gzip(&big_endian)), Reason::BigEndian));
}

#[test]
fn compression_within_compression_is_refused() {
    assert!(matches!(reason(&gzip(&gzip(&image()))), Reason::Nested { outer: "gzip" }));
    assert!(matches!(
        reason(&zboot("zstd22", &zstd(&gzip(&image())), &[])),
        Reason::Nested { outer: "zstd" }
    ));
}

#[test]
fn an_oversized_file_is_refused_without_being_read() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("kernel");
    File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
    let refused = Kernel::open(&path).unwrap_err();
    assert!(matches!(refused.reason, Reason::TooLarge { size } if size == MAX_SIZE + 1));
}

#[test]
fn what_is_no_regular_file_is_refused() {
    let folder = TempDir::new().unwrap();
    assert!(matches!(Kernel::open(folder.path()).unwrap_err().reason, Reason::Directory));
    assert!(matches!(Kernel::open(&folder.path().join("none")).unwrap_err().reason, Reason::Missing));
    assert!(matches!(Kernel::open(Path::new("/dev/null")).unwrap_err().reason, Reason::NotAFile));
    assert!(matches!(open(b"").unwrap_err().reason, Reason::Empty));
}

#[test]
fn the_error_names_the_file_and_its_cause_the_reason() {
    let refused = Kernel::open(Path::new("/nowhere/Image")).unwrap_err();
    assert_eq!(refused.to_string(), "can't use /nowhere/Image as a kernel");
    assert_eq!(refused.source().unwrap().to_string(), "there is no such file");
}
