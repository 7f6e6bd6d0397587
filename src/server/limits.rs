//! How many files and connections there may be.

use std::sync::Arc;
use tokio::sync::Semaphore;

/// Descriptors that clients cannot take: the store, NATS, the log and the probes need theirs. As many as etcd keeps.
const RESERVED_DESCRIPTORS: u64 = 150;

/// As many connections as there are file descriptors for, but for the reserved ones. Raises the limit of descriptors as
/// far as it goes, as Go does for every program.
pub(super) fn connections() -> Arc<Semaphore> {
    let limit = raise_descriptor_limit();
    if limit <= RESERVED_DESCRIPTORS {
        tracing::warn!(limit, "the limit of file descriptors is too low; raise it to some thousands");
    }
    let connections = limit.saturating_sub(RESERVED_DESCRIPTORS).max(1);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    Arc::new(Semaphore::new(connections))
}

fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the standard library has no access to limits")]
    // SAFETY: `limit` is a valid place for the result, which the call does not keep.
    let known = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0;
    if !known {
        // Never seen to fail; accepting says when descriptors run out.
        return u64::MAX;
    }
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, ..limit };
    #[expect(unsafe_code, reason = "as above")]
    // SAFETY: `raised` is read during the call only.
    let is_raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0;
    if is_raised { raised.rlim_cur } else { limit.rlim_cur }
}
