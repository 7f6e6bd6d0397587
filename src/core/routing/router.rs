//! The routing task: moves events from the log to the queues of those streams that have a watcher for the
//! key, and handles the streams' requests in between.

use super::batch::{Batch, Matched};
use super::queue::{Item, ProgressScope};
use super::registrations::{Registrations, Watcher};
use super::requests::{Requests, Shared, StreamId};
use super::streams::Streams;
use crate::core::{Event, Reader, RevisionEvents, State};
use crate::primitive::{Notify, Ordering, oneshot};
use crate::types::Revision;
use std::sync::Arc;

/// Deliveries after which a turn ends.
pub(super) const SLICE_DELIVERIES: usize = if cfg!(test) { 7 } else { 512 };
/// Revisions after which a turn ends.
const SLICE_REVISIONS: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    5
} else {
    512
};

/// The state of the routing task, which alone uses it.
#[derive(Debug)]
pub struct Router<A> {
    pub(super) reader: Reader,
    pub(super) shared: Arc<Shared<A>>,
    pub(super) incarnation: u64,
    /// Every event up to here is in the queues of its watchers.
    pub(super) routed: Revision,
    /// The last value that was published.
    shown: Revision,
    /// The newest registrations.
    pub(super) registrations: Registrations,
    /// Whether they differ from the published ones.
    pub(super) is_changed: bool,
    pub(super) next_number: u64,
    pub(super) streams: Streams<A>,
    /// Streams that wait for a progress mark.
    pub(super) progress_wanted: Vec<(StreamId, ProgressScope)>,
    /// Requests that wait until a revision has been routed.
    pub(super) awaited: Vec<(Revision, oneshot::Sender<()>)>,
}

/// A router of the events behind `reader`, and the handle for requests to it. Each publication of events and
/// each request notifies `published`.
pub fn routing<A>(reader: Reader, published: Arc<Notify>) -> (Requests<A>, Router<A>) {
    let state = reader.snapshot();
    let shared = Arc::new(Shared::new(published, state.revision));
    let router = Router::new(reader, Arc::clone(&shared), &state);
    (Requests(shared), router)
}

impl<A> Router<A> {
    fn new(reader: Reader, shared: Arc<Shared<A>>, state: &State) -> Router<A> {
        Router {
            reader,
            shared,
            incarnation: state.incarnation,
            routed: state.revision,
            shown: state.revision,
            registrations: Registrations::default(),
            is_changed: false,
            next_number: 0,
            streams: Streams::new(),
            progress_wanted: Vec::new(),
            awaited: Vec::new(),
        }
    }

    /// Does a bounded part of the work, and returns whether there is more.
    pub fn turn(&mut self) -> bool {
        let more_requests = self.answer();
        let more_closed = self.unregister_closed();
        let more_events = self.route();
        self.publish();
        more_requests || more_closed || more_events
    }

    /// Publishes the registrations and `routed` if they have changed, and wakes each stream with new items
    /// once.
    pub(super) fn publish(&mut self) {
        if std::mem::take(&mut self.is_changed) {
            self.shared.registrations.store(Arc::new(self.registrations.clone()));
        }
        self.streams.wake();
        if self.shown != self.routed {
            self.shown = self.routed;
            // This store comes after the pushes: see `Requests::routed`.
            self.shared.routed.store(self.routed.0, Ordering::Release);
        }
        let routed = self.routed;
        for (_, done) in self.awaited.extract_if(.., |(revision, _)| *revision <= routed) {
            // A request may have been dropped meanwhile.
            let (Ok(()) | Err(())) = done.send(());
        }
    }

    /// Ends every stream if the store was loaded again.
    pub(super) fn observe(&mut self, state: &State) {
        if state.incarnation == self.incarnation {
            return;
        }
        self.incarnation = state.incarnation;
        self.routed = state.revision;
        self.registrations = Registrations::default();
        self.is_changed = true;
        self.progress_wanted.clear();
        self.streams.reset();
    }

    /// Removes a watcher from the registrations, if it is there. It stays in its stream.
    pub(super) fn unregister(&mut self, stream: u32, watch_id: i64) {
        let Some(known) = self.streams.at(stream).watchers.get_mut(&watch_id) else { return };
        if let Some(number) = known.number.take() {
            self.registrations.remove(&known.interest.range, number);
            self.is_changed = true;
        }
    }

    /// Removes some registrations of closed streams, and returns whether there are more.
    fn unregister_closed(&mut self) -> bool {
        let Some(place) = self.streams.closing() else { return false };
        let watchers = &self.streams.at(place).watchers;
        let some: Vec<i64> = watchers.keys().take(SLICE_DELIVERIES).copied().collect();
        let is_all = some.len() == watchers.len();
        for watch_id in some {
            self.unregister(place, watch_id);
            self.streams.at(place).watchers.remove(&watch_id);
        }
        if is_all {
            self.streams.free_closed();
        }
        self.streams.closing().is_some()
    }

    /// Routes some of the published revisions, and returns whether there are more.
    fn route(&mut self) -> bool {
        let state = self.reader.snapshot();
        self.observe(&state);
        if state.is_compacted(self.routed.next()) {
            self.skip_compacted(&state);
        }
        let (mut revisions, mut deliveries) = (0, 0);
        if !self.registrations.is_empty() {
            for entry in state.log.since(self.routed.next()) {
                if revisions == SLICE_REVISIONS || deliveries >= SLICE_DELIVERIES {
                    return true;
                }
                deliveries += self.route_revision(entry, &state);
                revisions += 1;
                self.routed = entry.revision();
            }
        }
        self.routed = self.routed.max(state.revision);
        for (stream, scope) in std::mem::take(&mut self.progress_wanted) {
            if let Some(place) = self.streams.place(stream) {
                self.streams.push(place, Item::Progress { scope, revision: self.routed });
            }
        }
        false
    }

    /// Routes without handling requests.
    #[cfg(test)]
    pub(crate) fn route_only(&mut self) -> bool {
        let more = self.route();
        self.publish();
        more
    }

    /// Gives one revision to its watchers, and returns their number.
    fn route_revision(&mut self, entry: &RevisionEvents, state: &State) -> usize {
        let mut delivery = Delivery { entry, state, batch: None, count: 0, lagging: Vec::new() };
        if let [event] = entry.events() {
            self.registrations.of(event.version.key(), |watcher| {
                if watcher.wants(event) {
                    delivery.deliver(&mut self.streams, watcher, || Matched::All);
                }
            });
        } else {
            for hits in hits(&self.registrations, entry).chunk_by(|a, b| a.0.number == b.0.number) {
                let places: Vec<u32> = hits.iter().map(|(_, place)| *place).collect();
                if let Some(matched) = Matched::new(&places, entry.events().len()) {
                    delivery.deliver(&mut self.streams, hits[0].0, || matched);
                }
            }
        }
        let Delivery { count, lagging, .. } = delivery;
        for watcher in lagging {
            self.unregister(watcher.stream, watcher.id.watch_id);
        }
        count
    }

    /// Handles a compaction above `routed`, which has removed events that some watchers should have got. Each
    /// watcher that may miss one is unregistered, and finds the compaction while it catches up.
    fn skip_compacted(&mut self, state: &State) {
        let missed = self.routed.next();
        let mut lagging = Vec::new();
        self.registrations.each(|watcher| {
            if state.is_compacted(missed.max(watcher.from)) {
                lagging.push(*watcher);
            }
        });
        for Watcher { stream, id, from, .. } in lagging {
            self.streams.push(stream, Item::Lagging { watcher: id, from: missed.max(from) });
            self.unregister(stream, id.watch_id);
        }
        self.routed = state.compacted.map_or(self.routed, Revision::prev).max(self.routed);
    }
}

impl Watcher {
    fn wants(&self, event: &Event) -> bool {
        let filtered = if event.version.is_tombstone() { self.no_delete } else { self.no_put };
        !filtered && self.from <= event.version.mod_revision()
    }
}

/// The watchers of each event of a revision, all events of one watcher together, with their places.
fn hits<'a>(registrations: &'a Registrations, entry: &RevisionEvents) -> Vec<(&'a Watcher, u32)> {
    let mut hits = Vec::new();
    for (place, event) in (0..).zip(entry.events()) {
        registrations.of(event.version.key(), |watcher| {
            if watcher.wants(event) {
                hits.push((watcher, place));
            }
        });
    }
    hits.sort_unstable_by_key(|(watcher, place)| (watcher.number, *place));
    hits
}

/// The delivery of one revision to the queues.
struct Delivery<'a> {
    entry: &'a RevisionEvents,
    state: &'a State,
    /// Made when the first watcher needs it.
    batch: Option<Arc<Batch>>,
    count: usize,
    /// Watchers whose queue had no room. They are still registered.
    lagging: Vec<Watcher>,
}

impl Delivery<'_> {
    /// Gives a watcher its events. If there is no room for them, the watcher must read them from the log
    /// itself.
    fn deliver<A>(&mut self, streams: &mut Streams<A>, watcher: &Watcher, matched: impl FnOnce() -> Matched) {
        let batch = self.batch.get_or_insert_with(|| Arc::new(Batch::new(self.entry, self.state)));
        self.count += 1;
        let Some(stream) = streams.touch(watcher.stream) else { return };
        if stream.sender.deliver(watcher.id, batch, matched()).is_err() {
            stream.sender.push(Item::Lagging { watcher: watcher.id, from: batch.revision() });
            self.lagging.push(*watcher);
        }
    }
}
