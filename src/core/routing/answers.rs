//! Handling of the streams' requests by the routing task.

use super::batch::{Batch, Interest};
use super::queue::{Item, ProgressScope, WatcherId};
use super::registrations::Watcher;
use super::requests::{Request, StreamId};
use super::router::Router;
use super::streams::Known;
use crate::core::State;
use crate::types::Revision;
use std::sync::Arc;

/// Requests of one turn, after which events come.
const REQUESTS: usize = if cfg!(test) { 3 } else { 64 };
/// Most events of the log that are read for one request. A watcher further behind continues to read the log
/// itself.
const REPLAY_EVENTS: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    4
} else {
    1024
};

/// A request for a new watcher.
struct New<A> {
    watcher: WatcherId,
    interest: Arc<Interest>,
    start: Revision,
    answer: A,
}

impl<A> Router<A> {
    /// Handles the oldest requests, and returns whether there may be more. Several long replays end it early.
    pub(super) fn answer(&mut self) -> bool {
        let mut replayed = 0;
        for _ in 0..REQUESTS {
            let Some(request) = self.shared.queue.pop() else { return false };
            replayed += self.answer_one(request);
            if replayed >= REPLAY_EVENTS {
                break;
            }
        }
        true
    }

    /// Returns the number of events that it has read.
    fn answer_one(&mut self, request: Request<A>) -> usize {
        // Loaded after the request: it is no older than any state that the stream has seen.
        let state = self.reader.snapshot();
        self.observe(&state);
        match request {
            Request::Open { stream, mut sender, incarnation } => {
                if incarnation == self.incarnation {
                    self.streams.open(stream, sender);
                } else {
                    sender.push(Item::Reset);
                    sender.wake();
                }
            }
            Request::Start { stream, watcher, interest, start, answer } => {
                if let Some(place) = self.streams.place(stream) {
                    self.start(place, New { watcher, interest, start, answer }, &state);
                }
            }
            Request::Join { stream, watcher, from } => {
                if let Some(place) = self.streams.place(stream) {
                    return self.join(place, watcher, from, &state);
                }
            }
            Request::Leave { stream, watch_id, answer } => {
                if let Some(place) = self.streams.place(stream) {
                    self.unregister(place, watch_id);
                    self.streams.at(place).watchers.remove(&watch_id);
                    self.streams.push(place, Item::Echo { answer, revision: state.revision });
                }
            }
            Request::Echo { stream, answer } => {
                if let Some(place) = self.streams.place(stream) {
                    self.streams.push(place, Item::Echo { answer, revision: state.revision });
                }
            }
            Request::Progress { stream, scope } => self.progress(stream, scope, &state),
            Request::Close { stream } => self.streams.close(stream),
            Request::Routed { revision, done } => self.awaited.push((revision, done)),
        }
        0
    }

    fn register(&mut self, place: u32, id: WatcherId, interest: &Interest, from: Revision) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let Interest { range, no_put, no_delete } = interest;
        let (no_put, no_delete) = (*no_put, *no_delete);
        let watcher = Watcher { number, stream: place, no_put, no_delete, id, from };
        self.registrations.insert(range, watcher);
        self.is_changed = true;
        number
    }

    fn start(&mut self, place: u32, new: New<A>, state: &State) {
        let New { watcher, interest, start, answer } = new;
        let revision = state.revision;
        let is_live = start.0 == 0 || start > revision;
        let number = is_live.then(|| {
            // The watcher needs no event up to `revision`, even if those are not routed yet.
            self.register(place, watcher, &interest, start.max(revision.next()))
        });
        let known = Known { id: watcher, interest, number };
        let replaced = self.streams.at(place).watchers.insert(watcher.watch_id, known);
        debug_assert!(replaced.is_none(), "the stream has left the watch id before it uses it again");
        self.streams.push(place, Item::Started { answer, revision, is_live });
    }

    /// Returns the number of events that the watcher had missed.
    fn join(&mut self, place: u32, watcher: WatcherId, from: Revision, state: &State) -> usize {
        let known = self.streams.at(place).watchers.get(&watcher.watch_id);
        let waits = |known: &&Known| known.id == watcher && known.number.is_none();
        // A watcher that has left meanwhile needs no answer.
        let Some(known) = known.filter(waits) else { return 0 };
        let interest = Arc::clone(&known.interest);
        let is_gone = from <= self.routed && state.is_compacted(from);
        let routed = self.routed;
        let missed = || state.log.since(from).take_while(|entry| entry.revision() <= routed);
        let mut events = 0;
        let is_close = missed().all(|entry| {
            events += entry.events().len();
            events <= REPLAY_EVENTS
        });
        if is_gone || !is_close {
            self.streams.push(place, Item::Behind(watcher));
            return events;
        }
        let number = self.register(place, watcher, &interest, from);
        if let Some(known) = self.streams.at(place).watchers.get_mut(&watcher.watch_id) {
            known.number = Some(number);
        }
        self.streams.push(place, Item::Joined(watcher));
        for entry in missed() {
            let Some(matched) = interest.matched(entry) else { continue };
            let batch = Arc::new(Batch::new(entry, state));
            if self.streams.at(place).sender.deliver(watcher, &batch, matched).is_err() {
                self.streams.push(place, Item::Lagging { watcher, from: batch.revision() });
                self.unregister(place, watcher.watch_id);
                break;
            }
        }
        events
    }

    fn progress(&mut self, stream: StreamId, scope: ProgressScope, state: &State) {
        if self.routed != state.revision {
            self.progress_wanted.push((stream, scope));
        } else if let Some(place) = self.streams.place(stream) {
            self.streams.push(place, Item::Progress { scope, revision: self.routed });
        }
    }
}

#[cfg(test)]
impl<A> Router<A> {
    /// Handles the oldest `most` requests without routing, and returns their number.
    pub(crate) fn answer_only(&mut self, most: usize) -> usize {
        let requests = std::iter::from_fn(|| self.shared.queue.pop()).take(most);
        let requests: Vec<_> = requests.collect();
        let count = requests.len();
        for request in requests {
            self.answer_one(request);
        }
        self.publish();
        count
    }

    /// Whether all streams and registrations are gone.
    pub(crate) fn is_unwatched(&self) -> bool {
        let published = self.shared.registrations.load_full();
        self.registrations.is_empty() && published.is_empty() && self.streams.is_empty()
    }
}
