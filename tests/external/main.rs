//! jetway as a shim over a NATS that others run: several instances on one bucket, one server or a cluster of
//! three, credentials and TLS.
//!
//! Tests of many rounds are ignored here and run by `make faults`: `JETWAY_FAULT_ROUNDS` is the number of
//! rounds, and `JETWAY_FAULT_SEED` takes random moments from the number that a run has printed.

mod access;
mod backup;
mod bucket;
mod cluster;
mod credentials;
mod cut_off;
mod domain;
mod duplicate;
mod electing;
mod group;
mod instances;
mod integrity;
mod jwt;
mod lag;
mod leader;
mod leaves;
mod load;
mod mirror;
mod outage;
mod overlap;
mod prepared;
mod promotion;
mod promotions;
mod regions;
mod rights;
mod routes;
mod stream_leader;
mod users;
mod versions;
mod writer;
