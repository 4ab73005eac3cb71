//! What a person or a program is shown of a VM's memory.
//!
//! Principles: a report is plain data first (serde), and words for a terminal second; it is made from what the
//! ledger says, and where the host lets us look, the host's own view stands beside it.
//!
//! | module | what it holds |
//! |---|---|
//! | [`map`] | [`Map`]: how guest memory is made up, and a strip of the address space |
//! | [`folios`] | [`Folios`]: in which sizes the host really maps it |
//! | `draw` | a map as text |

pub mod folios;
pub mod map;

mod draw;

pub use folios::Folios;
pub use map::{Cell, Map};
