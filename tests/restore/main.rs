//! `jetway restore`: files of a real etcd and of jetway itself become stores that a jetway serves.
//!
//! `JETWAY_SNAPSHOT_SEED` repeats the random history, whose seed is printed.

mod content;
mod interrupted;
mod refusals;
