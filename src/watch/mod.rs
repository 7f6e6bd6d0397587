//! Watches: from the event log to the streams of clients.
//!
//! ```text
//!                 requests                      requests
//!   client --------> control -------------.  .--------- session
//!                                         v  v            ^ |
//!   core log ------------------> hub (the routing task) --' '--> stream -> api
//!     `------------- history, for watchers that are behind -^
//! ```
//!
//! The routing task ([`crate::core::routing`]) follows the log and puts each event into the queues of the
//! streams that have a watcher for its key. A watcher is behind if it starts in the past, or if its client
//! reads slowly. It reads the log itself, and asks the routing task to join when it has caught up. Events are
//! shared with the log and encoded once. Each watcher has a cursor.
//!
//! Nothing here waits for a client. The routing task unregisters a watcher whose queue is full, and a stream
//! makes a response only when its connection asks for one. Nothing takes a lock either: the halves of a call
//! and the routing task communicate over queues.

mod control;
mod encoding;
mod history;
mod hub;
#[cfg(all(test, jetway_loom))]
mod loom_model;
mod metrics;
mod response;
mod session;
mod stream;
#[cfg(test)]
mod stress;
#[cfg(test)]
pub(crate) mod tests;
mod watcher;

pub use crate::primitive::Notify;
pub use control::{Create, Request};
pub use hub::WatchHub;
pub use metrics::{Counter, Metrics};
pub use response::{Body, NO_WATCHER, Response};
pub use stream::WatchStream;
