//! jetway: the etcd v3 API over a NATS JetStream key-value bucket.

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
