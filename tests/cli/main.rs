//! The command line. Under its own name jetway is held to what its pages promise. Called by a link named
//! `etcd`, it is held to the real etcd's refusals, to the flags of its help, and to the ways in which etcd is
//! started in the world.

mod dropin;
mod own;
mod program;
mod refusals;
mod table;
