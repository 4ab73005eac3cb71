#![doc = include_str!("../README.md")]
#![cfg_attr(not(test), no_std)]

#[cfg(any(feature = "alloc", test))]
extern crate alloc;

mod age;
mod atomic;
mod attributes;
mod block;
mod clear;
mod config;
mod convert;
mod cut;
mod descriptor;
mod dirty;
#[cfg(all(feature = "el2", target_arch = "aarch64"))]
pub mod el2;
mod error;
mod fault;
mod features;
mod fold;
mod frames;
mod gather;
mod geometry;
#[cfg(any(feature = "alloc", test))]
mod heap;
mod map;
mod marker;
mod optimise;
#[cfg(any(feature = "alloc", test))]
mod packed;
#[cfg(any(feature = "alloc", test))]
mod palette;
mod protect;
mod remark;
mod runs;
mod tables;
mod tlbi;
mod walk;

#[doc = include_str!("contiguous.md")]
pub mod contiguous {}

pub use atomic::Entry;
pub use attributes::{Attributes, AttributesError, Encoding, Execute, Memory, Shareability};
pub use clear::{Clear, Harvest};
pub use config::{Config, ConfigError, Options};
pub use convert::Merge;
pub use descriptor::{Descriptor, Format};
pub use error::Error;
pub use fault::{Access, Unresolved};
pub use features::{BbmLevel, Features, GranuleSupport, HardwareUpdate, IdRegisters};
pub use fold::Refusal;
pub use frames::Frames;
pub use gather::{Gather, Sequence, Span};
pub use geometry::{CONCATENATION, G4K, G16K, G64K, Granule, Level, input_bits, start_level, start_levels};
#[cfg(any(feature = "alloc", test))]
pub use heap::HeapFrames;
pub use map::Existing;
pub use marker::Marker;
pub use optimise::Optimised;
#[cfg(any(feature = "alloc", test))]
pub use packed::PackedFrames;
pub use protect::{Marks, Protection};
pub use runs::{Content, Run, Runs};
pub use tables::Tables;
pub use tlbi::{Executor, Instruction, NoMmu, TlbiRules};
pub use walk::{Leaf, Lookup};

#[cfg(test)]
mod convert_tests;
#[cfg(test)]
mod flat_tests;
#[cfg(test)]
mod must_pass_tests;
#[cfg(test)]
mod packed_tests;
#[cfg(test)]
mod raw_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tlbi_tests;
