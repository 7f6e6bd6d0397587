//! Clients that mean no good, or are broken, or simply too many: each gets a clear error where one is due,
//! the server's memory stays bounded, and a client that behaves notices nothing.
//!
//! Every test has a server of its own with a [`healthy_client::HealthyClient`] on it, which puts, reads and
//! watches all the time, and looks at the server's memory from outside. With `JETWAY_TEST_TARGET=etcd` the
//! same is done to etcd, which shows what the answers have to be; bounds on time and memory are jetway's
//! alone.

mod bulk;
mod bursts;
mod connections;
mod frames;
mod healthy_client;
mod impostor;
mod leases;
mod messages;
mod process;
mod readers;
mod slow_disk;
mod watches;
