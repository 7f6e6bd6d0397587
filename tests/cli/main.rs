//! etcd's command line: called by a link named `etcd`, jetway is held to the real etcd's refusals, to the
//! flags of its help, and to the ways in which etcd is started in the world.

mod carried;
mod dropin;
mod program;
mod refusals;
mod systemd;
mod table;
