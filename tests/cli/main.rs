//! The command line. Under its own name jetway is held to what its pages promise. Called by a link named
//! `etcd`, it is held to the real etcd's refusals, to the flags of its help, and to the ways in which etcd is
//! started in the world. Called by a link named `kine`, it takes the command lines that start kine.

use support::program;

mod carried;
mod dropin;
mod kine;
mod own;
mod random;
mod refusals;
mod snapshot;
mod systemd;
mod table;
