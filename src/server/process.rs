//! What the process asks of the system before it serves anybody.

use std::io;

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

/// Raises the soft limit of open files to the hard one, as every Go program does when it starts: whoever has set up a
/// machine for etcd may have had ten thousand connections with a soft limit of 1024. Answers the limit.
pub(super) fn raise_descriptor_limit() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "getrlimit has no counterpart in std")]
    // SAFETY: the pointer is to a value of the right type that outlives the call.
    let outcome = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "setrlimit has no counterpart in std")]
    // SAFETY: the pointer is to a value of the right type that outlives the call.
    let outcome = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(limit.rlim_cur)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_becomes_the_highest_there_is() {
        let raised = raise_descriptor_limit().expect("it may be raised up to the hard limit");
        assert_eq!(i64::try_from(raised).ok(), Some(crate::telemetry::descriptor_limit()));
    }
}
