//! The gRPC services.

pub(crate) mod auth;
pub(crate) mod call;
pub(crate) mod cluster;
pub(crate) mod election;
pub(crate) mod header;
pub(crate) mod health;
pub(crate) mod identity;
pub(crate) mod kv;
pub(crate) mod lease;
pub(crate) mod local;
pub(crate) mod lock;
pub(crate) mod maintenance;
pub(crate) mod status_code;
pub(crate) mod watch;
