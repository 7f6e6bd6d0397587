//! A bucket that changes its region again and again: the primary is killed or promoted away from, returns,
//! and becomes the mirror.

use std::time::{Duration, Instant};

use crate::regions::reaches;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;
use support::client::{Client, all, put};
use support::nats::Nats;
use support::program::{Ended, WorkingFolder};
use support::proxy::Proxy;
use support::server::{Server, jetway};
use support::{eventually, rounds, seed};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Clients that write at once.
const WRITERS: usize = 4;

/// Time that a message may be on its way to the mirror, on a loaded machine.
const TOLERANCE: Duration = Duration::from_millis(300);

/// One of two regions: a NATS with a domain of its own, and an instance.
struct Region {
    domain: &'static str,
    nats: Nats,
    server: Server,
}

impl Region {
    async fn start(domain: &'static str, leafnodes: &str) -> Self {
        let config = format!(
            "jetstream {{ store_dir: \"DIR/store\", domain: {domain} }}\nleafnodes {{ {leafnodes} }}"
        );
        Self { domain, nats: Nats::start_with(&config).await, server: Server::prepare(&[]) }
    }

    /// Starts the instance with a parameter of its endpoint.
    fn begin(&mut self, parameter: &str) {
        let endpoint = format!("{}{parameter}", self.nats.endpoint());
        self.server.set_args(&["--endpoint", &endpoint, "--name", self.domain]);
        self.server.begin();
    }

    fn client(&self) -> Client {
        Client::lazy(&self.server.endpoint())
    }

    /// Makes the region a mirror of another one, whatever it held.
    async fn become_mirror_of(&mut self, primary: &str) {
        self.server.kill9();
        self.nats.api("STREAM.DELETE.KV_test", &Value::Null).await;
        self.begin(&format!("&mirror={primary}"));
    }

    async fn promote(&self, flags: &[&str]) -> String {
        let folder = WorkingFolder::new();
        let mut command = folder.command_of(jetway());
        command.args(["promote", "--endpoint", &self.nats.endpoint()]).args(flags);
        let Ended { status, output } = folder.run(command).await;
        assert_eq!(status, 0, "{output}");
        output
    }
}

/// An answered write.
#[derive(Debug)]
struct Written {
    key: String,
    revision: i64,
    answered: Instant,
}

/// The silence and the lag in messages that a promotion has reported.
fn reported_lag(output: &str) -> (Duration, usize) {
    let words = output.split("it was last heard of ").nth(1).expect("the lag of the mirror");
    let (silence, words) = words.split_once(" s ago, and was ").unwrap();
    let (messages, _) = words.split_once(" messages").unwrap();
    (Duration::from_secs_f64(silence.parse().unwrap()), messages.parse().unwrap())
}

/// Writes until it is stopped; returns the answered writes.
async fn write(client: Client, prefix: String, stop: CancellationToken) -> Vec<Written> {
    let mut written = Vec::new();
    for at in 0.. {
        let key = format!("{prefix}{at}");
        let answer = tokio::select! {
            answer = client.put_request(put(&key, "v")) => answer,
            () = stop.cancelled() => break,
        };
        match answer {
            Ok(answer) => {
                let revision = answer.header.unwrap().revision;
                written.push(Written { key, revision, answered: Instant::now() });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
    written
}

/// Tries to write at an old primary from its first moment on, until it gives the reason why it cannot.
async fn never_writes(client: &Client) {
    eventually("the old primary to be fenced", async || {
        let status = client.put_request(put("/stray", "v")).await.expect_err("an old primary must not write");
        status.message().contains("this bucket is fenced").then_some(())
    })
    .await;
}

/// A third of the promotions are in contact with the primary. The others come after the whole region was
/// killed, half of them some time after the mirror was cut off.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "many rounds: make faults"]
async fn a_primary_that_was_promoted_away_never_writes_again() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut primary = Region::start("east", "listen: \"ROUTE\", no_advertise: true").await;
    let link = Proxy::to(primary.nats.route_address(), usize::MAX).await;
    let remotes = format!("remotes: [ {{ url: \"nats-leaf://{}\" }} ]", link.address);
    let mut mirror = Region::start("west", &remotes).await;
    primary.begin("");
    primary.server.is_up().await;
    mirror.begin("&mirror=east");
    let (mut lost_writes, mut outages) = (Vec::new(), Vec::new());
    for round in 0..rounds(20) {
        primary.server.kill9();
        primary.begin(&format!("&standby={}", mirror.domain));
        primary.server.is_up().await;
        let (there, here) = (primary.client(), mirror.client());
        reaches(&here, there.revision().await).await;

        let (stop, mut writers) = (CancellationToken::new(), JoinSet::new());
        for writer in 0..WRITERS {
            let prefix = format!("/{round}/{writer}/");
            writers.spawn(write(primary.client(), prefix, stop.clone()));
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(100..1500))).await;
        let in_contact = round % 3 == 2;
        if round % 3 == 1 {
            link.hold();
            tokio::time::sleep(Duration::from_millis(random.random_range(0..1500))).await;
        }
        if !in_contact {
            primary.server.kill9();
            primary.nats.kill9();
        }
        let begun = Instant::now();
        let output = mirror.promote(if in_contact { &[] } else { &["--accept-data-loss"] }).await;
        let first =
            eventually("a write", async || here.put_request(put(format!("/{round}/first"), "v")).await.ok())
                .await;
        outages.push(begun.elapsed());
        stop.cancel();
        let mut written: Vec<Written> = writers.join_all().await.into_iter().flatten().collect();
        written.sort_unstable_by_key(|write| write.revision);

        // Nothing but the newest writes is lost, and nothing at all in contact.
        let kept = here.range(all(format!("/{round}/"))).await.unwrap().kvs;
        let is_kept =
            |write: &Written| kept.iter().any(|kv| kv.key == write.key && kv.mod_revision == write.revision);
        let end = written.iter().position(|write| !is_kept(write)).unwrap_or(written.len());
        let lost = &written[end..];
        assert!(!lost.iter().any(is_kept), "a hole in what was kept: {lost:?}");
        let next = first.header.unwrap().revision;
        assert!(lost.iter().all(|write| write.revision >= next), "{next}: {lost:?}");
        assert!(!in_contact || lost.is_empty(), "{output}: {lost:?}");
        println!(
            "round {round}: {} writes answered, {} lost, first write {:?} after the promotion began; {}",
            written.len(),
            lost.len(),
            outages.last().unwrap(),
            output.lines().last().unwrap_or_default()
        );
        if !in_contact {
            // The mirror has all that was answered until it last heard of the primary, but for its lag.
            let (silence, messages) = reported_lag(&output);
            let heard = begun.checked_sub(silence + TOLERANCE).unwrap();
            let unexplained = lost.iter().filter(|write| write.answered < heard).count();
            assert!(unexplained <= messages, "{unexplained} lost writes are older: {output}");
            link.release();
            lost_writes.push(lost.len());
            primary.nats.restart().await;
            primary.begin(&format!("&standby={}", mirror.domain));
        }
        never_writes(&there).await;

        primary.become_mirror_of(mirror.domain).await;
        reaches(&primary.client(), next).await;
        std::mem::swap(&mut primary, &mut mirror);
    }
    lost_writes.sort_unstable();
    outages.sort_unstable();
    println!(
        "{} promotions: lost writes p50 {:?} max {:?} of {} kills; first write p50 {:?} max {:?}",
        outages.len(),
        lost_writes.get(lost_writes.len() / 2),
        lost_writes.last(),
        lost_writes.len(),
        outages[outages.len() / 2],
        outages.last().unwrap()
    );
}
