//! A jetway that breaks one rule of its protocol is found out by what its clients see.
//!
//! `make planted-faults` builds that jetway: it has the faults of `src/planted.rs`, with the names here.

use std::path::Path;

use support::cluster::Cluster;
use support::rounds;
use support::server::Target;

use super::super::histories::{Campaign, Fault};

/// The faults, and the events of a cluster that bring each to light.
const FAULTS: [(&str, &[Fault]); 7] = [
    ("deposed-writer", &[Fault::LeaderPause]),
    ("deposed-lessor", &[Fault::LeaderPause]),
    ("no-barrier", &[Fault::LeaderPause]),
    ("early-answer", &[Fault::Machine]),
    ("stale-follower", &[Fault::Pause, Fault::LeaderPause]),
    ("skipped-record", &[Fault::None]),
    ("torn-batch", &[Fault::None]),
];

#[ignore = "needs a jetway with planted faults: `make planted-faults`"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_in_jetway_is_found() {
    let program = std::env::var("JETWAY_TEST_PLANTED").expect("`make planted-faults` names the program");
    let only = std::env::var("JETWAY_TEST_FAULT").ok().filter(|only| !only.is_empty());
    let mut missed = Vec::new();
    for (name, events) in FAULTS.iter().filter(|(name, _)| only.as_deref().is_none_or(|only| only == *name)) {
        let mut cluster = Cluster::prepare_as(Target::Jetway, 3, "http", &[]);
        for member in &mut cluster.members {
            member.set_program(Path::new(&program));
            member.set_variable("PLANTED_FAULT", name);
        }
        let mut campaign = Campaign::start_on(cluster, None).await;
        let mut found = None;
        for round in 0..rounds(20) {
            if let Err(violation) = campaign.round(events[round % events.len()]).await {
                found = Some(violation);
                break;
            }
        }
        match found {
            Some(violation) => println!("{name}: found in {}: {violation:?}", campaign.report()),
            None => {
                println!("{name}: not found in {}", campaign.report());
                missed.push(name);
            }
        }
    }
    assert!(missed.is_empty(), "not found: {missed:?}");
}
