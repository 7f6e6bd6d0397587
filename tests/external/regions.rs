//! Two regions: two NATS servers that a leaf connection joins, each with a domain of its own, and one of them
//! with a mirror of the other one's stream.

use jetway::proto::etcdserverpb::RangeRequest;
use jetway::proto::mvccpb::KeyValue;
use serde_json::{Value, json};
use support::client::{Client, all, get, put};
use support::nats::Nats;
use support::program::{Ended, WorkingFolder};
use support::proxy::Proxy;
use support::server::{Server, jetway};
use support::{catches_up, eventually};
use tonic::{Code, Status};

/// Two regions, east with a listener for leaf connections, and west with a connection to it.
pub struct Regions {
    pub east: Nats,
    pub west: Nats,
    /// Carries the leaf connection.
    pub link: Proxy,
}

impl Regions {
    pub async fn start() -> Self {
        // Its address is not advertised, so that the west does not bypass the proxy. nats-server compresses
        // on a slow connection, and the bytes that the proxy lets through would then be many messages.
        let east = Nats::start_with(
            "jetstream { store_dir: \"DIR/store\", domain: east }\n\
             leafnodes { listen: \"ROUTE\", no_advertise: true, compression: off }",
        )
        .await;
        let link = Proxy::to(east.route_address(), usize::MAX).await;
        let west = Nats::start_with(&format!(
            "jetstream {{ store_dir: \"DIR/store\", domain: west }}\n\
             leafnodes {{ remotes: [ {{ url: \"nats-leaf://{}\", compression: off }} ] }}",
            link.address
        ))
        .await;
        Self { east, west, link }
    }

    /// Cuts the two off from each other, until the link is released.
    pub fn part(&self) {
        self.link.hold();
        self.link.break_off();
    }

    /// Lets a little through again and again until the stream of the mirror has a last sequence.
    pub async fn let_through_until(&self, is_enough: impl Fn(u64) -> bool) {
        catches_up("a part of the log", async || {
            self.link.allow(20_000);
            let info = self.west.api("STREAM.INFO.KV_test", &Value::Null).await;
            info["state"]["last_seq"].as_u64().filter(|last| is_enough(*last))
        })
        .await;
    }
}

/// An instance at a region, with more parameters of its endpoint.
pub async fn instance(nats: &Nats, name: &str, parameters: &str) -> Server {
    Server::start_with(&["--endpoint", &endpoint(nats, parameters), "--name", name]).await
}

/// An instance at the mirror in the west, which serves only reads that need no writer.
pub async fn start_mirror(west: &Nats, name: &str) -> Server {
    let mut server = Server::prepare(&["--endpoint", &endpoint(west, "&mirror=east"), "--name", name]);
    serves_reads(&mut server).await;
    server
}

/// Starts an instance that is not to write, and waits until it serves.
pub async fn serves_reads(server: &mut Server) {
    server.begin();
    let client = Client::lazy(&server.endpoint());
    catches_up("a serializable read", async || client.range(serializable(get("/none"))).await.ok()).await;
}

pub fn endpoint(nats: &Nats, parameters: &str) -> String {
    format!("{}{parameters}", nats.endpoint())
}

pub fn serializable(request: RangeRequest) -> RangeRequest {
    RangeRequest { serializable: true, ..request }
}

/// All keys as a serializable read shows them.
pub async fn keys(client: &Client, prefix: &str) -> Vec<KeyValue> {
    client.range(serializable(all(prefix))).await.expect("a serializable read").kvs
}

/// Waits until a mirror has come to a revision.
pub async fn reaches(client: &Client, revision: i64) {
    catches_up("the mirror to come to the revision", async || {
        let range = client.range(serializable(get("/none"))).await.ok()?;
        (range.header?.revision >= revision).then_some(())
    })
    .await;
}

#[track_caller]
pub fn is_refused<T: std::fmt::Debug>(what: &str, answer: Result<T, Status>, words: &[&str]) {
    let status = answer.expect_err(what);
    assert_eq!(status.code(), Code::FailedPrecondition, "{what}: {status}");
    assert!(words.iter().all(|word| status.message().contains(word)), "{what}: {status}");
}

pub const MIRROR: [&str; 3] = ["this is a read-only mirror", "$JS.east.API", "jetway promote"];

/// The messages and the last sequence of a region's stream.
pub async fn stream(nats: &Nats) -> (u64, u64) {
    let info = nats.api("STREAM.INFO.KV_test", &Value::Null).await;
    let number = |name: &str| info["state"][name].as_u64().unwrap_or_default();
    (number("messages"), number("last_seq"))
}

/// Runs `jetway promote`; returns whether it did, and its output.
pub async fn promote(nats: &Nats, flags: &[&str]) -> (bool, String) {
    let folder = WorkingFolder::new();
    let mut command = folder.command_of(jetway());
    command.args(["promote", "--endpoint", &nats.endpoint()]).args(flags);
    let Ended { status, output } = folder.run(command).await;
    (status == 0, output)
}

/// A write, as soon as one is taken.
pub async fn writes(client: &Client, key: &str) -> i64 {
    eventually("a write", async || {
        let answer = client.put_request(put(key, "new")).await.ok()?;
        Some(answer.header?.revision)
    })
    .await
}

pub const FENCED: [&str; 2] = ["this bucket is fenced", "was promoted"];

/// Waits until an instance refuses writes for a fence.
pub async fn is_fenced(client: &Client) {
    eventually("the fence to be seen", async || {
        let status = client.put_request(put("/late", "w")).await.err()?;
        FENCED.iter().all(|word| status.message().contains(word)).then_some(())
    })
    .await;
}

/// `nats stream add KV_test --mirror KV_test` in the west, by the API.
pub async fn add_mirror(west: &Nats, more: Value) -> Value {
    let mut config = json!({
        "name": "KV_test", "storage": "file", "retention": "limits", "discard": "old",
        "mirror": { "name": "KV_test", "external": { "api": "$JS.east.API" } },
    });
    config.as_object_mut().unwrap().append(&mut more.as_object().unwrap().clone());
    west.api("STREAM.CREATE.KV_test", &config).await
}
