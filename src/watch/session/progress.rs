//! Progress notifications: those of an interval, and those that a client requests (S3).

use super::{Ask, NO_WATCHER, Session};
use crate::core::routing::ProgressScope;
use crate::types::Revision;
use crate::watch::response::{Body, Response};
use crate::watch::watcher::{Phase, Watcher};

impl Session {
    /// Handles a tick.
    pub(in crate::watch) fn tick(&mut self) {
        let mut is_any_due = false;
        for watcher in self.watchers.iter_mut().flatten().filter(|watcher| watcher.options.progress_notify) {
            let was_fresh = std::mem::replace(&mut watcher.is_fresh, false);
            watcher.is_due = !was_fresh && watcher.phase == Phase::Live;
            is_any_due |= watcher.is_due;
        }
        if is_any_due && !std::mem::replace(&mut self.is_due_asked, true) {
            self.hub.ask(Ask::Progress { stream: self.stream, scope: ProgressScope::Due });
        }
    }

    /// Whether there are watchers, and each of them may have got everything once the inbox is handled.
    pub(super) fn may_be_synced(&self) -> bool {
        let mut watchers = self.watchers.iter().flatten().peekable();
        let may = |watcher: &Watcher| matches!(watcher.phase, Phase::Live | Phase::Joining { .. });
        watchers.peek().is_some() && watchers.all(may)
    }

    pub(super) fn progress(&mut self, revision: Revision) -> Option<Response> {
        self.open.answered();
        let mut watchers = self.watchers.iter().flatten().peekable();
        let all = watchers.peek().is_some() && watchers.all(|watcher| watcher.has_all(revision));
        all.then_some(Response { revision, watch_id: NO_WATCHER, body: Body::Progress })
    }

    pub(super) fn due_progress(&mut self, revision: Revision) {
        self.is_due_asked = false;
        for watcher in self.watchers.iter_mut().flatten() {
            if std::mem::replace(&mut watcher.is_due, false) && watcher.has_all(revision) {
                let (watch_id, body) = (watcher.options.watcher.watch_id, Body::Progress);
                self.due.push_back(Response { revision, watch_id, body });
            }
        }
    }
}
