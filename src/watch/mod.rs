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
//! The routing task ([`crate::core::routing`]) follows the log and puts each event into the queues of the streams that
//! have a watcher for its key. A watcher that is behind, because it starts in the past or because its client reads slowly,
//! reads the log by itself and asks the routing task to join when it is through. Events are shared with the log and encoded
//! once; per watcher there is a cursor.
//!
//! Nothing here waits for a client: the routing task drops a watcher whose queue is full to the log, and a stream makes a
//! response only when its connection asks for one. Nothing takes a lock either: the halves of a call and the routing task
//! speak over queues.

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
