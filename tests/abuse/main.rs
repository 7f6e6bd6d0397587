//! Clients that mean no good, or are broken, or simply too many: each gets a clear error where one is due, the server's
//! memory stays bounded, and a client that behaves notices nothing.
//!
//! Every test has a server of its own with a [`bystander::Bystander`] on it, which puts, reads and watches all the time,
//! and looks at the server's memory from outside. With `JETWAY_TEST_TARGET=etcd` the same is done to etcd, which shows
//! what the answers have to be; bounds on time and memory are jetway's alone.

#![allow(
    clippy::pedantic,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test fails by panicking, and is read from top to bottom"
)]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

mod bystander;
mod connections;
mod frames;
mod leases;
mod messages;
mod process;
mod raw;
mod readers;
mod watches;
