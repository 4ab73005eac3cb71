//! The built-in guests.

/// The stamper, as an arm64 Image: it stamps and checks every page of its memory. Its command line
/// and its lines are described in the crate of that name.
pub const STAMPER: &[u8] = include_bytes!(env!("QUIRE_STAMPER"));

/// The monitor, as an arm64 Image, for vCPUs that start at EL2: it holds the `stage2` crate against the MMU
/// that walks its tables. Its command line and its lines are described in the crate of that name.
pub const MONITOR: &[u8] = include_bytes!(env!("QUIRE_MONITOR"));

#[cfg(test)]
mod tests {
    use super::{MONITOR, STAMPER};

    #[test]
    fn the_header_counts_what_the_file_does_not_hold() {
        for image in [STAMPER, MONITOR] {
            let size = u64::from_le_bytes(image[16..24].try_into().unwrap());
            assert_eq!(&image[56..60], b"ARM\x64");
            assert!(size > image.len() as u64 && size <= 2 << 20, "{size} bytes");
        }
    }
}
