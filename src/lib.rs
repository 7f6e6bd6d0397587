//! jetway: the etcd v3 API over a NATS JetStream key-value bucket.

pub mod core;
pub mod jetstream;
pub mod types;
