//! Giving memory back.
//!
//! The allocator keeps what was freed for later. A member that took a burst of large values
//! would hold its peak for ever; every few seconds the committer's thread returns whole pages to
//! the system instead.

/// Returns freed memory to the system where the allocator can; a few milliseconds at most.
pub fn release_unused_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: malloc_trim takes a number, may be called from any thread at any time, and
        // touches only memory that the allocator holds as free.
        #[expect(unsafe_code, reason = "glibc has no safe wrapper for malloc_trim")]
        unsafe {
            libc::malloc_trim(0);
        }
    }
}
