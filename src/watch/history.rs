//! Reading past events for a watcher that is behind.

use crate::core::routing::{Interest, Matched};
use crate::core::{KeyVersion, RevisionEvents, State};
use crate::types::Revision;

/// Most revisions with matches in one slice, as in etcd.
pub(super) const REVISIONS: usize = if cfg!(test) { 5 } else { 1000 };
/// Most events visited for one slice, so that a stream that catches up for long does other work in between.
const EVENTS: usize = if cfg!(test) { 16 } else { 16 * 1024 };

/// A part of the history for one watcher.
#[derive(Debug)]
pub(super) struct Slice {
    /// Revisions with matches, ascending.
    pub(super) revisions: Vec<(RevisionEvents, Matched)>,
    /// Everything before this is in the slice or in earlier ones.
    pub(super) next: Revision,
}

/// Reads from `from` on, which must not be compacted.
///
/// A long history of a narrow range is read through the index, whose few keys have the revisions at which
/// they changed. Any other history is read from the log.
pub(super) fn read(state: &State, interest: &Interest, from: Revision) -> Slice {
    let behind = state.log.len_since(from);
    if behind > EVENTS
        && state.index.count(&interest.range) < behind / 4
        && let Some(slice) = read_index(state, interest, from, behind / 4)
    {
        return slice;
    }
    read_log(state, interest, from)
}

fn read_log(state: &State, interest: &Interest, from: Revision) -> Slice {
    let mut revisions = Vec::new();
    let mut seen = 0;
    for entry in state.log.since(from) {
        if revisions.len() == REVISIONS || seen >= EVENTS {
            return Slice { revisions, next: entry.revision() };
        }
        seen += entry.events().len();
        if let Some(matched) = interest.matched(entry) {
            revisions.push((entry.clone(), matched));
        }
    }
    Slice { revisions, next: state.revision.next() }
}

/// Returns `None` if the range has more than `most_keys` keys, deleted ones included.
fn read_index(state: &State, interest: &Interest, from: Revision, most_keys: usize) -> Option<Slice> {
    let mut changes = Vec::new();
    let mut keys = 0;
    for history in state.index.range(&interest.range) {
        keys += 1;
        if keys > most_keys {
            return None;
        }
        let revisions = history.versions().map(KeyVersion::mod_revision);
        changes.extend(revisions.take_while(|revision| *revision >= from));
    }
    let is_all = changes.len() <= REVISIONS;
    if !is_all {
        changes.select_nth_unstable(REVISIONS);
        changes.truncate(REVISIONS);
    }
    changes.sort_unstable();
    changes.dedup();
    let next = match changes.last() {
        Some(last) if !is_all => last.next(),
        _ => state.revision.next(),
    };
    let revisions = changes
        .into_iter()
        .filter_map(|revision| {
            let entry = state.log.get(revision)?;
            Some((entry.clone(), interest.matched(entry)?))
        })
        .collect();
    Some(Slice { revisions, next })
}

/// Reads through the index, or through the log.
#[cfg(test)]
pub(super) fn read_by(state: &State, interest: &Interest, from: Revision, index: bool) -> Slice {
    if index {
        read_index(state, interest, from, usize::MAX).expect("any number of keys will do")
    } else {
        read_log(state, interest, from)
    }
}
