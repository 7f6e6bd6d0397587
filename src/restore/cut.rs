//! A restore to an earlier revision of the file (`--to-revision`).
//!
//! A file has every change of keys since its floor, so it holds the keys of each revision from there on.
//! Leases, users, roles and alarms have no history: those of the file stay. A lease that has ended since is
//! granted again, so that its keys neither stay for ever nor vanish before anybody can read them.

use crate::snapshot::{Saved, SavedError, TTL_OF_ENDED_LEASES};
use crate::types::{Grant, LeaseId, Revision};
use bytes::Bytes;
use std::collections::{BTreeSet, HashMap};
use thiserror::Error;

/// A revision that the file does not hold.
#[derive(Debug, Error)]
pub(crate) enum CutError {
    #[error(transparent)]
    Content(#[from] SavedError),
    #[error(
        "is compacted to revision {floor}, and --to-revision {to} is before that; give {floor} or a later one, or restore an \
         earlier snapshot"
    )]
    BeforeFloor { floor: Revision, to: Revision },
    #[error(
        "ends at revision {end}, and --to-revision {to} is behind that; give {end} or an earlier one, or restore a later \
         snapshot"
    )]
    BehindEnd { end: Revision, to: Revision },
}

/// Leaves away all changes of keys behind a revision. Returns the number of leases that are granted again.
///
/// # Errors
/// [`CutError`].
pub(super) fn cut(saved: &mut Saved, to: Revision) -> Result<usize, CutError> {
    if let Some(floor) = saved.floor.filter(|floor| to < *floor) {
        return Err(CutError::BeforeFloor { floor, to });
    }
    let mut end = Revision::EMPTY_STORE.max(saved.floor.unwrap_or_default());
    let mut on_leases: HashMap<Bytes, LeaseId> = HashMap::new();
    let mut changes = saved.changes();
    while let Some(change) = changes.next()? {
        end = end.max(change.revision);
        if change.revision > to {
            break;
        }
        if change.is_delete || change.pair.lease == 0 {
            on_leases.remove(&change.pair.key);
        } else {
            // A slice of the page would keep all of it.
            on_leases.insert(Bytes::copy_from_slice(&change.pair.key), LeaseId(change.pair.lease));
        }
    }
    if to > end {
        return Err(CutError::BehindEnd { end, to });
    }
    let mut ended: BTreeSet<LeaseId> = on_leases.into_values().collect();
    for (id, _) in &saved.leases {
        ended.remove(id);
    }
    saved.leases.extend(ended.iter().map(|id| (*id, Grant::full(TTL_OF_ENDED_LEASES))));
    saved.end = Some(to);
    Ok(ended.len())
}
