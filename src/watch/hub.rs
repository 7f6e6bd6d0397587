//! The watch hub: follows the event log and puts each event into the mailboxes of exactly those streams that have a
//! watcher for its key.
//!
//! All of its state, the router, is behind one mutex that is held for short slices: the hub's task takes it to route
//! a few hundred deliveries at a time, streams take it to register, unregister and ask for progress. That makes each
//! of these a step at one exact point of the log, `routed`, and is what the guarantees rest on:
//! - H1: a registered watcher has been given every matching event in `from..=routed` and none behind. Whoever
//!   registers at a revision that is already routed gets the difference from the log in the same step.
//! - H2: a progress mark `R` is put down only at `routed == R`, behind all events up to `R` (WAT-31).
//! - H3: a watcher whose mailbox is full is unregistered in the same step, and is told from where on it missed
//!   something. The hub never waits for a stream.
//!
//! Lock order: a stream's session, the router, a mailbox.
//!
//! Who waits for whom: a reader and the one writer for nobody here. The writer publishes and notifies, and never takes the
//! router. The hub's task may have to wait while a stream registers, which replays at most [`REPLAY_EVENTS`], or leaves,
//! which takes back at most [`SLICE_DELIVERIES`] registrations at a time; a stream may have to wait for a slice of the
//! hub, that is until the revision in which it reaches one of its bounds is through. What they wait for is work in memory
//! that awaits nothing, and it delays what watchers see, not what is written or read. Taking this lock away would mean to hand
//! registrations to the hub's task and to wait for its answer, which is the same wait under another name: H1 needs one
//! point of the log at which a watcher is in.

use super::batch::{Batch, Matched, weight};
use super::intervals::Intervals;
use super::mailbox::{Item, Mailbox, ProgressScope, Ticket};
use super::metrics::Metrics;
use crate::core::{Reader, RevisionEvents, State};
use crate::primitive::{Mutex, MutexGuard, Notify};
use crate::types::{KeyRange, Revision};
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Deliveries after which the hub lets others have the router.
const SLICE_DELIVERIES: usize = if cfg!(test) { 7 } else { 512 };
/// Revisions after which the hub lets others have the router.
const SLICE_REVISIONS: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    5
} else {
    512
};
/// Events that a registration reads from the log while it holds the router; a watcher further behind goes on
/// catching up by itself.
const REPLAY_EVENTS: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    4
} else {
    1024
};

/// A handle to the hub. The hub's task ends with the last one.
#[derive(Clone, Debug)]
pub struct WatchHub {
    shared: Arc<Shared>,
    _task: Arc<DropGuard>,
}

#[derive(Debug)]
struct Shared {
    reader: Reader,
    published: Arc<Notify>,
    router: Mutex<Router>,
    routed: watch::Sender<Revision>,
    metrics: Arc<Metrics>,
}

/// What a watcher wants to be told.
#[derive(Clone, Debug)]
pub(super) struct Interest {
    pub(super) range: KeyRange,
    pub(super) no_put: bool,
    pub(super) no_delete: bool,
}

impl Interest {
    /// The events of a revision that the watcher wants.
    pub(super) fn matched(&self, entry: &RevisionEvents) -> Option<Matched> {
        let wants = |event: &crate::core::Event| {
            let filtered = if event.version.is_tombstone() { self.no_delete } else { self.no_put };
            !filtered && self.range.contains(event.version.key())
        };
        if let [only] = entry.events() {
            return wants(only).then_some(Matched::All);
        }
        let places: Vec<u32> = (0..)
            .zip(entry.events().iter())
            .filter(|(_, event)| wants(event))
            .map(|(place, _)| place)
            .collect();
        Matched::new(&places, entry.events().len())
    }
}

/// Names a registration, to take it back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registration {
    slot: u32,
    pub(super) ticket: Ticket,
}

/// How a watcher starts.
#[derive(Debug)]
pub(super) enum Start {
    /// Registered; nothing before `revision.next()` or the asked start will come.
    Live { revision: Revision, registration: Registration },
    /// It wants history first. `revision` is the newest now.
    Past { revision: Revision },
}

/// Why a registration was refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Too much has happened since; catch up some more.
    Behind,
    /// The store is not the one that this stream has been told about.
    Reset,
}

impl WatchHub {
    /// Starts the hub on the present runtime. It looks for new events whenever `published` is notified.
    pub fn spawn(reader: Reader, published: Arc<Notify>) -> WatchHub {
        let stop = CancellationToken::new();
        let hub = WatchHub::idle(reader, published, stop.clone());
        tokio::spawn(hub.follow(stop));
        hub
    }

    /// What the hub's task does.
    pub(super) fn follow(&self, stop: CancellationToken) -> impl Future<Output = ()> + use<> {
        let shared = Arc::clone(&self.shared);
        async move {
            stop.run_until_cancelled(shared.follow()).await;
        }
    }

    /// A hub without a task, which routes only when told to.
    pub(super) fn idle(reader: Reader, published: Arc<Notify>, stop: CancellationToken) -> WatchHub {
        let state = reader.snapshot();
        let router = Router::new(&state);
        let routed = watch::Sender::new(state.revision);
        let shared = Shared {
            reader,
            published,
            router: Mutex::new(router),
            routed,
            metrics: Arc::new(Metrics::default()),
        };
        WatchHub { shared: Arc::new(shared), _task: Arc::new(stop.drop_guard()) }
    }

    /// Tells the hub that there is something new to see. Cheap; calls between two looks count as one.
    pub fn wake(&self) {
        self.shared.published.notify_one();
    }

    /// What there is to count.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.shared.metrics
    }

    /// Waits until every event up to a published revision has been put on its way. A compaction that waits for this
    /// before it forgets events cannot take any from a watcher that keeps up.
    pub async fn routed(&self, revision: Revision) {
        let mut routed = self.shared.routed.subscribe();
        // The sender lives in `self`, so there is no other end to the wait.
        let _seen = routed.wait_for(|routed| *routed >= revision).await;
    }

    /// Makes a mailbox for a stream; answers the epoch it is bound to.
    pub(super) fn open(&self) -> (u64, Arc<Mailbox>) {
        let mailbox = Arc::new(Mailbox::new(Arc::clone(&self.shared.metrics)));
        let mut router = self.shared.router();
        router.observe(&self.shared.reader.snapshot());
        router.streams.insert(Arc::as_ptr(&mailbox) as usize, Arc::clone(&mailbox));
        self.shared.metrics.streams.add(1);
        (router.epoch, mailbox)
    }

    /// Forgets a stream that has unregistered its watchers.
    pub(super) fn close(&self, mailbox: &Arc<Mailbox>) {
        self.shared.router().streams.remove(&(Arc::as_ptr(mailbox) as usize));
        self.shared.metrics.streams.sub(1);
    }

    /// Decides how a new watcher starts, and registers it unless it wants history (`start` 0 means no history).
    pub(super) fn start(
        &self,
        mailbox: &Arc<Mailbox>,
        epoch: u64,
        watch_id: i64,
        interest: &Interest,
        start: Revision,
    ) -> Result<Start, Refused> {
        let mut router = self.shared.router();
        let state = self.shared.reader.snapshot();
        router.observe(&state);
        if router.epoch != epoch {
            return Err(Refused::Reset);
        }
        let revision = state.revision;
        if start.0 != 0 && start <= revision {
            return Ok(Start::Past { revision });
        }
        // Nothing up to `revision` concerns the watcher, whether it is routed by now or not.
        let from = start.max(revision.next());
        let registration = router.insert(Arc::clone(mailbox), watch_id, interest.clone(), from);
        Ok(Start::Live { revision, registration })
    }

    /// Registers a watcher that has seen everything before `from`.
    pub(super) fn join(
        &self,
        mailbox: &Arc<Mailbox>,
        epoch: u64,
        watch_id: i64,
        interest: &Interest,
        from: Revision,
    ) -> Result<Registration, Refused> {
        let mut router = self.shared.router();
        let state = self.shared.reader.snapshot();
        router.observe(&state);
        if router.epoch != epoch {
            return Err(Refused::Reset);
        }
        if from <= router.routed && state.is_compacted(from) {
            return Err(Refused::Behind);
        }
        let routed = router.routed;
        let missed: Vec<_> = state.log.since(from).take_while(|entry| entry.revision() <= routed).collect();
        if missed.iter().map(|entry| entry.events().len()).sum::<usize>() > REPLAY_EVENTS {
            return Err(Refused::Behind);
        }
        let registration = router.insert(Arc::clone(mailbox), watch_id, interest.clone(), from);
        for entry in missed {
            if let Some(matched) = interest.matched(entry) {
                let batch = Arc::new(Batch::new(entry, &state));
                router.deliver(registration.slot, &batch, matched, weight(entry));
            }
        }
        // The one stream that got something is awake: it is here.
        router.awake.clear();
        Ok(registration)
    }

    /// Takes registrations back. One that the hub has ended itself is passed over.
    pub(super) fn leave(&self, registrations: impl IntoIterator<Item = Registration>) {
        let mut registrations = registrations.into_iter().peekable();
        while registrations.peek().is_some() {
            let mut router = self.shared.router();
            for registration in registrations.by_ref().take(SLICE_DELIVERIES) {
                router.leave(registration);
            }
        }
    }

    /// Puts a progress mark into the mailbox as soon as everything published by now has been routed.
    pub(super) fn progress(&self, mailbox: &Arc<Mailbox>, scope: ProgressScope) {
        let mut router = self.shared.router();
        let state = self.shared.reader.snapshot();
        router.observe(&state);
        if router.routed == state.revision {
            mailbox.progress(scope, state.revision, Ticket(router.next_ticket));
        } else {
            router.progress_wanted.push((Arc::clone(mailbox), scope));
            self.wake();
        }
    }

    /// Whether no trace of any stream is left.
    #[cfg(test)]
    pub(super) fn is_unwatched(&self) -> bool {
        let router = self.shared.router();
        let mut spans = 0;
        router.spans.stab(b"a", &mut |_| spans += 1);
        let is_free = router.watchers.len() == router.free.len();
        is_free && spans == 0 && router.keys.is_empty() && router.streams.is_empty()
    }

    /// Routes everything published so far.
    #[cfg(test)]
    pub(super) fn route(&self) {
        while self.shared.route_slice() {}
    }
}

impl Shared {
    fn router(&self) -> MutexGuard<'_, Router> {
        self.router.lock().expect("nothing panics while it holds the router")
    }

    async fn follow(&self) {
        loop {
            while self.route_slice() {
                tokio::task::yield_now().await;
            }
            self.published.notified().await;
        }
    }

    /// Routes some events; answers whether there are more.
    fn route_slice(&self) -> bool {
        let (more, routed, awake) = {
            let mut router = self.router();
            let more = router.route(&self.reader.snapshot());
            (more, router.routed, std::mem::take(&mut router.awake))
        };
        // Once for each stream and slice, and with the router free for those who wake up.
        for mailbox in awake {
            mailbox.wake();
        }
        self.routed.send_if_modified(|known| std::mem::replace(known, routed) != routed);
        more
    }
}

/// Who watches what, and how far the log has been routed.
#[derive(Debug)]
struct Router {
    epoch: u64,
    /// Every event up to here has been put into the mailboxes it belongs to.
    routed: Revision,
    watchers: Vec<Option<Watcher>>,
    free: Vec<u32>,
    next_ticket: u64,
    /// Slots of the watchers of one key each.
    keys: HashMap<Bytes, Vec<u32>>,
    /// Slots of the watchers of an interval, all of the same interval together.
    spans: Intervals<Vec<u32>>,
    /// Every open stream, by the address of its mailbox.
    streams: HashMap<usize, Arc<Mailbox>>,
    progress_wanted: Vec<(Arc<Mailbox>, ProgressScope)>,
    /// Mailboxes that were empty before this slice.
    awake: Vec<Arc<Mailbox>>,
    /// Watchers hit by the revision being routed, with the place of the event in it. Kept for its allocation.
    hits: Vec<(u32, u32)>,
}

#[derive(Debug)]
struct Watcher {
    mailbox: Arc<Mailbox>,
    watch_id: i64,
    ticket: Ticket,
    interest: Interest,
    /// Events before this one are none of its business.
    from: Revision,
    /// Where its slot stands among those of the same range.
    place: u32,
}

impl Router {
    fn new(state: &State) -> Router {
        Router {
            epoch: state.incarnation,
            routed: state.revision,
            watchers: Vec::new(),
            free: Vec::new(),
            next_ticket: 0,
            keys: HashMap::new(),
            spans: Intervals::default(),
            streams: HashMap::new(),
            progress_wanted: Vec::new(),
            awake: Vec::new(),
            hits: Vec::new(),
        }
    }

    /// Ends every stream where the store has been loaded afresh.
    fn observe(&mut self, state: &State) {
        if state.incarnation == self.epoch {
            return;
        }
        let streams = std::mem::take(&mut self.streams);
        let next_ticket = self.next_ticket;
        *self = Router { next_ticket, ..Router::new(state) };
        for mailbox in streams.into_values() {
            mailbox.insist(Item::Reset);
            mailbox.wake();
        }
    }

    fn slots(&mut self, range: &KeyRange) -> &mut Vec<u32> {
        match range {
            KeyRange::Single(key) => self.keys.entry(key.clone()).or_default(),
            KeyRange::Span { start, end } => self.spans.entry(start, end),
        }
    }

    fn insert(
        &mut self,
        mailbox: Arc<Mailbox>,
        watch_id: i64,
        interest: Interest,
        from: Revision,
    ) -> Registration {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.watchers.push(None);
            u32::try_from(self.watchers.len() - 1).expect("fewer than four billion watchers fit into memory")
        });
        let slots = self.slots(&interest.range);
        let place = slots.len() as u32;
        slots.push(slot);
        self.watchers[slot as usize] = Some(Watcher { mailbox, watch_id, ticket, interest, from, place });
        Registration { slot, ticket }
    }

    fn remove(&mut self, slot: u32) {
        let Some(Watcher { interest: Interest { range, .. }, place, .. }) =
            self.watchers[slot as usize].take()
        else {
            return;
        };
        self.free.push(slot);
        let slots = self.slots(&range);
        slots.swap_remove(place as usize);
        let moved = slots.get(place as usize).copied();
        let is_last = slots.is_empty();
        if let Some(moved) = moved.and_then(|moved| self.watchers[moved as usize].as_mut()) {
            moved.place = place;
        }
        if is_last {
            match &range {
                KeyRange::Single(key) => drop(self.keys.remove(key)),
                KeyRange::Span { start, end } => drop(self.spans.remove(start, end)),
            }
        }
    }

    fn leave(&mut self, registration: Registration) {
        let Registration { slot, ticket } = registration;
        let is_same =
            matches!(self.watchers.get(slot as usize), Some(Some(watcher)) if watcher.ticket == ticket);
        if is_same {
            self.remove(slot);
        }
    }

    /// Gives a watcher its events of one revision; where there is no room for them, it has to read them itself.
    fn deliver(&mut self, slot: u32, batch: &Arc<Batch>, matched: Matched, weight: usize) {
        let Some(Watcher { mailbox, watch_id, ticket, .. }) = &self.watchers[slot as usize] else { return };
        match mailbox.deliver(*watch_id, *ticket, batch, matched, weight) {
            Ok(true) => self.awake.push(Arc::clone(mailbox)),
            Ok(false) => {}
            Err(_full) => {
                mailbox.insist(Item::Lagging {
                    watch_id: *watch_id,
                    ticket: *ticket,
                    from: batch.revision(),
                });
                // Its stream may have emptied the mailbox since it was found full, and be asleep.
                self.awake.push(Arc::clone(mailbox));
                self.remove(slot);
            }
        }
    }

    /// Routes some of what `state` has and the router has not; answers whether there is more.
    fn route(&mut self, state: &State) -> bool {
        self.observe(state);
        if state.is_compacted(self.routed.next()) {
            self.skip_compacted(state);
        }
        let mut revisions = 0;
        let mut deliveries = 0;
        if self.watchers.len() > self.free.len() {
            for entry in state.log.since(self.routed.next()) {
                if revisions == SLICE_REVISIONS || deliveries >= SLICE_DELIVERIES {
                    return true;
                }
                deliveries += self.route_revision(entry, state);
                revisions += 1;
                self.routed = entry.revision();
            }
        }
        self.routed = self.routed.max(state.revision);
        for (mailbox, scope) in std::mem::take(&mut self.progress_wanted) {
            mailbox.progress(scope, self.routed, Ticket(self.next_ticket));
            self.awake.push(mailbox);
        }
        false
    }

    /// Gives one revision to its watchers; answers how many there were.
    fn route_revision(&mut self, entry: &RevisionEvents, state: &State) -> usize {
        let mut hits = std::mem::take(&mut self.hits);
        for (place, event) in (0_u32..).zip(entry.events().iter()) {
            let is_delete = event.version.is_tombstone();
            let mut hit = |slots: &Vec<u32>| {
                hits.extend(slots.iter().filter_map(|slot| {
                    let watcher = self.watchers[*slot as usize].as_ref()?;
                    let Interest { no_put, no_delete, .. } = watcher.interest;
                    let filtered = if is_delete { no_delete } else { no_put };
                    (!filtered && watcher.from <= entry.revision()).then_some((*slot, place))
                }));
            };
            if let Some(slots) = self.keys.get(event.version.key()) {
                hit(slots);
            }
            self.spans.stab(event.version.key(), &mut hit);
        }
        let mut watchers = 0;
        if !hits.is_empty() {
            let batch = Arc::new(Batch::new(entry, state));
            let weight = weight(entry);
            if entry.events().len() > 1 {
                hits.sort_unstable();
            }
            for hits in hits.chunk_by(|a, b| a.0 == b.0) {
                let matched = if hits.len() == entry.events().len() {
                    Matched::All
                } else {
                    Matched::Some(hits.iter().map(|(_, place)| *place).collect())
                };
                self.deliver(hits[0].0, &batch, matched, weight);
                watchers += 1;
            }
            hits.clear();
        }
        self.hits = hits;
        watchers
    }

    /// A compaction has gone past what has been routed: events are gone that some watchers had a right to. Everybody
    /// whom that may concern finds out about it while catching up.
    fn skip_compacted(&mut self, state: &State) {
        let missed = self.routed.next();
        for slot in 0..self.watchers.len() {
            let Some(Watcher { mailbox, watch_id, ticket, from, .. }) = &self.watchers[slot] else {
                continue;
            };
            let from = missed.max(*from);
            if state.is_compacted(from) {
                mailbox.insist(Item::Lagging { watch_id: *watch_id, ticket: *ticket, from });
                self.awake.push(Arc::clone(mailbox));
                self.remove(slot as u32);
            }
        }
        self.routed = state.compacted.map_or(self.routed, Revision::prev).max(self.routed);
    }
}
