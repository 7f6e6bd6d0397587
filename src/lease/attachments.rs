//! The keys attached to each lease, by the keys' newest versions.

use crate::types::LeaseId;
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The keys of all leases. The applier writes them and lease calls read them; reads and watches do not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Attachments {
    keys: Arc<Mutex<HashMap<LeaseId, BTreeSet<Bytes>>>>,
}

impl Attachments {
    fn lock(&self) -> MutexGuard<'_, HashMap<LeaseId, BTreeSet<Bytes>>> {
        // Each change is complete before the lock is released, so a panic elsewhere leaves nothing half done.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves a key from one lease to another. Either may be no lease.
    pub(crate) fn moved(&self, key: &[u8], from: LeaseId, to: LeaseId) {
        if !from.is_some() && !to.is_some() {
            return;
        }
        let mut keys = self.lock();
        if from != to
            && let Some(attached) = keys.get_mut(&from)
        {
            attached.remove(key);
            if attached.is_empty() {
                keys.remove(&from);
            }
        }
        if to.is_some() {
            let attached = keys.entry(to).or_default();
            if !attached.contains(key) {
                attached.insert(Bytes::copy_from_slice(key));
            }
        }
    }

    /// The keys of a lease, ascending.
    pub(crate) fn keys(&self, lease: LeaseId) -> Vec<Bytes> {
        self.lock().get(&lease).map(|keys| keys.iter().cloned().collect()).unwrap_or_default()
    }

    /// Removes all keys.
    pub(crate) fn clear(&self) {
        self.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_hangs_on_its_newest_lease_only() {
        let attachments = Attachments::default();
        let (a, b) = (Bytes::from_static(b"a"), Bytes::from_static(b"b"));
        attachments.moved(&a, LeaseId::NONE, LeaseId(1));
        attachments.moved(&b, LeaseId::NONE, LeaseId(1));
        attachments.moved(&a, LeaseId(1), LeaseId(1));
        assert_eq!(attachments.keys(LeaseId(1)), [a.clone(), b.clone()]);
        attachments.moved(&a, LeaseId(1), LeaseId(2));
        attachments.moved(&b, LeaseId(1), LeaseId::NONE);
        assert_eq!(attachments.keys(LeaseId(1)), [] as [Bytes; 0]);
        assert_eq!(attachments.keys(LeaseId(2)), [a]);
    }
}
