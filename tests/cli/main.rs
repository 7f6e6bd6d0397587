//! etcd's command line: called by a link named `etcd`, jetway is held to the real etcd's refusals, to the flags of its
//! help, and to the ways in which etcd is started in the world.
#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]
#![allow(unreachable_pub, reason = "a module of a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../tls/material.rs"]
#[allow(dead_code, reason = "its other half is used by the tests of TLS")]
mod material;

mod dropin;
mod program;
mod refusals;
mod table;
