//! Why a file can't be used as a kernel.

use std::io;
use std::path::PathBuf;

use super::MAX_SIZE;

/// A file that can't be used as a kernel.
#[derive(Debug, thiserror::Error)]
#[error("can't use {} as a kernel", path.display())]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// Why not.
    #[source]
    pub reason: Reason,
}

/// Why not, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It is not there.
    #[error("there is no such file")]
    Missing,
    /// It is a folder.
    #[error("it is a directory: name the kernel file in it")]
    Directory,
    /// It is a device, a pipe or a socket.
    #[error("it is not a regular file")]
    NotAFile,
    /// The operating system refuses.
    #[error("can't read it")]
    Io(#[source] io::Error),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It ends too early.
    #[error("it is truncated: {} bytes where {} are needed; copy or build it again", .size, .needed)]
    Truncated {
        /// Its size in bytes.
        size: u64,
        /// How many there must be at least.
        needed: u64,
    },
    /// It is larger than any kernel.
    #[error("it has {size} bytes: more than {} MiB is no kernel", MAX_SIZE >> 20)]
    TooLarge {
        /// Its size in bytes.
        size: u64,
    },
    /// It is larger than any kernel once decompressed.
    #[error("it decompresses to more than {} MiB: that is no kernel", MAX_SIZE >> 20)]
    Bomb,
    /// The compressed data is damaged.
    #[error("its {method} data is damaged; copy or build it again")]
    Corrupt {
        /// How it is compressed.
        method: &'static str,
        /// What the decompressor says.
        #[source]
        source: io::Error,
    },
    /// The compressed data ends too early.
    #[error("its {method} data is truncated; copy or build it again")]
    CompressedTruncated {
        /// How it is compressed.
        method: &'static str,
    },
    /// Compressed in a way that is not read here.
    #[error("it is compressed with {method}, and only gzip is read: decompress it first ({tool})")]
    Compressed {
        /// How it is compressed.
        method: &'static str,
        /// The command that decompresses it.
        tool: &'static str,
    },
    /// An EFI zboot file with a payload that is not read here.
    #[error(
        "it is an EFI zboot file compressed with {method:?}, and only gzip and zstd are read: use the arch/arm64/boot/Image \
         of the same build, or build with CONFIG_KERNEL_ZSTD"
    )]
    ZbootMethod {
        /// What its header says.
        method: String,
    },
    /// A compressed kernel within a compressed kernel.
    #[error("its {outer} holds another compressed file, and not an Image: decompress it first")]
    Nested {
        /// The outer compression.
        outer: &'static str,
    },
    /// For another machine.
    #[error("it is for {architecture} ({kind}): an arm64 kernel is needed (arch/arm64/boot/Image)")]
    Architecture {
        /// What it is for.
        architecture: String,
        /// What it is.
        kind: &'static str,
    },
    /// A kernel that was built big-endian.
    #[error("it is a big-endian arm64 kernel: build it with CONFIG_CPU_LITTLE_ENDIAN")]
    BigEndian,
    /// `vmlinux`, or any program.
    #[error(
        "it is an ELF file (vmlinux?): use the arch/arm64/boot/Image of the same build, \
         or make one with `objcopy -O binary vmlinux Image`"
    )]
    Elf,
    /// A wrapper that only U-Boot reads.
    #[error("it is {kind}: give the Image inside it")]
    Wrapped {
        /// What it is.
        kind: &'static str,
    },
    /// An EFI program other than Linux.
    #[error("it is an EFI program, but not a Linux kernel for arm64")]
    EfiProgram,
    /// No Linux boot loader would place it.
    #[error("its header asks for an offset of {offset:#x} from a 2 MiB boundary: the file is damaged")]
    TextOffset {
        /// What the header says.
        offset: u64,
    },
    /// Nothing that is known here.
    #[error(
        "it is no arm64 kernel: neither an Image, nor a gzip'ed Image, nor an EFI zboot file (it begins with {start})"
    )]
    Unknown {
        /// Its first bytes in hexadecimal.
        start: String,
    },
}
