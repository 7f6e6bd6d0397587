//! The requests of all streams to the routing task, in one queue without a lock.

use super::batch::Interest;
use super::queue::{ProgressScope, Sender, WatcherId};
use super::registrations::Registrations;
use crate::primitive::{AtomicI64, Notify, Ordering, Published, Queue, oneshot};
use crate::types::Revision;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

/// The identity of a stream. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamId(u64);

/// A request to the routing task. The requests of one thread are handled in its order.
#[derive(Debug)]
pub enum Request<A> {
    /// Add a stream, which knows the store of this incarnation.
    Open {
        /// The stream.
        stream: StreamId,
        /// The queue to it.
        sender: Sender<A>,
        /// The incarnation.
        incarnation: u64,
    },
    /// Register a new watcher, unless it wants history; answer with [`Item::Started`].
    ///
    /// [`Item::Started`]: super::Item::Started
    Start {
        /// The stream.
        stream: StreamId,
        /// The watcher, whose watch id is free.
        watcher: WatcherId,
        /// The events that it wants.
        interest: Arc<Interest>,
        /// The first revision wanted; 0 for what happens from now on.
        start: Revision,
        /// Goes back with the answer.
        answer: A,
    },
    /// Register a watcher that has got everything before `from`; answer with [`Item::Joined`] or
    /// [`Item::Behind`].
    ///
    /// [`Item::Joined`]: super::Item::Joined
    /// [`Item::Behind`]: super::Item::Behind
    Join {
        /// The stream.
        stream: StreamId,
        /// The watcher.
        watcher: WatcherId,
        /// The revision.
        from: Revision,
    },
    /// Remove a watcher; answer with [`Item::Echo`].
    ///
    /// [`Item::Echo`]: super::Item::Echo
    Leave {
        /// The stream.
        stream: StreamId,
        /// The watcher's number for the client.
        watch_id: i64,
        /// Goes back as the answer.
        answer: A,
    },
    /// Only answer, in the order of requests, with [`Item::Echo`].
    ///
    /// [`Item::Echo`]: super::Item::Echo
    Echo {
        /// The stream.
        stream: StreamId,
        /// Goes back as the answer.
        answer: A,
    },
    /// Answer with [`Item::Progress`] once everything published by now has been routed.
    ///
    /// [`Item::Progress`]: super::Item::Progress
    Progress {
        /// The stream.
        stream: StreamId,
        /// Goes back with the answer.
        scope: ProgressScope,
    },
    /// Remove a stream and all its watchers.
    Close {
        /// The stream.
        stream: StreamId,
    },
    /// Notify `done` once everything up to a revision has been routed.
    Routed {
        /// The revision.
        revision: Revision,
        /// Gets the notification.
        done: oneshot::Sender<()>,
    },
}

/// A handle for requests to the routing task. Cheap to clone, never waits.
#[derive(Debug)]
pub struct Requests<A>(pub(super) Arc<Shared<A>>);

#[derive(Debug)]
pub(super) struct Shared<A> {
    pub(super) queue: Queue<Request<A>>,
    /// Wakes the routing task, also when there are new events.
    pub(super) published: Arc<Notify>,
    /// Every event up to here is in the queues of its watchers. The routing task stores it with Release after
    /// its pushes.
    pub(super) routed: AtomicI64,
    pub(super) registrations: Published<Registrations>,
    streams: AtomicU64,
}

impl<A> Shared<A> {
    /// `routed` is the revision up to which there is nothing to route.
    pub(super) fn new(published: Arc<Notify>, routed: Revision) -> Shared<A> {
        Shared {
            queue: Queue::new(),
            published,
            routed: AtomicI64::new(routed.0),
            registrations: Published::from_pointee(Registrations::default()),
            streams: AtomicU64::new(0),
        }
    }
}

impl<A> Clone for Requests<A> {
    fn clone(&self) -> Requests<A> {
        Requests(Arc::clone(&self.0))
    }
}

impl<A> Requests<A> {
    /// Sends a request to the routing task.
    pub fn ask(&self, request: Request<A>) {
        self.0.queue.push(request);
        self.0.published.notify_one();
    }

    /// The identity for a new stream.
    pub fn new_stream(&self) -> StreamId {
        // It orders nothing: the request `Open` adds the stream.
        StreamId(self.0.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Wakes the routing task for new events.
    pub fn wake(&self) {
        self.0.published.notify_one();
    }

    /// The watchers that are registered, as the routing task has last published them.
    pub fn registrations(&self) -> Arc<Registrations> {
        self.0.registrations.load_full()
    }

    /// Waits until every event up to a published revision is in the queues of its watchers.
    pub async fn routed(&self, revision: Revision) {
        // Acquires the pushes of the routing task.
        if self.0.routed.load(Ordering::Acquire) >= revision.0 {
            return;
        }
        let (done, answer) = oneshot::channel();
        self.ask(Request::Routed { revision, done });
        // Without an answer the routing task has ended, and routes no more events.
        drop(answer.await);
    }
}
