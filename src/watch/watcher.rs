//! One watcher as its stream knows it.

use crate::core::routing::{Interest, WatcherId};
use crate::error::EtcdError;
use crate::types::Revision;
use std::sync::Arc;

/// The part of an answer that passes the routing task as it is.
#[derive(Debug)]
pub(super) enum Answer {
    Created(Box<Created>),
    Refused(Box<EtcdError>),
    Canceled(WatcherId),
    /// The requests cannot be read on.
    Failed(Box<EtcdError>),
}

/// A watcher that has been asked for.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) watcher: WatcherId,
    pub(super) interest: Arc<Interest>,
    /// As the client gave it.
    pub(super) start: Revision,
    pub(super) prev_kv: bool,
    pub(super) progress_notify: bool,
    pub(super) fragment: bool,
}

/// A watcher.
#[derive(Debug)]
pub(super) struct Watcher {
    pub(super) options: Created,
    pub(super) phase: Phase,
    /// Revision of the newest event that was sent.
    pub(super) told: Revision,
    /// Whether events were sent since the last tick.
    pub(super) is_fresh: bool,
    /// Whether the last tick found that progress should be told.
    pub(super) is_due: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Live,
    Behind { next: Revision },
    Joining { from: Revision },
    Compacted,
}

impl Phase {
    pub(super) fn is_slow(self) -> bool {
        matches!(self, Phase::Behind { .. } | Phase::Joining { .. })
    }
}

impl Watcher {
    /// Whether a progress mark of this revision holds for the watcher (S3). One from before it has caught up with may be
    /// older than what it has been told since; to tell that would be to go back.
    pub(super) fn has_all(&self, revision: Revision) -> bool {
        let holds = match self.phase {
            Phase::Live => true,
            Phase::Joining { from } => revision < from,
            Phase::Behind { .. } | Phase::Compacted => false,
        };
        holds && self.options.start <= revision && self.told <= revision
    }
}
