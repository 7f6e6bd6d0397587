//! The gRPC edge: everything that knows tonic.

pub mod cluster;
pub mod election;
pub mod header;
pub mod health;
pub mod kv;
pub mod lease;
pub mod local;
pub mod lock;
pub mod maintenance;
pub mod status;
pub mod unimplemented;
pub mod watch;
