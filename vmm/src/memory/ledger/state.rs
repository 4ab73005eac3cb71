//! What can be known of a page.

use std::ops::Range;

use serde::Serialize;
use stage2::{Content, Marker};

/// What is known of a page of guest RAM.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It holds something.
    Populated {
        /// Used since the last ageing, as far as anybody has looked; where nobody looks, since ever.
        young: bool,
        /// Written since dirty pages were last collected, or nobody can tell.
        dirty: bool,
    },
    /// The balloon holds it, and the driver has promised to tell before it uses it: reads as zero. Hard.
    Released,
    /// Zero when last looked at. Soft: the guest may have filled it since.
    Vacant,
    /// Its content lives on storage and is not loaded yet; userfaultfd tells before the guest sees it. Hard.
    Absent,
}

impl State {
    /// What is known of a page that was found to hold something, and nothing else.
    pub const FOUND: Self = Self::Populated { young: true, dirty: true };

    /// Whether the host holds memory for it.
    pub const fn is_populated(self) -> bool {
        matches!(self, Self::Populated { .. })
    }

    /// Of what the tables say.
    pub(super) fn of(content: Content) -> Self {
        match content {
            Content::Mapped { attributes, .. } => {
                Self::Populated { young: attributes.young, dirty: attributes.dirty }
            }
            Content::Marked(Marker::Released) => Self::Released,
            Content::Marked(Marker::Absent) => Self::Absent,
            // RAM is never without a marker; were it, this is the claim that is asked about again.
            Content::Marked(Marker::Vacant) | Content::Unmapped => Self::Vacant,
        }
    }
}

/// A stretch of guest-physical addresses, in bytes, in one state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stretch {
    /// First byte to one behind the last.
    pub range: Range<u64>,
    /// What is known of all of it.
    pub state: State,
}
