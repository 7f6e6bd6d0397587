//! The gRPC edge: everything that knows tonic.

pub mod status;
pub mod header;
pub mod kv;
pub mod lease;
pub mod cluster;
pub mod maintenance;
pub mod unimplemented;
