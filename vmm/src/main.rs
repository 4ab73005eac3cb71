//! The `quire` program: parse and dispatch, nothing else.
fn main() {}
