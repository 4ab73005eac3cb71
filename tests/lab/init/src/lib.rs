//! What the lab and the first program of its emulated host agree on.
//!
//! The emulated host is a stock kernel whose initramfs holds one program of ours. It mounts what
//! a program expects, then serves the lab over one virtio-serial port: start this, here is input,
//! here is output, it ended so. Console text is never parsed.
//!
//! | module | what |
//! |---|---|
//! | [`plan`] | what the initramfs tells the first program: modules to load, folders to mount |
//! | [`wire`] | the frames on the port |

pub mod plan;
pub mod wire;
