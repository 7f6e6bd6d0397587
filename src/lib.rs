//! jetway: the etcd v3 API over a NATS JetStream key-value bucket.

#![warn(missing_debug_implementations, unreachable_pub)]
#![warn(clippy::pedantic, clippy::print_stdout, clippy::unwrap_used)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "revisions, sequences and lengths cross between i64 (etcd's wire), u64 (NATS) and usize all the time"
)]
#![allow(
    clippy::module_name_repetitions,
    reason = "a name repeats its module if the field's term does (`Revision`, `RevisionMap`)"
)]
#![allow(
    clippy::doc_markdown,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::similar_names,
    clippy::too_many_lines,
    reason = "they find style, and no mistakes"
)]
#![cfg_attr(
    jetway_loom,
    allow(private_interfaces, dead_code, reason = "the stand-ins of the models are no interface")
)]

mod api;
mod applier;
mod auth;
mod auto_compaction;
pub mod cli;
pub mod core;
mod disk;
mod durability;
mod duration;
mod engine;
mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod lease;
pub mod log;
pub mod memory;
pub mod nats_server;
mod primitive;
pub mod proto;
pub mod record;
pub mod server;
pub mod telemetry;
mod transport;
mod txn;
pub mod types;
mod version;
pub mod watch;
