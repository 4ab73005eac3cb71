//! What measurements read of the host, and how they judge it. Nothing here needs a guest.
//!
//! | module | noun |
//! |---|---|
//! | [`trace`] | the kernel's own count of system calls and stage-2 faults |
//! | [`process`] | a process's memory and processor time |
//! | [`figure`] | a number with its unit |
//! | [`row`] | one line of the table: figures, a goal, the verdict |
//! | [`table`] | all of them, for people and as JSON |

pub mod figure;
pub mod process;
pub mod row;
pub mod table;
pub mod trace;

pub use figure::{Figure, Unit};
pub use row::{Goal, Row, Verdict};
pub use table::Table;
