//! Builds the guests that `quire run` starts without a kernel, and hands their paths to `machine::image`.
//!
//! For arm64 only: elsewhere `quire` has no machine to run it on. The images are bare metal, so they
//! are built by a cargo of their own, with its own target folder (the outer cargo holds the lock of the
//! one in use), flags and profile; the toolchain, the target, the linker and the lock file are those
//! of the outer build. Every profile of the outer build has the same images, and so the same folder.
//! What comes out, position-independent ELF files, is made flat arm64 Images.

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use object::elf::{R_AARCH64_NONE, R_AARCH64_RELATIVE};
use object::{Object, ObjectSection, ObjectSegment};

/// Offset of `image_size` in the header of an Image, and of its magic number.
const IMAGE_SIZE: usize = 16;
const MAGIC: (usize, &[u8]) = (56, b"ARM\x64");

/// Bytes of a relocation: its offset, its symbol and type, its addend.
const RELA: usize = 24;

/// The packages of `guest-image` that are images.
const PACKAGES: [&str; 2] = ["stamper", "monitor"];

/// Flags of the images' code. Not `crt-static`: that would make it an executable for one address.
/// Not `outline-atomics`: those ask the operating system what the CPU has.
const RUSTFLAGS: [&str; 2] = ["-Crelocation-model=pie", "-Ctarget-feature=-crt-static,-outline-atomics"];

/// The release profile as the images want it.
const PROFILE: [(&str, &str); 5] = [
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "line-tables-only"),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if variable("CARGO_CFG_TARGET_ARCH")? != "aarch64" {
        return Ok(());
    }
    let folder = build()?;
    for package in PACKAGES {
        let elf = folder.join(package);
        let image = flatten(&fs::read(&elf)?).map_err(|error| format!("{}: {error}", elf.display()))?;
        let path = Path::new(&variable("OUT_DIR")?).join(package).with_extension("image");
        fs::write(&path, image)?;
        println!("cargo::rustc-env=QUIRE_{}={}", package.to_uppercase(), path.display());
    }
    Ok(())
}

/// Builds the images, and returns the folder of their ELF files.
fn build() -> Result<PathBuf, Box<dyn Error>> {
    let workspace = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("..").canonicalize()?;
    for path in ["Cargo.toml", "Cargo.lock", "guest-image", "stage2"] {
        println!("cargo::rerun-if-changed={}", workspace.join(path).display());
    }
    let target = variable("TARGET")?;
    let folder = target_folder(Path::new(&variable("OUT_DIR")?))?.join("guest-image");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo.current_dir(&workspace);
    // What the outer cargo says about the outer build is not meant for this one.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_outer) {
            cargo.env_remove(name);
        }
    }
    cargo
        .args(["build", "--quiet", "--release", "--locked", "--target", &target])
        .args(PACKAGES.iter().flat_map(|package| ["--package", package, "--bin", package]))
        .arg("--target-dir")
        .arg(&folder)
        .envs(PROFILE)
        // These win over every other source of flags.
        .env("CARGO_ENCODED_RUSTFLAGS", RUSTFLAGS.join("\x1f"))
        .env("QUIRE_IMAGE", "1");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let target = target.to_uppercase().replace(['-', '.'], "_");
        cargo.env(format!("CARGO_TARGET_{target}_LINKER"), linker);
    }
    let status = cargo.status().map_err(|error| format!("can't start {cargo:?}: {error}"))?;
    if !status.success() {
        return Err(format!("building the guest images failed ({status}): {cargo:?}").into());
    }
    Ok(folder.join(target).join("release"))
}

/// Where cargo puts what it builds for this target: `<here>/PROFILE/build/PACKAGE-HASH/out` is ours.
fn target_folder(out: &Path) -> Result<&Path, Box<dyn Error>> {
    out.ancestors()
        .nth(4)
        .ok_or_else(|| format!("OUT_DIR is not where cargo puts it: {}", out.display()).into())
}

/// Whether a variable of the environment belongs to the outer build: its flags, profile, folders,
/// features, and the wrapper of clippy.
fn is_outer(name: &str) -> bool {
    const NAMES: [&str; 5] = [
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC_WORKSPACE_WRAPPER",
        "CLIPPY_ARGS",
        "CARGO_TARGET_DIR",
    ];
    const PREFIXES: [&str; 5] =
        ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_FEATURE_", "CARGO_CFG_", "CARGO_MANIFEST_"];
    NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// The bytes of an Image: what the ELF file loads, at the offsets of its addresses, and the header's
/// size filled in, which counts also what the file does not hold.
fn flatten(elf: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let elf = object::File::parse(elf)?;
    let mut image = Vec::new();
    let mut size = 0;
    for segment in elf.segments() {
        let start = usize::try_from(segment.address())?;
        let data = segment.data()?;
        if image.len() < start + data.len() {
            image.resize(start + data.len(), 0);
        }
        image[start..start + data.len()].copy_from_slice(data);
        size = size.max(segment.address() + segment.size());
    }
    // The entry code applies one kind of relocation, skips what the linker has left empty, and can't
    // complain about anything else.
    let relocations = elf.section_by_name(".rela.dyn").ok_or("no section .rela.dyn")?.data()?;
    for relocation in relocations.chunks(RELA) {
        let known = [R_AARCH64_NONE, R_AARCH64_RELATIVE].map(|kind| u64::from(kind.0).to_le_bytes());
        if !known.iter().any(|kind| relocation.get(8..16) == Some(kind)) {
            return Err(format!("unexpected relocation: {relocation:x?}").into());
        }
    }
    let (offset, magic) = MAGIC;
    if image.get(offset..offset + magic.len()) != Some(magic) {
        return Err("no Image header at its start: was it linked with image.ld?".into());
    }
    image[IMAGE_SIZE..IMAGE_SIZE + 8].copy_from_slice(&size.to_le_bytes());
    Ok(image)
}

fn variable(name: &str) -> Result<String, Box<dyn Error>> {
    let value: OsString = env::var_os(name).ok_or_else(|| format!("cargo has not set {name}"))?;
    value.into_string().map_err(|value| format!("{name} is not UTF-8: {value:?}").into())
}
