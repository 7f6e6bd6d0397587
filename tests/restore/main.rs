//! `jetway restore` and `jetway migrate`: files of a real etcd and of jetway itself, and running servers of
//! both, become stores that a jetway serves.
//!
//! `JETWAY_SNAPSHOT_SEED` repeats the random history, whose seed is printed.

mod cluster;
mod content;
mod data_dirs;
mod interrupted;
mod killed;
mod kine;
mod leases;
mod ledger;
mod live;
mod migrate;
mod migrate_cluster;
mod migrate_end;
mod mixed_lists;
mod point_in_time;
mod refusals;
mod s3;
mod served;
