//! What every scenario shares: a `quire` process that is watched, guest kernels and a userland.
//!
//! A scenario is an ordinary Rust test that runs on an arm64 KVM host. `cargo lab test` runs all of
//! them in the emulated host; on a real one `cargo test -p e2e` does. What they need of the outside
//! comes by environment variables, which `cargo lab test` sets ([`environment`]); where one is
//! missing, the test fails and says which.
//!
//! | module | noun |
//! |---|---|
//! | [`environment`] | where `quire`, kernels and busybox are |
//! | [`api`] | requests to the API of a `quire` process |
//! | [`balloon`] | a Linux guest that gives memory back and takes it again |
//! | [`guest`] | a `quire` process: its console, its input, its end |
//! | [`userland`] | an initramfs of busybox, modules and one script |
//! | [`shell`] | a Linux guest that does what is typed |
//! | [`footprint`] | what a guest's memory costs the host, and what is in it |
//! | [`terminal`] | a pseudo-terminal to run `quire` in |
//! | [`hugepages`] | pools of huge pages, put back as they were |
//! | [`measure`] | what measurements read of the host, and how they judge it |
//!
//! On another architecture the scenarios compile to nothing, so that the workspace builds anywhere.

pub mod api;
pub mod balloon;
pub mod environment;
pub mod footprint;
pub mod guest;
pub mod hugepages;
pub mod measure;
pub mod shell;
pub mod terminal;
pub mod userland;

pub use environment::Kernel;
pub use guest::Guest;
pub use shell::Shell;
pub use userland::Userland;
