//! The gRPC edge: everything that knows tonic.

pub mod header;
pub mod status;
pub mod watch;
