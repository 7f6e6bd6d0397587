//! The engine: carries calls out.
//!
//! ```text
//! call -> Calls -> node: follow -> Messenger -> the writer
//!                        write  -> Planner -> log::Pipeline ... acknowledged
//!                                                    |
//!         reader <- applier thread <- entries <------'   (or from a log::Consumer)
//! ```
//!
//! Each part gets only what it uses:
//! - `handle` is the [`Engine`] that the services of the API call.
//! - `node` owns the chain, every open call, and the role: `follow` and `write`.
//! - `planner` plans calls on everything that is in flight.
//! - `apply` is the thread that waits for the disk, applies, publishes states and sends answers.
//! - `compactor` frees the space of what the floor has hidden; `tombstones` holds back some of it.
//! - `space` keeps the quota and the alarms; `mark` writes down how far the store was synced; `hash` makes
//!   etcd's checksums.
//! - `read_only` checks whether the stream may be written: a mirror may not, and neither may a primary whose
//!   mirror was promoted, or a stream that a migration fills.
//! - `measured` is the last look at NATS, for `space`, for `nats_gauges`, and for `changes`, which logs each
//!   change of state.
//! - `membership` lists and changes members; `server_group` keeps the servers of NATS' cluster like them.
//! - In a cluster of its own `stream_leader` has the stream led by the writer's server, and `damaged_copies`
//!   by one whose copy lacks nothing. `leader_watch` notices that another server leads it than when a record
//!   was sent.
//! - `votes` confirms the writer of such a cluster without a message in the log.
//! - `proposal` has the types of calls and answers, between the parts and between instances; `duplicate`
//!   finds other processes with this member's id; `join` answers newcomers with the members; `sharing`
//!   changes between a log of one instance and a shared one; `start` puts all together.
//!
//! Invariants:
//! - E1: nothing is shown before everything that the log held is applied.
//! - E2: a call whose outcome is not known is never carried out again: the log decides, or the client gets an
//!   error for an unknown outcome.
//! - E3: an answer that rests on a state is given only when the state is known to be no older than the call.

mod access;
mod apply;
mod calls;
mod changes;
mod compactor;
mod counters;
mod damaged_copies;
mod duplicate;
mod failure;
mod follow;
mod gauges;
mod handle;
mod handover;
mod hash;
mod integrity;
mod join;
mod leader_watch;
mod leases;
mod mark;
mod measured;
mod membership;
mod missing_copies;
mod mode;
mod nats_gauges;
mod node;
mod one_copy;
mod planner;
mod proposal;
mod read_only;
mod server_group;
mod settings;
mod sharing;
mod space;
mod start;
mod statistics;
mod status;
mod stream_leader;
mod tombstones;
mod votes;
mod write;

pub(crate) use counters::Counters;
pub(crate) use failure::DataError;
pub(crate) use handle::Engine;
pub(crate) use join::Observer;
pub(crate) use mark::MarkError;
pub(crate) use membership::{ChangeRules, MemberChange};
pub(crate) use proposal::AuthChange;
pub(crate) use settings::{EngineSettings, LinearizableReads};
pub(crate) use start::StartError;
pub(crate) use status::Phase;

use crate::error::EtcdError;
use calls::{Calls, NewCall};
use std::time::Duration;

/// How long a call may wait for the writer, as etcd bounds a proposal: 5 s and two election timeouts.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);

impl From<crate::log::KeyTooLong> for EtcdError {
    fn from(error: crate::log::KeyTooLong) -> EtcdError {
        EtcdError::KeyTooLong { size: error.0, limit: crate::log::MAX_SUBJECT_BYTES }
    }
}
