//! The state of one watcher in its stream.

use crate::core::routing::{Interest, WatcherId};
use crate::error::EtcdError;
use crate::types::Revision;
use std::sync::Arc;

/// The part of an answer that passes through the routing task unchanged.
#[derive(Debug)]
pub(super) enum Answer {
    Created(Box<Created>),
    Refused(Box<EtcdError>),
    Canceled(WatcherId),
    /// Reading the requests failed.
    Failed(Box<EtcdError>),
}

/// A requested watcher.
#[derive(Debug)]
pub(super) struct Created {
    pub(super) watcher: WatcherId,
    pub(super) interest: Arc<Interest>,
    /// The first revision, as in the request.
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
    pub(super) sent_to: Revision,
    /// Whether events were sent since the last tick.
    pub(super) is_fresh: bool,
    /// Whether the last tick found that progress should be reported.
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
    /// Whether a progress mark of this revision holds for the watcher (S3). A mark from before it has caught
    /// up may be older than the events that were sent since, and must not be reported.
    pub(super) fn has_all(&self, revision: Revision) -> bool {
        let holds = match self.phase {
            Phase::Live => true,
            Phase::Joining { from } => revision < from,
            Phase::Behind { .. } | Phase::Compacted => false,
        };
        holds && self.options.start <= revision && self.sent_to <= revision
    }
}
