//! The gRPC edge: everything that knows tonic.

pub mod auth;
pub mod cluster;
pub mod header;
pub mod identity;
pub mod kv;
pub mod lease;
pub mod maintenance;
pub mod status;
pub mod unimplemented;
pub mod watch;
