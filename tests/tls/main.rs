//! TLS, and what connections may do: mostly the same assertions on jetway and on etcd.
#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]
#![allow(unreachable_pub, reason = "a module of a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

mod clients;
mod frames;
mod handshake;
mod identity;
mod material;
mod pings;
mod renewal;
mod secure;
mod slow;
mod start;
mod users;

use support::server::Target;

/// The servers that must behave alike.
const BOTH: [Target; 2] = [Target::Jetway, Target::Etcd];
