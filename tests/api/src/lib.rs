//! A machine whose HTTP API can be asked on any Linux machine: real sockets, real threads, real memory and the
//! real balloon, but vCPUs that count instead of entering a guest.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the machine, and what its vCPUs have seen |
//! | [`guest`] | its memory and balloon, and a driver |
//! | [`client`] | its API, and a client that says exactly what a test wants it to |
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests")]

pub mod client;
pub mod guest;
pub mod machine;
