//! The limit of connections, which follows from the limit of file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Descriptors that clients cannot take: the store, NATS, the log and the probes need theirs. As many as etcd
/// keeps.
const RESERVED_DESCRIPTORS: u64 = 150;

/// As many connections as there are file descriptors for, but for the reserved ones. Raises the limit of
/// descriptors as far as it goes, as Go does for every program.
pub(crate) fn connections() -> Arc<Semaphore> {
    let limit = raise_descriptor_limit();
    if limit <= RESERVED_DESCRIPTORS {
        tracing::warn!(limit, "the limit of file descriptors is too low; raise it to some thousands");
    }
    let connections = limit.saturating_sub(RESERVED_DESCRIPTORS).max(1);
    let connections = usize::try_from(connections).unwrap_or(usize::MAX).min(Semaphore::MAX_PERMITS);
    Arc::new(Semaphore::new(connections))
}

fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let is_raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).is_ok();
    // None is no limit.
    (if is_raised { limit.maximum } else { limit.current }).unwrap_or(u64::MAX)
}
