//! The monitor as a program: an arm64 image where the build asks for one, otherwise one line that says
//! where to find it. What it does is in the library.

#![cfg_attr(image, no_std, no_main)]

#[cfg(image)]
mod entry;

#[cfg(not(image))]
fn main() -> std::process::ExitCode {
    eprintln!(
        "monitor is the guest that `quire run --el2` starts without a kernel: an arm64 image, not a program"
    );
    std::process::ExitCode::FAILURE
}
