//! From the event log to the streams that watch: no lock on the way of an event.
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
//! One task routes. It alone changes the registrations, it alone pushes into the queues of the streams, and it does what
//! streams ask between two slices of events. So each registration is a step at one exact point of the log, `routed`, with
//! no lock that would have to hold that point still, and all that a stream is told stands in its queue in the order in
//! which it became true. That is what the guarantees rest on:
//! - H1: a registered watcher has been given every matching event in `from..=routed` and none behind. A watcher that is
//!   registered at a revision that is already routed gets the difference from the log in the same step.
//! - H2: a progress mark `R` is pushed only at `routed == R`, behind all events up to `R` (WAT-31).
//! - H3: a watcher whose queue is full is unregistered in the same step, and its stream is told from which revision on it
//!   missed something. The routing task never waits for a stream.
//!
//! Nobody waits for anybody here. The writer of the store publishes and notifies. A stream pushes its request and goes on
//! with what it has; the answer comes in its queue. The routing task finds a request or does not. The work for a request is
//! bounded (at most 1024 events are read from the log for it), and so is a slice of events (512 deliveries, and the rest
//! of the revision in which they end), so that neither keeps the other waiting for longer than some hundred microseconds.
//!
//! The structures and their invariants:
//! - [`queue`](Sender): from the routing task to one stream, bounded, with a waker (Q1 to Q3).
//! - [`Requests`]: from all streams to the routing task. A push is a release and the pop that finds it acquires it. The
//!   notification behind it, [`Notify`](crate::primitive::Notify), is the one that new events use: the routing task has one
//!   thing to wait for.
//! - [`Registrations`]: an immutable interval map behind an atomic pointer (M1, M2). The routing task reads its own newest
//!   version without that pointer; others load it, and its store is the release that they acquire.
//! - `routed`, an atomic number: released behind the pushes of all events up to it, acquired by those who compact.

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
