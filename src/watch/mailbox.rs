//! What the hub has put down for one stream and the stream has not taken yet.

use super::batch::{Batch, Matched};
use super::metrics::Metrics;
use crate::primitive::{AtomicWaker, Mutex, MutexGuard};
use crate::types::Revision;
use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;

/// Deliveries that may wait for one stream.
pub(super) const DELIVERIES: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    8
} else {
    1024
};
/// Keys and values that may wait for one stream. They are shared with the log and with other streams, but a
/// compaction may leave this stream as their last owner.
const BYTES: usize = 32 << 20;

/// The identity of one registration of a watcher with the hub. Later ones are greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket(pub(super) u64);

/// One thing that the hub tells a stream. Items are taken in the order in which they were put.
#[derive(Debug)]
pub(super) enum Item {
    /// Events of one revision for one watcher.
    Events { watch_id: i64, ticket: Ticket, batch: Arc<Batch>, matched: Matched },
    /// The watcher is no longer registered; it has been given everything before `from`.
    Lagging { watch_id: i64, ticket: Ticket, from: Revision },
    /// Every watcher whose ticket is lower than `before` has been given everything up to `revision`.
    Progress { scope: ProgressScope, revision: Revision, before: Ticket },
    /// Everything said so far was about a store that is no more.
    Reset,
}

/// Who asked for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProgressScope {
    /// The client, for the whole stream.
    Stream,
    /// The stream's ticker, for the watchers that are due.
    Due,
}

/// The queue between the hub and one stream. Bounded: deliveries have the limits above, and a watcher has at most
/// one `Lagging`, since it is unregistered with it.
#[derive(Debug)]
pub(super) struct Mailbox {
    inbox: Mutex<Inbox>,
    waker: AtomicWaker,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<Item>,
    deliveries: usize,
    bytes: usize,
}

impl Mailbox {
    pub(super) fn new(metrics: Arc<Metrics>) -> Mailbox {
        Mailbox { inbox: Mutex::default(), waker: AtomicWaker::new(), metrics }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("nothing panics while it holds an inbox")
    }

    /// Puts events down, unless there is no room for them. Answers whether the mailbox was empty, so that its stream
    /// may be asleep.
    pub(super) fn deliver(
        &self,
        watch_id: i64,
        ticket: Ticket,
        batch: &Arc<Batch>,
        matched: Matched,
        weight: usize,
    ) -> Result<bool, Full> {
        let mut inbox = self.inbox();
        let is_full = inbox.deliveries >= DELIVERIES || inbox.bytes.saturating_add(weight) > BYTES;
        if is_full && inbox.deliveries > 0 {
            return Err(Full);
        }
        let was_empty = inbox.items.is_empty();
        inbox.deliveries += 1;
        inbox.bytes += weight;
        inbox.items.push_back(Item::Events { watch_id, ticket, batch: Arc::clone(batch), matched });
        self.metrics.pending.add(1);
        Ok(was_empty)
    }

    /// Puts a progress mark down; drops it where there is no room (WAT-35).
    pub(super) fn progress(&self, scope: ProgressScope, revision: Revision, before: Ticket) {
        let mut inbox = self.inbox();
        if inbox.items.len() < DELIVERIES {
            inbox.items.push_back(Item::Progress { scope, revision, before });
        }
    }

    /// Puts an item down that must not be lost.
    pub(super) fn insist(&self, item: Item) {
        self.inbox().items.push_back(item);
    }

    /// Takes everything, in order. `into` must be empty.
    pub(super) fn take(&self, into: &mut VecDeque<Item>) {
        let mut inbox = self.inbox();
        std::mem::swap(&mut inbox.items, into);
        self.metrics.pending.sub(inbox.deliveries);
        inbox.deliveries = 0;
        inbox.bytes = 0;
    }

    /// Has `waker` woken by the next [`Mailbox::wake`]. To be called before looking into the mailbox.
    pub(super) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

impl Drop for Mailbox {
    fn drop(&mut self) {
        let deliveries = self.inbox().deliveries;
        self.metrics.pending.sub(deliveries);
    }
}

/// The mailbox has no room.
#[derive(Debug)]
pub(super) struct Full;
