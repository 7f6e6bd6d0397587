//! The store in memory: every key's versions since the compaction floor, and the log of events since it.
//!
//! Bytes and revisions go in, snapshots and events come out; there is no I/O here, no async, no NATS, no
//! protobuf.
//!
//! There is one [`Writer`] and any number of [`Reader`]s. The writer prepares a successor of the published
//! [`State`] and swaps one pointer. A reader loads that pointer and then holds an immutable snapshot of the
//! whole store at one revision. Neither ever waits for the other: a reader that sleeps in the middle of a
//! range keeps its snapshot alive, which costs memory alone.
//!
//! Invariants:
//! - I1: everything that a published `State` refers to is complete before it is published, and never changes
//!   after that. Only log slots behind its end may be filled, which no reader of the state uses.
//! - I2: revisions of published states never go back, nor does the compaction floor. The one exception is a
//!   load after a [`Writer::reset`], which ends every watch: the stream may have lost its tail.
//! - I3: all changes of one revision become visible together.
//! - I4: the index holds, for each key, every version from the floor on and, where there is none at the floor
//!   itself, the newest one below it, unless that is a delete. It may hold more during the sweep after a
//!   compaction. No read at or above the floor depends on that.

mod history;
mod index;
mod load;
mod log;
#[cfg(all(test, jetway_loom))]
mod loom_model;
pub mod routing;
mod sorted;
mod state;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(all(test, not(jetway_loom)))]
mod threads;
mod version;

pub use history::History;
pub use index::Index;
pub use log::{Event, EventLog, RevisionEvents};
pub use state::{Change, ChangeKind, Garbage, Reader, State, Writer};
pub use version::{KeyVersion, VersionParts};
