//! A migration under writes, of which the tool, the source or the target is killed at a random moment: it is
//! completed when it is begun again, or refused with the remedy, and nothing is served in part.
//!
//! `make migrate-long` runs `JETWAY_MIGRATE_KILLS` (50) of them over `JETWAY_MIGRATE_KILL_OBJECTS` (20,000).
//! `JETWAY_FAULT_SEED` repeats the moments.

use std::time::Duration;

use jetway::proto::etcdserverpb::AlarmRequest;
use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use support::client::*;
use support::nats::Nats;
use support::server::{Launch, Server, Target, signal};
use support::within_time;
use tokio::time::Instant;

use crate::ledger::{Writers, agree, fill};
use crate::live::{MIGRATION, same_store};

/// Writes at the copy after which a run has succeeded.
const WRITES: usize = 50;
/// Words of the remedies of a migration that has failed.
const REMEDIES: [&str; 3] = ["again", "once more", "etcdctl alarm disarm"];
/// Times that a migration may be begun again.
const ATTEMPTS: usize = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Nobody,
    Tool,
    Source,
    /// The nats-server that stores the copy.
    Target,
}

/// The place of the copy: a server that migrates and serves, over a NATS of its own or an existing one.
struct Place {
    server: Server,
    nats: Option<Nats>,
}

impl Place {
    async fn new(is_external: bool) -> Place {
        let nats = if is_external { Some(Nats::start().await) } else { None };
        let mut server = Server::create(Target::Jetway, Launch::default());
        if let Some(nats) = &nats {
            server.set_args(&["--endpoint", &nats.endpoint()]);
        }
        Place { server, nats }
    }

    /// Whether a migration has come so far that there is a stream.
    async fn has_stream(&self) -> bool {
        match &self.nats {
            Some(nats) => nats.api("STREAM.INFO.KV_test", &Value::Null).await["config"].is_object(),
            None => self.server.dir().join("data/nats/jetstream/$G/streams/KV_jetway").exists(),
        }
    }

    async fn kill(&mut self) {
        match &mut self.nats {
            Some(nats) => {
                nats.kill9();
                nats.restart().await;
            }
            None => self.server.find_nats_pid().into_iter().for_each(|pid| signal(pid, libc::SIGKILL)),
        }
    }
}

async fn is_fenced(source: &Client) -> bool {
    !source.alarm(AlarmRequest::default()).await.unwrap().alarms.is_empty()
}

/// The remedy of a source that was left fenced.
async fn disarm(source: &Client) {
    for alarm in source.alarm(AlarmRequest::default()).await.unwrap().alarms {
        let (action, member_id, alarm) = (AlarmAction::Deactivate.into(), alarm.member_id, alarm.alarm);
        source.alarm(AlarmRequest { action, member_id, alarm }).await.unwrap();
    }
}

/// One migration, with a kill after `delay`. Returns the time that it took, and the number of attempts.
async fn run(
    objects: usize,
    seed: u64,
    is_external: bool,
    victim: Victim,
    delay: Duration,
) -> (Duration, usize) {
    let mut source = Server::launch(Target::Etcd, &["--quota-backend-bytes", "8000000000"]).await;
    fill(&source.client().await, objects, seed).await;
    let mut place = Place::new(is_external).await;
    let writers = Writers::begin([&source.endpoint(), &place.server.endpoint()], 200, seed);
    let migrate = ["migrate", "--from", &source.endpoint(), "--switch-over", "--serve"];
    place.server.set_command(&migrate);
    place.server.begin();
    let begun = Instant::now();
    // The moment is random, whatever goes on then.
    tokio::time::sleep(delay).await;
    match victim {
        Victim::Nobody => {}
        Victim::Tool => place.server.kill9(),
        Victim::Source => {
            source.kill9();
            source.restart().await;
        }
        Victim::Target => place.kill().await,
    }
    let mut attempts = 1;
    within_time(MIGRATION, "the migration", async {
        loop {
            let is_running = place.server.is_running() && place.server.has_ended().is_none();
            if is_running && writers.have_gone_over(WRITES) {
                return;
            }
            if is_running {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            if place.server.is_running() {
                place.server.ended().await;
                let log = place.server.log();
                let last = log.lines().last().unwrap_or_default();
                println!("  ended: {last}");
                // Without a store there is nothing to begin anew.
                let has_not_begun = last.contains("nats-server ended before it was ready");
                let has_remedy = REMEDIES.iter().any(|remedy| last.contains(remedy));
                assert!(has_remedy || has_not_begun, "{log}");
            }
            assert!(attempts < ATTEMPTS, "{}", place.server.log());
            // Without the command the bucket is refused, unless it is whole.
            place.server.set_command(&[]);
            if place.has_stream().await {
                if place.server.try_restart().await.is_ok() {
                    println!("  it was whole");
                    assert!(is_fenced(&source.client().await).await, "the source can still be written to");
                    continue;
                }
                assert!(
                    place.server.log().contains("run the same command once more"),
                    "{}",
                    place.server.log()
                );
            }
            disarm(&source.client().await).await;
            attempts += 1;
            place.server.set_command(&migrate);
            place.server.begin();
        }
    })
    .await;
    let took = begun.elapsed();
    let ledgers = writers.stop().await;
    let (theirs, ours) = (source.client().await, place.server.client().await);
    assert!(is_fenced(&theirs).await);
    same_store(&ours, &theirs, theirs.revision().await).await;
    agree(&ledgers, &ours).await;
    (took, attempts)
}

/// Runs with a kill each, which take turns with both places and all victims.
async fn runs(count: usize, objects: usize) {
    let seed = support::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut shortest, _) = run(objects, seed, false, Victim::Nobody, Duration::ZERO).await;
    println!("without a kill: {shortest:?}");
    let mut again = 0;
    for number in 0..count {
        let victim = [Victim::Tool, Victim::Source, Victim::Target][number % 3];
        let is_external = number / 3 % 2 == 1;
        let delay = random.random_range(Duration::ZERO..shortest);
        let (took, attempts) = run(objects, random.random(), is_external, victim, delay).await;
        again += usize::from(attempts > 1);
        // The load of the machine changes, and a kill behind the end shows little.
        shortest = if attempts == 1 { shortest.min(took) } else { shortest };
        let place = if is_external { "an existing NATS" } else { "an embedded store" };
        println!("{number}: {victim:?} killed after {delay:?}, into {place}: {attempts} attempts, {took:?}");
    }
    println!("{count} runs, of which {again} were begun again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_with_a_kill_is_begun_again() {
    runs(3, 1000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: make migrate-long"]
async fn long_migrations_with_kills_are_begun_again() {
    let number = crate::live::number;
    runs(number("JETWAY_MIGRATE_KILLS", 50), number("JETWAY_MIGRATE_KILL_OBJECTS", 20_000)).await;
}
