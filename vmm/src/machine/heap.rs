//! The program's own heap, which counts as memory beside the guest's.
#![expect(unsafe_code, reason = "asks the C library to give back what it holds")]

/// Gives the host back what is free on the heap. A start leaves pages behind that nothing uses again: the command line's
/// description, what was read to find out about the host.
pub(super) fn trim() {
    // Where the C library is another one, it has no such call, or gives back by itself.
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and takes the allocator's own locks.
    unsafe {
        libc::malloc_trim(0);
    }
}
