//! The built-in guest.

/// The stamper, as an arm64 Image: it stamps and checks every page of its memory. Its command line
/// and its lines are described in the crate of that name.
pub const STAMPER: &[u8] = include_bytes!(env!("QUIRE_STAMPER"));

#[cfg(test)]
mod tests {
    use super::STAMPER;

    #[test]
    fn the_header_counts_what_the_file_does_not_hold() {
        let size = u64::from_le_bytes(STAMPER[16..24].try_into().unwrap());
        assert_eq!(&STAMPER[56..60], b"ARM\x64");
        assert!(size > STAMPER.len() as u64 && size <= 2 << 20, "{size} bytes");
    }
}
