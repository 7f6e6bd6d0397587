//! The queue from the routing task to one stream.
//!
//! It carries answers to the stream's requests, events and progress marks, in one order. The point at which a
//! watcher joins and the progress marks depend on this order. One task pushes, one pops, and neither waits.
//!
//! - Q1: items are popped in the order in which they were pushed, each once, complete with all that it refers
//!   to. The push is a release, the pop acquires it ([`Queue`]).
//! - Q2: events never take more than [`DELIVERIES`] deliveries and [`BYTES`] bytes, or one delivery of any
//!   size. They count until the stream calls [`Receiver::done`], not only until they are popped. The number
//!   of other items is bounded by the requests of the stream and by its watchers.
//! - Q3: a stream that finds nothing, registers its waker and then finds nothing again is woken by the next
//!   push ([`Sender::wake`] after it). Both sides change the one word of the waker, so the later change sees
//!   everything before the earlier one.
//!
//! The sender counts the deliveries that it has pushed, the receiver those that are done. Both see only the
//! latter number. Its accesses are relaxed: it carries no data, and with an old value the queue seems fuller
//! than it is, never emptier. The sender loads it only if the last loaded value leaves no room.
//!
//! The list is crossbeam-queue's `SegQueue`, and not its `ArrayQueue` or another ring, because of the memory:
//! most streams are idle, and a ring of 1024 items of 48 bytes would take 48 KiB for each of them. The queue
//! of a stream without any item holds no block, an idle one a single block of 1.7 KiB.

use super::batch::{Batch, Matched};
use crate::primitive::{AtomicUsize, AtomicWaker, Counter, Ordering, Queue};
use crate::types::Revision;
use std::sync::Arc;
use std::task::Waker;

/// Deliveries that may wait for one stream.
pub(crate) const DELIVERIES: usize = if cfg!(jetway_loom) {
    1
} else if cfg!(test) {
    8
} else {
    1024
};
/// Keys and values that may wait for one stream. They are shared with the log and with other streams, but a
/// compaction may leave this stream as their last owner.
const BYTES: usize = 32 << 20;

/// The identity of a watcher on its stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatcherId {
    /// The number that the client knows. It may be used again after the watcher's end.
    pub watch_id: i64,
    /// The place at which the stream keeps the watcher, so that an event finds it without a search. It may be
    /// used again after the watcher's end.
    pub place: u32,
    /// Differs from that of any other watcher at the same place.
    pub serial: u32,
}

/// An item from the routing task to a stream. `A` is the part of an answer that only the stream understands.
#[derive(Debug)]
pub enum Item<A> {
    /// Events of one revision for one watcher.
    Events {
        /// The watcher.
        watcher: WatcherId,
        /// The revision.
        batch: Arc<Batch>,
        /// Its events for the watcher.
        matched: Matched,
    },
    /// The watcher is no longer registered; it has been given everything before `from`.
    Lagging {
        /// The watcher.
        watcher: WatcherId,
        /// The first revision that it misses.
        from: Revision,
    },
    /// The answer to a new watcher.
    Started {
        /// As it came with the request.
        answer: A,
        /// The newest revision at that moment.
        revision: Revision,
        /// Whether the watcher is registered. If not, it wants history first.
        is_live: bool,
    },
    /// The watcher that asked to join is registered; what it had missed by then comes next.
    Joined(WatcherId),
    /// The watcher that asked to join must first catch up more: too many events have come since.
    Behind(WatcherId),
    /// An answer that only had to keep its place in the order.
    Echo {
        /// As it came with the request.
        answer: A,
        /// The newest revision at that moment.
        revision: Revision,
    },
    /// Every registered watcher has got everything up to `revision`.
    Progress {
        /// As it came with the request.
        scope: ProgressScope,
        /// The revision.
        revision: Revision,
    },
    /// All items so far are about a store that was replaced.
    Reset,
}

/// The origin of a request for progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProgressScope {
    /// The client, for the whole stream.
    Stream,
    /// The stream's ticker, for the watchers that are due.
    Due,
}

/// Deliveries and bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Load {
    deliveries: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Shared<A> {
    items: Queue<Item<A>>,
    /// All that the receiver has done with since the start. They wrap around.
    done_deliveries: AtomicUsize,
    done_bytes: AtomicUsize,
    waker: AtomicWaker,
    pending: Arc<Counter>,
}

/// The end of the routing task.
#[derive(Debug)]
pub struct Sender<A> {
    shared: Arc<Shared<A>>,
    /// All that was pushed since the start.
    pushed: Load,
    /// All that the receiver had done with when the sender last looked.
    seen_done: Load,
}

/// The end of the stream.
#[derive(Debug)]
pub struct Receiver<A> {
    shared: Arc<Shared<A>>,
    done: Load,
}

/// The queue has no room.
#[derive(Debug)]
pub(super) struct Full;

/// A queue without items. Deliveries on their way are counted in `pending`.
pub fn queue<A>(pending: Arc<Counter>) -> (Sender<A>, Receiver<A>) {
    let shared = Arc::new(Shared {
        items: Queue::new(),
        done_deliveries: AtomicUsize::new(0),
        done_bytes: AtomicUsize::new(0),
        waker: AtomicWaker::new(),
        pending,
    });
    let sender = Sender { shared: Arc::clone(&shared), pushed: Load::default(), seen_done: Load::default() };
    (sender, Receiver { shared, done: Load::default() })
}

impl<A> Sender<A> {
    /// Pushes events, unless there is no room for them.
    pub(super) fn deliver(
        &mut self,
        watcher: WatcherId,
        batch: &Arc<Batch>,
        matched: Matched,
    ) -> Result<(), Full> {
        let weight = batch.weight();
        if !self.has_room(weight) {
            self.seen_done = Load {
                deliveries: self.shared.done_deliveries.load(Ordering::Relaxed),
                bytes: self.shared.done_bytes.load(Ordering::Relaxed),
            };
            if !self.has_room(weight) {
                return Err(Full);
            }
        }
        self.pushed.deliveries = self.pushed.deliveries.wrapping_add(1);
        self.pushed.bytes = self.pushed.bytes.wrapping_add(weight);
        self.shared.pending.add(1);
        self.shared.items.push(Item::Events { watcher, batch: Arc::clone(batch), matched });
        Ok(())
    }

    fn has_room(&self, weight: usize) -> bool {
        let deliveries = self.pushed.deliveries.wrapping_sub(self.seen_done.deliveries);
        let bytes = self.pushed.bytes.wrapping_sub(self.seen_done.bytes);
        deliveries == 0 || deliveries < DELIVERIES && bytes.saturating_add(weight) <= BYTES
    }

    /// Pushes an item that is no delivery.
    pub(super) fn push(&mut self, item: Item<A>) {
        debug_assert!(!matches!(item, Item::Events { .. }), "events have bounds");
        self.shared.items.push(item);
    }

    /// Wakes the stream if it sleeps. Must follow each push, at once or a little later.
    pub(super) fn wake(&self) {
        self.shared.waker.wake();
    }
}

impl<A> Receiver<A> {
    /// The next item.
    pub fn pop(&mut self) -> Option<Item<A>> {
        self.shared.items.pop()
    }

    /// Makes room for as many deliveries and bytes.
    pub fn done(&mut self, deliveries: usize, bytes: usize) {
        // This comes first, so that the number never exceeds the bounds.
        self.shared.pending.sub(deliveries);
        self.done.deliveries = self.done.deliveries.wrapping_add(deliveries);
        self.done.bytes = self.done.bytes.wrapping_add(bytes);
        self.shared.done_bytes.store(self.done.bytes, Ordering::Relaxed);
        self.shared.done_deliveries.store(self.done.deliveries, Ordering::Relaxed);
    }

    /// Makes the next push wake `waker`. The receiver must look for items once more before it sleeps.
    pub fn register(&self, waker: &Waker) {
        self.shared.waker.register(waker);
    }
}

impl<A> Drop for Shared<A> {
    fn drop(&mut self) {
        let mut left = 0;
        while let Some(item) = self.items.pop() {
            left += usize::from(matches!(item, Item::Events { .. }));
        }
        self.pending.sub(left);
    }
}
