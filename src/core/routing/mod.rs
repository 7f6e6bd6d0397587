//! The path of events from the log to the streams that watch, without a lock.
//!
//! ```text
//! streams -- requests --.                        .-- queue --> stream
//!                        v                      /
//!        event log --> routing task (Router) --+---- queue --> stream
//!                        |                      \
//!                        v                       `-- queue --> stream
//!                  registrations (published)
//! ```
//!
//! One task routes. It alone changes the registrations, and it alone pushes into the queues of the streams.
//! It handles the streams' requests between two slices of events. So each registration happens at one exact
//! point of the log, `routed`, which no lock has to fix. A stream's queue has all items in the order in which
//! they became true. The guarantees depend on that:
//! - H1: a registered watcher has got every matching event in `from..=routed` and none behind. A watcher that
//!   is registered at a revision that is already routed gets the difference from the log in the same step.
//! - H2: a progress mark `R` is pushed only at `routed == R`, behind all events up to `R` (WAT-31).
//! - H3: a watcher whose queue is full is unregistered in the same step, and its stream gets the first
//!   revision that it misses. The routing task never waits for a stream.
//!
//! No part waits for another one. The writer of the store publishes and notifies. A stream pushes its request
//! and continues; the answer comes in its queue. The work for a request is bounded: at most 1024 events are
//! read from the log for it. So is a slice of events: 512 deliveries, and the rest of the revision in which
//! they end. So neither delays the other for longer than some hundred microseconds.
//!
//! The structures and their invariants:
//! - [`queue`](Sender): from the routing task to one stream, bounded, with a waker (Q1 to Q3).
//! - [`Requests`]: from all streams to the routing task. A push is a release and the pop that finds it
//!   acquires it. The notification after it, [`Notify`](crate::primitive::Notify), is the one that new events
//!   use, so that the routing task waits for one thing.
//! - [`Registrations`]: an immutable interval map behind an atomic pointer (M1, M2). The routing task reads
//!   its own newest version without that pointer; others load it, and its store is the release that they
//!   acquire.
//! - `routed`, an atomic number: stored with Release after the pushes of all events up to it, and loaded with
//!   Acquire before a compaction.

mod answers;
mod batch;
mod intervals;
#[cfg(all(test, jetway_loom))]
mod loom_model;
mod queue;
mod registrations;
mod requests;
mod router;
mod streams;
#[cfg(test)]
mod testing;
#[cfg(all(test, not(jetway_loom)))]
mod tests;
#[cfg(all(test, not(jetway_loom)))]
mod threads;

pub use batch::{Batch, Interest, Matched};
#[cfg(test)]
pub(crate) use queue::DELIVERIES;
pub use queue::{Item, ProgressScope, Receiver, Sender, WatcherId, queue};
pub use registrations::Registrations;
pub use requests::{Request, Requests, StreamId};
pub use router::{Router, routing};
