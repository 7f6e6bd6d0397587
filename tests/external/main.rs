//! jetway as a shim over a NATS that others run: several instances on one bucket, one server or a cluster of three,
//! credentials and TLS.
#![allow(unreachable_pub, reason = "a module of a test crate has no outside")]
#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod cluster;
mod instances;
