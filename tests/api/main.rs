//! The contract, rule by rule: what a client can observe of an etcd server, tested on a running one.
//!
//! Each test names the rules it covers; `tests/RULES.md` is the table the other way round. The same tests
//! pass on etcd itself with `JETWAY_TEST_TARGET=etcd`, which is how they were checked to state the truth.

mod alarms;
mod auth;
mod auth_calls;
mod auth_jwt;
mod auth_keys;
mod auth_tokens;
mod auto_compaction;
mod compact;
mod delete;
mod election;
mod errors;
mod hash;
mod header;
mod keys;
mod lease;
mod limits;
mod lock;
mod maintenance;
mod put;
mod range;
mod range_stream;
mod restart;
mod rules;
mod snapshot;
mod stock_client;
mod teardown;
mod transport;
mod txn_compare;
mod txn_execution;
mod txn_validation;
mod watch_create;
mod watch_events;
mod watch_progress;
mod web;
