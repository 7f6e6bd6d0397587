//! TLS, and what connections may do: mostly the same assertions on jetway and on etcd.

mod clients;
mod handshake;
mod identity;
mod pings;
mod renewal;
mod slow;
mod start;
mod users;

use support::server::Target;

/// The servers that must behave alike.
const BOTH: [Target; 2] = [Target::Jetway, Target::Etcd];
