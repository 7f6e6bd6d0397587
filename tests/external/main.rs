//! jetway as a shim over a NATS that others run: several instances on one bucket, one server or a cluster of three,
//! credentials and TLS.

mod access;
mod bucket;
mod cluster;
mod instances;
mod integrity;
mod lag;
mod leader;
mod load;
mod namesake;
mod traffic;
mod users;
mod way;
mod writer;
