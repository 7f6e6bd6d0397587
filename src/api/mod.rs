//! The gRPC edge: everything that knows tonic.

pub mod status;
