//! Real clients of several languages, each in a scripted session: once against etcd and once against the server under test
//! (`JETWAY_TEST_TARGET`), both fresh. What the client sees must be the same, but for what each server chooses for itself.
//!
//! The clients come pinned from `make` (see `tests/peers`). Those that need Node or Python are run by `make clients`.

#![allow(clippy::pedantic, clippy::print_stdout, clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "a test crate has no outside")]

#[path = "../support/mod.rs"]
mod support;

#[path = "../tls/material.rs"]
#[allow(dead_code, reason = "the tests of TLS use all of it")]
mod material;

mod certificates;
mod curl;
mod etcdctl;
mod go;
mod plain;
mod process;
mod program;
mod script;
mod scripted;
