//! The leases there are, as the meta stream tells.

use crate::types::{LeaseId, Sequence};
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// One lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: LeaseId,
    /// Granted time to live, seconds.
    pub ttl: i64,
    /// When it ends unless renewed, by this process's clock.
    pub deadline: Instant,
    /// Its entry in the meta stream.
    pub entry: Sequence,
}

impl Lease {
    /// Seconds left, truncated toward zero; negative when overdue.
    pub fn remaining(&self, now: Instant) -> i64 {
        match self.deadline.checked_duration_since(now) {
            Some(left) => left.as_secs() as i64,
            None => -(now.duration_since(self.deadline).as_secs() as i64),
        }
    }
}

/// All leases. Written by the follower of the meta stream.
#[derive(Debug, Default)]
pub struct LeaseTable {
    leases: Mutex<HashMap<LeaseId, Lease>>,
}

impl LeaseTable {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an entry of the meta stream: a grant or a renewal that has `left` until it ends.
    pub fn put(&self, id: LeaseId, ttl: i64, left: Duration, entry: Sequence) {
        let deadline = Instant::now() + left;
        self.lock().insert(id, Lease { id, ttl, deadline, entry });
    }

    /// Sees to it that each lease has `grace` left, or its whole time where that is less.
    pub fn leave_at_least(&self, grace: Duration) {
        let now = Instant::now();
        for lease in self.lock().values_mut() {
            let whole = Duration::from_secs(lease.ttl as u64);
            lease.deadline = lease.deadline.max(now + whole.min(grace));
        }
    }

    /// The lease's entry was deleted.
    pub fn remove(&self, id: LeaseId) {
        self.lock().remove(&id);
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.lock().clear();
    }

    /// One lease.
    pub fn get(&self, id: LeaseId) -> Option<Lease> {
        self.lock().get(&id).copied()
    }

    /// All leases, the one that ends first in front.
    pub fn by_deadline(&self) -> Vec<Lease> {
        let mut leases: Vec<Lease> = self.lock().values().copied().collect();
        leases.sort_by_key(|lease| (lease.deadline, lease.id));
        leases
    }

    /// The leases whose time is over.
    pub fn expired(&self, now: Instant) -> Vec<Lease> {
        self.lock().values().filter(|lease| lease.deadline <= now).copied().collect()
    }

    /// Number of leases.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }
}
