//! The gRPC services.

pub mod auth;
pub mod call;
pub mod cluster;
pub mod election;
pub mod header;
pub mod health;
pub mod identity;
pub mod kv;
pub mod lease;
pub mod local;
pub mod lock;
pub mod maintenance;
pub mod status;
pub mod watch;
