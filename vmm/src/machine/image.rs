//! The built-in guest.

/// The stamper, as an arm64 Image: it stamps and checks every page of its memory. Its command line
/// and its lines are described in the crate of that name.
pub const STAMPER: &[u8] = include_bytes!(env!("QUIRE_STAMPER"));
