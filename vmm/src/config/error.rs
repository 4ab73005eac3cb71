//! Every way in which a configuration can be wrong.

use std::path::PathBuf;

use thiserror::Error;

use super::{BalloonConfig, BlockSize, MAX_CMDLINE, MAX_CPUS, Size};

/// Every way in which a configuration can be wrong. Each says what to do instead.
#[derive(Debug, Error)]
pub enum Error {
    /// Not a size.
    #[error(
        "{value:?} is not a size: write a whole number of bytes, or one with K, M, G, T or P, as in 512M"
    )]
    Size {
        /// What was written.
        value: String,
    },
    /// 2^64 bytes or more.
    #[error("size {value} does not fit in 64 bits")]
    SizeTooLarge {
        /// What was written.
        value: String,
    },
    /// A key that nothing has.
    #[error("unknown key {key:?} in {place}: did you mean {nearest:?}? (valid: {})", valid.join(", "))]
    UnknownKey {
        /// What was written.
        key: String,
        /// The option, or the path of the JSON object.
        place: String,
        /// The valid key that looks most like it.
        nearest: &'static str,
        /// Every valid key.
        valid: &'static [&'static str],
    },
    /// A word where one of a few others is expected.
    #[error("unknown {what} {value:?}: use {}", alternatives(valid))]
    UnknownValue {
        /// What the value is of.
        what: &'static str,
        /// What was written.
        value: String,
        /// Every valid value.
        valid: &'static [&'static str],
    },
    /// A key alone where `key=value` is expected.
    #[error("{key:?} needs a value: write {key}=...")]
    NoValue {
        /// The key.
        key: &'static str,
    },
    /// The same key twice.
    #[error("{key:?} is given twice in {place}")]
    KeyTwice {
        /// The key.
        key: &'static str,
        /// The option.
        place: String,
    },
    /// An unknown word after a disk's path.
    #[error(
        "unknown disk option {value:?}: the only one is \"ro\", and a comma that belongs to the path is written twice"
    )]
    DiskOption {
        /// What was written.
        value: String,
    },
    /// A path without a single character.
    #[error("the path of the {what} is empty")]
    EmptyPath {
        /// What the path is of.
        what: &'static str,
    },
    /// Not JSON, or JSON with values of the wrong type.
    #[error("line {line}, column {column}: {message}")]
    Json {
        /// The line, from 1.
        line: usize,
        /// The column, from 1; 0 at the end of the line before.
        column: usize,
        /// What is wrong there.
        message: String,
    },
    /// JSON, but not an object.
    #[error("a configuration is a JSON object, as in {{ \"memory\": \"1G\" }}")]
    NotAnObject,
    /// No memory at all.
    #[error("memory size is 0: a guest needs some, as in --memory 512M")]
    MemoryZero,
    /// Memory that ends within a block.
    #[error(
        "memory size {} is not a multiple of the {} block size: use {}{}",
        Size(*size), Size(*block), Size(*fitting), smaller.map(|block| format!(" or block={block}")).unwrap_or_default()
    )]
    MemoryNotBlocks {
        /// The size in bytes.
        size: u64,
        /// The block size in bytes.
        block: u64,
        /// The nearest size that fits: the next one up, where there is one.
        fitting: u64,
        /// The largest block size that divides the size.
        smaller: Option<BlockSize>,
    },
    /// More memory than any IPA space holds.
    #[error("memory size {} is larger than the largest IPA space of the architecture (52 bits, 4P)", Size(*size))]
    MemoryTooLarge {
        /// The size in bytes.
        size: u64,
    },
    /// Base pages from the huge page pools.
    #[error("backing=hugetlb has no 4K pages: use block=64K, 2M, 32M or 1G, or leave it at auto")]
    HugetlbBasePages,
    /// A balloon that could not be filled.
    #[error("a balloon of {} is larger than the memory of {}: use at most size={}", Size(*size), Size(*memory), Size(*memory))]
    BalloonTooLarge {
        /// The balloon's size in bytes.
        size: u64,
        /// The memory's size in bytes.
        memory: u64,
    },
    /// A balloon that the device can't count.
    #[error("a balloon of {} is more than a balloon device can count: use at most size={}", Size(*size), Size(BalloonConfig::LARGEST))]
    BalloonUncountable {
        /// The balloon's size in bytes.
        size: u64,
    },
    /// A balloon that ends within a page.
    #[error("balloon size {} is not a multiple of 4K, the unit of balloons: use size={}", Size(*size), Size(*fitting))]
    BalloonNotPages {
        /// The balloon's size in bytes.
        size: u64,
        /// The next size that is: the one below.
        fitting: u64,
    },
    /// Not a number of seconds.
    #[error("{value:?} is not a number of seconds: write a whole number, as in stats=5, or stats=0 for none")]
    StatisticsSeconds {
        /// What was written.
        value: String,
    },
    /// Statistics that nobody would live to see.
    #[error("stats={seconds} is longer than {} seconds", BalloonConfig::LONGEST_INTERVAL)]
    StatisticsTooSeldom {
        /// The seconds.
        seconds: u64,
    },
    /// A balloon block that the memory is not made of.
    #[error("a balloon with block={block} gives nothing back of {} of memory: use a smaller block", Size(*memory))]
    BalloonBlock {
        /// The block size.
        block: BlockSize,
        /// The memory's size in bytes.
        memory: u64,
    },
    /// No vCPU at all.
    #[error("cpus is 0: a guest needs at least 1")]
    CpusZero,
    /// More vCPUs than any KVM host runs.
    #[error("cpus is {cpus}: {MAX_CPUS} is the most that KVM runs on arm64")]
    CpusTooMany {
        /// What was asked for.
        cpus: u32,
    },
    /// An initial RAM disk that nothing would read.
    #[error("an initrd needs a kernel: the built-in guest has no use for one (add --kernel FILE)")]
    InitrdWithoutKernel,
    /// A command line that the kernel would cut off.
    #[error(
        "the kernel command line has {length} bytes: {MAX_CMDLINE} is the most that an arm64 kernel takes"
    )]
    CmdlineTooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// A command line that can't go into a device tree, or means something else there.
    #[error(
        "the kernel command line has {character:?} at byte {offset}: only printable ASCII, tabs and newlines"
    )]
    CmdlineCharacter {
        /// The character.
        character: char,
        /// Its position in bytes.
        offset: usize,
    },
    /// A file in two roles, at least one of which writes to it.
    #[error("{} is both {first} and {second}: each needs a file of its own", path.display())]
    PathTwice {
        /// The path.
        path: PathBuf,
        /// The role that came first.
        first: &'static str,
        /// The role that came second.
        second: &'static str,
    },
    /// The same disk twice.
    #[error("disk {} is given twice", path.display())]
    DiskTwice {
        /// The path.
        path: PathBuf,
    },
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let message = error.to_string();
        // The place is at the end of the message too; at its start it is easier to see.
        let place = format!(" at line {line} column {column}");
        let message = message.strip_suffix(&place).unwrap_or(&message).to_owned();
        Self::Json { line, column, message }
    }
}

/// "a, b or c".
fn alternatives(words: &[&str]) -> String {
    match words {
        [first @ .., last] if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}
