//! The model: hardware that walks the tables, as the architecture describes it.
//!
//! No emulator and no processor at hand shows what can go wrong with contiguous groups: one ignores the bit,
//! the other would have to be unlucky. So this is a processor made to be unlucky. It is written from DDI 0487 and
//! shares nothing with the crate but the types of its interface: descriptors, registers and TLBI operands are
//! decoded anew.
//!
//! Principles:
//!
//! - **Whatever the architecture allows happens**, sooner or later: entries stay cached as long as they may, or
//!   vanish; walks run ahead; a group is one entry, or sixteen; its dirty bit lands on any member.
//! - **Moments.** The crate calls out when it looks at a table and when it issues instructions. There the
//!   hardware acts, in the middle of every operation. What happens between two neighbouring stores is for
//!   `tests/loom.rs`, and for `tests/threads.rs`.
//! - **A flat map** says what every page must hold. After every step the raw tables, the TLB, the reports
//!   and the frames are held against it, and nothing but it.
//! - **The model is tested too**: `caught` breaks the code on purpose, `known` checks it against words
//!   from the architecture.
//!
//! | module | noun |
//! |---|---|
//! | `regime` | registers, decoded |
//! | `word` | one descriptor, decoded |
//! | `walker` | walks, and the survey of whole tables |
//! | `tlb` | what a processor remembers |
//! | `tlbi` | what an instruction invalidates, and the order that does it |
//! | `hardware` | the MMU: accesses, marks, speculation |
//! | `arena` | physical memory, free frames poisoned |
//! | `flat` | a value for every address |
//! | `violation` | what can be wrong |
//! | `rig` | all of it together; how a step is judged |
//! | `operations`, `joins`, `guest`, `reads` | each operation, and what the flat map says about it |
//! | `geometry`, `sequence`, `chance` | random configurations, operations, decisions |
//! | `properties` | random sequences over all geometries |
//! | `cases` | the situations that any such code must survive, by name |
//! | `caught` | the code broken on purpose |
//! | `known` | the model against words from the architecture |
#![cfg(not(loom))]

mod arena;
mod cases;
mod caught;
mod chance;
mod flat;
mod geometry;
mod guest;
mod hardware;
mod joins;
mod known;
mod operations;
mod properties;
mod reads;
mod regime;
mod rig;
mod sequence;
mod tlb;
mod tlbi;
mod violation;
mod walker;
mod word;
