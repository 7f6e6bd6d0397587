//! The way to the routing task: one queue, without a lock, into which every stream puts its requests.

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

/// One thing that the routing task is asked. The requests of one thread are done in its order.
#[derive(Debug)]
pub enum Request<A> {
    /// Know a stream, which has been told of the store of this epoch.
    Open {
        /// The stream.
        stream: StreamId,
        /// The queue to it.
        sender: Sender<A>,
        /// The epoch.
        epoch: u64,
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
    /// Register a watcher that has been given everything before `from`; answer with [`Item::Joined`] or
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
    /// Forget a watcher; answer with [`Item::Told`].
    ///
    /// [`Item::Told`]: super::Item::Told
    Leave {
        /// The stream.
        stream: StreamId,
        /// The watcher's number for the client.
        watch_id: i64,
        /// Goes back as the answer.
        answer: A,
    },
    /// Only answer, in its place in the order.
    Tell {
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
    /// Forget a stream and all its watchers.
    Close {
        /// The stream.
        stream: StreamId,
    },
    /// Say when everything up to a revision has been routed.
    Routed {
        /// The revision.
        revision: Revision,
        /// Is told.
        done: oneshot::Sender<()>,
    },
}

/// A handle by which the routing task is asked. Cheap to clone, never waits.
#[derive(Debug)]
pub struct Requests<A>(pub(super) Arc<Shared<A>>);

#[derive(Debug)]
pub(super) struct Shared<A> {
    pub(super) queue: Queue<Request<A>>,
    /// Wakes the routing task, also when there are new events.
    pub(super) published: Arc<Notify>,
    /// Every event up to here is in the queues it belongs to. Released by the routing task behind its pushes.
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
    /// Asks the routing task.
    pub fn ask(&self, request: Request<A>) {
        self.0.queue.push(request);
        self.0.published.notify_one();
    }

    /// The identity for a new stream.
    pub fn new_stream(&self) -> StreamId {
        // Nothing is ordered by it: the stream is known by its `Open`.
        StreamId(self.0.streams.fetch_add(1, Ordering::Relaxed))
    }

    /// Tells the routing task that there is something new to see.
    pub fn wake(&self) {
        self.0.published.notify_one();
    }

    /// The watchers that are registered, as the routing task has last published them.
    pub fn registrations(&self) -> Arc<Registrations> {
        self.0.registrations.load_full()
    }

    /// Waits until every event up to a published revision is in the queues it belongs to.
    pub async fn routed(&self, revision: Revision) {
        // Acquires what the routing task has pushed.
        if self.0.routed.load(Ordering::Acquire) >= revision.0 {
            return;
        }
        let (done, answer) = oneshot::channel();
        self.ask(Request::Routed { revision, done });
        // Without an answer the routing task has ended, and there is no event on its way any more.
        drop(answer.await);
    }
}
