//! Faults that can be put into the way of memory, to show that whoever looks for such a fault finds it.
//!
//! In a unit test `during` puts one in for the calling thread. A `quire` that is built with the feature `faults` takes
//! one from the environment variable `QUIRE_FAULT`. In every other build [`is`] is `false`, and nothing is left of the
//! line that asks.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// What is to be discarded grows to whole 64 KiB: its neighbours go, too.
    RoundUp,
    /// A page that leaves the balloon stays in its block's account.
    ForgetDeflate,
    /// The first leaf of a batch is told as clean.
    DropDirty,
    /// Shared memory is discarded by DONTNEED, which frees nothing.
    DontNeedShared,
    /// Without MUST_TELL_HOST the guest is told before the memory is gone.
    TellFirst,
    /// A chain is given back twice.
    ReturnTwice,
    /// What was discarded is not noted.
    ForgetRelease,
    /// A report says that it cleared what it did not.
    ReportNothing,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::RoundUp,
        Self::ForgetDeflate,
        Self::DropDirty,
        Self::DontNeedShared,
        Self::TellFirst,
        Self::ReturnTwice,
        Self::ForgetRelease,
        Self::ReportNothing,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundUp => "round-up",
            Self::ForgetDeflate => "forget-deflate",
            Self::DropDirty => "drop-dirty",
            Self::DontNeedShared => "dontneed-shared",
            Self::TellFirst => "tell-first",
            Self::ReturnTwice => "return-twice",
            Self::ForgetRelease => "forget-release",
            Self::ReportNothing => "report-nothing",
        }
    }
}

/// Whether this fault is in.
#[cfg(test)]
pub fn is(fault: Fault) -> bool {
    test::is(fault)
}

/// Whether this fault is in.
#[cfg(all(feature = "faults", not(test)))]
pub fn is(fault: Fault) -> bool {
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<Option<Fault>> = LazyLock::new(|| {
        let name = std::env::var("QUIRE_FAULT").ok()?;
        let fault = Fault::ALL.into_iter().find(|fault| fault.name() == name);
        match fault {
            Some(fault) => tracing::warn!(?fault, "a fault is in: this quire harms its guests"),
            None => tracing::error!(name, "there is no such fault"),
        }
        fault
    });
    *CHOSEN == Some(fault)
}

/// Whether this fault is in.
#[cfg(not(any(feature = "faults", test)))]
#[inline]
pub const fn is(_: Fault) -> bool {
    false
}

#[cfg(test)]
pub use test::during;

#[cfg(test)]
mod test {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static CHOSEN: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(super) fn is(fault: Fault) -> bool {
        CHOSEN.get() == Some(fault)
    }

    /// Does something with the fault in, on this thread.
    pub fn during<T>(fault: Fault, act: impl FnOnce() -> T) -> T {
        struct Out;
        impl Drop for Out {
            fn drop(&mut self) {
                CHOSEN.set(None);
            }
        }
        let _out = Out;
        CHOSEN.set(Some(fault));
        act()
    }
}
