//! The leases of the log. Their deadlines are in [`Lessor`](super::Lessor), on the writer alone.

use crate::types::{Grant, LeaseId, Sequence};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    /// The grant.
    pub grant: Grant,
    /// The message of its grant.
    pub sequence: Sequence,
}

/// All leases. The applier writes them. Reads, watches and puts without a lease do not use them.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    leases: Mutex<HashMap<LeaseId, Lease>>,
}

impl LeaseTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        // Each change is complete before the lock is released, so a panic elsewhere leaves nothing half done.
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease, and returns the one that it replaces.
    pub(crate) fn put(&self, id: LeaseId, grant: Grant, sequence: Sequence) -> Option<Lease> {
        self.lock().insert(id, Lease { grant, sequence })
    }

    /// Removes a lease; returns it.
    pub(crate) fn remove(&self, id: LeaseId) -> Option<Lease> {
        self.lock().remove(&id)
    }

    /// Removes all leases.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }

    /// The granted TTL of every lease, ascending by id.
    pub(crate) fn ttls(&self) -> Vec<(LeaseId, i64)> {
        let mut leases: Vec<_> = self.lock().iter().map(|(id, lease)| (*id, lease.grant.ttl)).collect();
        leases.sort_unstable();
        leases
    }

    /// Every lease.
    pub(crate) fn grants(&self) -> Vec<(LeaseId, Grant)> {
        self.lock().iter().map(|(id, lease)| (*id, lease.grant)).collect()
    }

    /// Number of leases.
    pub(crate) fn len(&self) -> usize {
        self.lock().len()
    }
}
