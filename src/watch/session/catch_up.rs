//! Watchers that read history from the log, one slice at a time and in turns (S2).

use super::{Ask, Session};
use crate::core::routing::{Batch, WatcherId};
use crate::types::Revision;
use crate::watch::encoding::encode;
use crate::watch::history;
use crate::watch::response::{Body, Response};
use crate::watch::watcher::Phase;
use smallvec::SmallVec;

/// Bytes of encoded events after which a response with history ends.
const RESPONSE_BYTES: usize = if cfg!(test) { 4096 } else { 1 << 20 };

impl Session {
    pub(super) fn catch_up_from(&mut self, id: WatcherId, next: Revision) {
        if let Some(watcher) = self.watcher(id) {
            watcher.phase = Phase::Behind { next };
            self.behind.push_back(id);
        }
    }

    /// Gives the next watcher that is behind a slice of its history.
    pub(super) fn catch_up(&mut self) -> Option<Response> {
        let id = self.behind.pop_front()?;
        let state = self.reader.snapshot();
        let watcher = self.watchers.get_mut(id.place as usize)?.as_mut();
        let watcher = watcher.filter(|watcher| watcher.options.watcher == id)?;
        let Phase::Behind { next } = watcher.phase else { return None };
        if state.incarnation != self.incarnation {
            self.reset();
            return None;
        }
        if let Some(floor) = state.compacted.filter(|floor| next < *floor) {
            watcher.phase = Phase::Compacted;
            self.hub.metrics().slow_watchers.sub(1);
            let (watch_id, body) = (id.watch_id, Body::Compacted(floor));
            return Some(Response { revision: Revision(0), watch_id, body });
        }
        let slice = history::read(&state, &watcher.options.interest, next);
        let mut upto = slice.next;
        let mut events = SmallVec::new();
        let mut bytes = 0;
        for (entry, matched) in &slice.revisions {
            if bytes >= RESPONSE_BYTES {
                upto = entry.revision();
                break;
            }
            watcher.sent_to = entry.revision();
            let batch = Batch::new(entry, &state);
            for event in batch.events(matched, watcher.options.prev_kv, encode) {
                bytes += event.len();
                events.push(event);
            }
        }
        watcher.is_fresh |= !events.is_empty();
        let body = Body::Events { may_fragment: watcher.options.fragment, events };
        if upto > state.revision {
            watcher.phase = Phase::Joining { from: upto };
            self.hub.ask(Ask::Join { stream: self.stream, watcher: id, from: upto });
        } else {
            self.catch_up_from(id, upto);
        }
        let is_empty = matches!(&body, Body::Events { events, .. } if events.is_empty());
        let response = Response { revision: state.revision, watch_id: id.watch_id, body };
        (!is_empty).then(|| self.sent(response))
    }
}
