//! jetway as a shim over a NATS that others run: several instances on one bucket, one server or a cluster of
//! three, credentials and TLS.
//!
//! Tests of many rounds are ignored here and run by `make faults`: `JETWAY_FAULT_ROUNDS` says how many
//! rounds, and `JETWAY_FAULT_SEED` takes random moments from the number that a run has printed.

mod access;
mod bucket;
mod cluster;
mod credentials;
mod domain;
mod electing;
mod instances;
mod integrity;
mod jwt;
mod lag;
mod leader;
mod leaves;
mod load;
mod namesake;
mod outage;
mod overlap;
mod prepared;
mod proxy;
mod rights;
mod traffic;
mod users;
mod versions;
mod writer;

/// How many rounds a long test makes: `make faults ROUNDS=n`, each its own number without.
fn rounds(of_its_own: usize) -> usize {
    std::env::var("JETWAY_FAULT_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(of_its_own)
}

/// The seed of a test's random moments: `JETWAY_FAULT_SEED` makes the same ones again.
fn seed() -> u64 {
    let seed = std::env::var("JETWAY_FAULT_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(rand::random::<u64>);
    println!("JETWAY_FAULT_SEED={seed}");
    seed
}
