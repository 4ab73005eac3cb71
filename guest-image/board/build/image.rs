//! Makes an image of the program where the environment says `QUIRE_IMAGE=1` and the target is arm64: it
//! then has an entry of its own, no standard library, and lies where `image.ld` puts it.
//! Everywhere else it stays an ordinary program, so that the whole workspace builds anywhere.

use std::env;
use std::path::Path;

/// Links the program of this build script as an image, where that is asked for.
pub(crate) fn link() {
    println!("cargo::rustc-check-cfg=cfg(image)");
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../board/build/image.rs");
    println!("cargo::rerun-if-changed=../board/image.ld");
    println!("cargo::rerun-if-env-changed=QUIRE_IMAGE");
    let arm64 = env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64");
    let wanted = env::var("QUIRE_IMAGE").is_ok_and(|image| image == "1");
    if !arm64 || !wanted {
        return;
    }
    println!("cargo::rustc-cfg=image");
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it for every build script");
    let script = Path::new(&folder).join("../board/image.ld");
    // Position independent, with relocations that the entry code applies: no loader, no libraries.
    for argument in ["-nostartfiles", "-nostdlib", "-Wl,--no-dynamic-linker", "-Wl,--build-id=none"] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    println!("cargo::rustc-link-arg-bins=-T{}", script.display());
}
