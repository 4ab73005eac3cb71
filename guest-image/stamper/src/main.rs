//! The stamper.
fn main() {}
