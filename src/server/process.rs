//! What the process asks of the system before it serves anybody.

/// Allocations of this size and above are the system's pages, and go back to it when they are freed.
#[cfg(target_env = "gnu")]
const LARGE_ALLOCATION_BYTES: libc::c_int = 512 << 10;

/// Keeps memory that is freed from staying with the process, as far as the allocator can be told.
///
/// glibc begins like this by itself, but takes more and more for its heap with every large allocation that is freed.
/// There a large value leaves a hole that a small one behind it, which lives longer, keeps the process from giving back:
/// a gigabyte of values that come and go with compactions was found to leave half of it behind.
pub(super) fn return_freed_memory() {
    #[cfg(target_env = "gnu")]
    {
        #[expect(unsafe_code, reason = "the allocator's settings have no counterpart in std")]
        // SAFETY: mallopt takes two numbers, and does its own locking.
        let outcome = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_ALLOCATION_BYTES) };
        if outcome == 0 {
            tracing::debug!("the allocator does not take its setting");
        }
    }
}
