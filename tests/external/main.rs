//! jetway as a shim over a NATS that others run: several instances on one bucket, one server or a cluster of three,
//! credentials and TLS.
#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]
#![allow(unreachable_pub, reason = "a module of a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bucket;
mod cluster;
mod instances;
mod integrity;
mod lag;
mod leader;
mod load;
mod namesake;
mod traffic;
mod users;
mod way;
mod writer;
