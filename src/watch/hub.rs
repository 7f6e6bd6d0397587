//! The watch hub: runs the routing task, and is the handle to it for the rest of the program.
//!
//! The core ([`crate::core::routing`]) does the routing, and gives the guarantees that watches depend on.
//! Each registration is a step of the routing task at one exact point of the log (H1). A progress mark
//! follows all events that it covers (H2). A watcher whose queue is full is unregistered in the same step,
//! and its stream gets a notice (H3).
//!
//! No lock is taken here or there. The writer publishes and notifies. A stream sends requests over a queue.
//! It gets its answers and its events from one other queue, in the order in which they became true.

use super::metrics::Metrics;
use super::watcher::Answer;
use crate::core::Reader;
use crate::core::routing::{Receiver, Registrations, Request, Requests, Router, StreamId, queue, routing};
use crate::primitive::Notify;
use crate::types::Revision;
use std::sync::Arc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A handle to the hub. The routing task ends with the last one.
#[derive(Clone, Debug)]
pub struct WatchHub {
    requests: Requests<Answer>,
    metrics: Arc<Metrics>,
    _task: Arc<DropGuard>,
}

impl WatchHub {
    /// Starts the hub on the present runtime. It looks for new events whenever `published` is notified.
    pub fn spawn(reader: Reader, published: Arc<Notify>) -> WatchHub {
        let stop = CancellationToken::new();
        let (hub, router) = WatchHub::idle(reader, Arc::clone(&published), stop.clone());
        tokio::spawn(follow(router, published, stop));
        hub
    }

    /// A hub without a task: the caller drives the router.
    pub(super) fn idle(
        reader: Reader,
        published: Arc<Notify>,
        stop: CancellationToken,
    ) -> (WatchHub, Router<Answer>) {
        let (requests, router) = routing(reader, published);
        let (metrics, task) = (Arc::default(), Arc::new(stop.drop_guard()));
        (WatchHub { requests, metrics, _task: task }, router)
    }

    /// Wakes the hub for new events. Cheap; several calls before it looks count as one.
    pub fn wake(&self) {
        self.requests.wake();
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// The watchers that get events from the routing task.
    pub fn registrations(&self) -> Arc<Registrations> {
        self.requests.registrations()
    }

    /// Waits until every event up to a published revision is in the queues of its watchers. A compaction that
    /// waits for this removes no event that a watcher that keeps up still needs.
    pub async fn routed(&self, revision: Revision) {
        self.requests.routed(revision).await;
    }

    pub(super) fn ask(&self, request: Request<Answer>) {
        self.requests.ask(request);
    }

    /// Opens a stream that knows the store of `incarnation`.
    pub(super) fn open(&self, incarnation: u64) -> (StreamId, Receiver<Answer>) {
        let stream = self.requests.new_stream();
        let (sender, receiver) = queue(Arc::clone(&self.metrics.pending));
        self.metrics.streams.add(1);
        self.ask(Request::Open { stream, sender, incarnation });
        (stream, receiver)
    }

    /// Closes a stream, and with it all its watchers.
    pub(super) fn close(&self, stream: StreamId) {
        self.metrics.streams.sub(1);
        self.ask(Request::Close { stream });
    }
}

/// The routing task, until `stop`.
pub(super) async fn follow(mut router: Router<Answer>, published: Arc<Notify>, stop: CancellationToken) {
    let routing = async {
        loop {
            while router.turn() {
                tokio::task::yield_now().await;
            }
            published.notified().await;
        }
    };
    // Only `stop` ends it.
    let _stopped: Option<()> = stop.run_until_cancelled(routing).await;
}
