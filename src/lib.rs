//! jetway: the etcd v3 API over a NATS JetStream key-value bucket.

#![cfg_attr(
    jetway_loom,
    allow(private_interfaces, dead_code, reason = "the stand-ins of the models are no interface")
)]

pub mod api;
pub mod applier;
pub mod auth;
mod auto_compaction;
pub mod cli;
pub mod core;
pub mod disk;
pub mod durability;
mod duration;
pub mod engine;
pub mod error;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
pub mod lease;
pub mod log;
pub mod memory;
pub mod nats_server;
mod primitive;
pub mod proto;
pub mod record;
pub mod server;
pub mod telemetry;
mod transport;
pub mod txn;
pub mod types;
pub mod version;
pub mod watch;
