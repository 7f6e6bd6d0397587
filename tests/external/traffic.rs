//! Writes and reads through several instances while something happens to them, and the proof that nothing went wrong.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jetway::proto::etcdserverpb::WatchCreateRequest;
use jetway::proto::mvccpb::Event;
use jetway::proto::mvccpb::event::EventType;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use support::client::{Client, op, put, revision, run};
use support::eventually;
use support::nats::Nats;
use support::server::Server;
use support::watch::{WatchStream, outline, pair, watch_all};

/// NATS servers, instances on them, and a client for each instance.
pub struct Group {
    pub servers: Vec<Server>,
    pub clients: Vec<Client>,
    // Last, so that the instances go before their servers.
    _nodes: Vec<Nats>,
}

impl Group {
    /// Three instances over one NATS server.
    pub async fn over_one() -> Self {
        let nats = Nats::start().await;
        let endpoint = nats.endpoint();
        Self::over(vec![nats], &endpoint).await
    }

    /// Three instances over three NATS servers, each of which knows all of these.
    pub async fn over_three() -> Self {
        let nodes = Nats::cluster().await;
        let hosts: Vec<String> = nodes.iter().map(Nats::address).collect();
        let endpoint = format!("nats://{}?bucket=test&replicas=3", hosts.join(","));
        Self::over(nodes.into(), &endpoint).await
    }

    async fn over(nodes: Vec<Nats>, endpoint: &str) -> Self {
        let (servers, clients) = crate::instances::instances(endpoint, 3).await;
        Self { servers, clients, _nodes: nodes }
    }

    /// The instance that writes, once each of `among` names it, and its member id.
    pub async fn writer(&self, among: &[usize]) -> (usize, u64) {
        eventually("one writer that all agree on", async || {
            let mut found = None;
            let mut named = HashSet::new();
            for &at in among {
                let status = self.clients[at].status().await.ok()?;
                named.insert(status.leader);
                if status.header?.member_id == status.leader {
                    found = Some((at, status.leader));
                }
            }
            found.filter(|_| named.len() == 1)
        })
        .await
    }

    /// Waits until each of these instances knows the two others as ready; only such a one can take over at once.
    pub async fn members(&self) {
        eventually("three members", async || {
            (self.clients[0].members().await.ok()?.members.len() == 3).then_some(())
        })
        .await;
    }
}

/// A call that failed: through which instance, and how.
type Failure = (usize, Status);

/// Two keys that were written at once.
struct Answered {
    writer: usize,
    value: i64,
    revision: i64,
}

/// Calls that run until they are told to stop.
pub struct Traffic {
    stop: CancellationToken,
    answered: JoinSet<Vec<Answered>>,
    readers: JoinSet<usize>,
    failures: Arc<Mutex<Vec<Failure>>>,
    watch: WatchStream,
    begin: i64,
    count: Arc<AtomicI64>,
    /// The newest value of each writer's that is known to be written.
    known: Vec<Arc<AtomicI64>>,
}

const WRITERS: usize = 6;

impl Traffic {
    /// Writes and reads through all instances, and watches through the one with the number `watched`.
    pub async fn begin(clients: &[Client], watched: usize) -> Self {
        let begin = clients[watched].revision().await;
        let mut watch = WatchStream::open(&clients[watched]);
        watch.watch(watch_all("/load/")).await;
        let mut traffic = Self {
            stop: CancellationToken::new(),
            answered: JoinSet::new(),
            readers: JoinSet::new(),
            failures: Arc::default(),
            watch,
            begin,
            count: Arc::default(),
            known: Vec::new(),
        };
        for writer in 0..WRITERS {
            let known = Arc::new(AtomicI64::new(-1));
            traffic.known.push(known.clone());
            let at = writer % clients.len();
            let (client, stop, failures) =
                (clients[at].clone(), traffic.stop.clone(), traffic.failures.clone());
            let (told, count) = (known.clone(), traffic.count.clone());
            traffic.answered.spawn(async move {
                let mut answered = Vec::new();
                for value in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    let ops =
                        ["a", "b"].map(|half| op(put(format!("/load/{writer}/{half}"), value.to_string())));
                    match client.txn(run(ops.to_vec())).await {
                        Ok(answer) => {
                            let revision = revision(&answer.header);
                            answered.push(Answered { writer, value, revision });
                            told.store(value, Ordering::SeqCst);
                            count.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(status) => fail(&failures, at, status).await,
                    }
                    tokio::time::sleep(Duration::from_millis(3)).await;
                }
                answered
            });
            let at = (writer + 1) % clients.len();
            let (client, stop, failures) =
                (clients[at].clone(), traffic.stop.clone(), traffic.failures.clone());
            traffic.readers.spawn(async move {
                let mut reads = 0;
                while !stop.is_cancelled() {
                    let least = known.load(Ordering::SeqCst);
                    match client.get(format!("/load/{writer}/b")).await {
                        Ok(answer) => {
                            let found = answer.kvs.first().map_or(-1, |kv| number(&kv.value));
                            assert!(found >= least, "instance {at} reads {found} after {least} was answered");
                            reads += 1;
                        }
                        Err(status) => fail(&failures, at, status).await,
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                reads
            });
        }
        traffic.more().await;
        traffic
    }

    /// Waits until some more writes are answered.
    pub async fn more(&self) {
        let enough = self.count.load(Ordering::SeqCst) + 60;
        eventually("more writes", async || (self.count.load(Ordering::SeqCst) >= enough).then_some(())).await;
    }

    /// Reads that are sent through `client` now, all at once, whenever it answers them. None of them may miss what was written
    /// before.
    pub fn reads_sent_now(&self, client: &Client) -> JoinSet<()> {
        let mut reads = JoinSet::new();
        for (writer, known) in self.known.iter().enumerate() {
            let least = known.load(Ordering::SeqCst);
            for _ in 0..10 {
                let client = client.clone();
                reads.spawn(async move {
                    if let Ok(answer) = client.get(format!("/load/{writer}/b")).await {
                        let found = answer.kvs.first().map_or(-1, |kv| number(&kv.value));
                        assert!(found >= least, "{found} is read after {least} was answered");
                    }
                });
            }
        }
        reads
    }

    /// No call through one of these instances has failed so far.
    pub async fn none_failed(&self, through: &[usize]) {
        let failures = self.failures.lock().await;
        let wrong: Vec<_> = failures.iter().filter(|(at, _)| through.contains(at)).collect();
        assert!(wrong.is_empty(), "{} calls failed, as {:?}", wrong.len(), wrong[0]);
    }

    /// Ends the calls, and compares what was answered and what the watch saw with what `clients` hold.
    pub async fn end(mut self, clients: &[&Client]) {
        self.stop.cancel();
        let mut answered = Vec::new();
        while let Some(writes) = self.answered.join_next().await {
            answered.extend(writes.unwrap());
        }
        let mut reads = 0;
        while let Some(reader) = self.readers.join_next().await {
            reads += reader.unwrap();
        }
        println!("{} transactions were answered, {reads} reads", answered.len());
        let end = clients[0].put("/load/end", "0").await;
        let mut seen: Vec<Event> = Vec::new();
        while seen.last().is_none_or(|event| outline(event).2 < end) {
            seen.extend(self.watch.next_but_progress().await.events);
        }
        let outlines: Vec<_> = seen.iter().map(outline).collect();
        // Each event once, whole revisions, and none in between that is nobody's.
        assert_eq!(outlines.iter().collect::<HashSet<_>>().len(), outlines.len(), "an event came twice");
        assert!(outlines.is_sorted_by_key(|event| event.2), "events are out of order");
        let mut revisions: Vec<i64> = outlines.iter().map(|event| event.2).collect();
        revisions.dedup();
        assert_eq!(revisions, (self.begin + 1..=end).collect::<Vec<_>>(), "revisions are missing");
        let mut written = HashSet::new();
        for halves in seen[..seen.len() - 1].chunks(2) {
            let [a, b] = halves else { panic!("half of a transaction: {halves:?}") };
            let (a, b) = (pair(a), pair(b));
            assert_eq!((&a.value, a.mod_revision, a.version), (&b.value, b.mod_revision, b.version));
            let (_, key, _) = outline(&halves[0]);
            let writer: usize = key.split('/').nth(2).unwrap().parse().unwrap();
            assert!(written.insert((writer, number(&a.value))), "a write happened twice: {a:?}");
            assert_eq!(halves[0].r#type(), EventType::Put);
        }
        let at: HashSet<_> = outlines.iter().map(|event| (&event.1[..], event.2)).collect();
        for Answered { writer, value, revision } in answered {
            assert!(written.contains(&(writer, value)), "write {value} of {writer} is lost");
            assert!(
                at.contains(&(&format!("/load/{writer}/a")[..], revision)),
                "its revision is another one"
            );
        }
        for client in clients {
            let mut again = WatchStream::open(client);
            let start_revision = self.begin + 1;
            again.watch(WatchCreateRequest { start_revision, ..watch_all("/load/") }).await;
            let mut events = Vec::new();
            while events.len() < seen.len() {
                events.extend(again.next_but_progress().await.events);
            }
            assert!(events == seen, "an instance has another history");
        }
    }
}

async fn fail(failures: &Mutex<Vec<Failure>>, at: usize, status: Status) {
    let may_be =
        matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Unknown | Code::Cancelled);
    assert!(may_be, "{status:?}");
    failures.lock().await.push((at, status));
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn number(value: &[u8]) -> i64 {
    std::str::from_utf8(value).unwrap().parse().unwrap()
}
