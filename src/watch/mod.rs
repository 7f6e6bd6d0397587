//! Watches: from the event log to the streams of clients.
//!
//! ```text
//! core log -> hub (router: key -> watchers) -> mailbox of a stream -> session -> stream -> api
//!     `------------------- history, for watchers that are behind -------^
//! ```
//!
//! The hub follows the log and puts each event down for the watchers whose range holds its key. A watcher that is
//! behind, because it starts in the past or because its client reads slowly, reads the log by itself and joins the hub
//! when it is through. Events are shared with the log and encoded once; per watcher there is a cursor.
//!
//! Nothing here waits for a client: the hub drops a watcher whose mailbox is full to the log, and a stream makes a
//! response only when its connection asks for one.

mod batch;
mod history;
mod hub;
mod intervals;
#[cfg(all(test, jetway_loom))]
mod loom_model;
mod mailbox;
mod metrics;
mod session;
mod stream;
#[cfg(test)]
mod stress;
#[cfg(test)]
pub(crate) mod tests;

pub use hub::WatchHub;
pub use metrics::{Counter, Metrics};
pub use session::{Body, Create, NO_WATCHER, Request, Response};
pub use stream::WatchStream;
