//! A client that behaves, while somebody else does not.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use support::client::Client;
use support::server::{Server, Target};
use support::watch::{WatchStream, pair, watch_key};

/// The longest that any of its calls may take. The server is a debug build on a machine that may do other
/// things as well. Without abuse the slowest call takes a tenth of a second.
const BOUND: Duration = Duration::from_secs(15);

/// Puts, reads and watches a key of its own until it is stopped.
pub struct HealthyClient {
    target: Target,
    log: PathBuf,
    stop: CancellationToken,
    task: JoinHandle<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    rounds: usize,
    put: Duration,
    get: Duration,
    event: Duration,
}

impl HealthyClient {
    pub async fn start(server: &Server) -> Self {
        let client = server.client().await;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !stopped.is_cancelled() || seen.rounds == 0 {
                round(&client, &mut seen).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            seen
        });
        Self { target: server.target(), log: server.dir().join("log"), stop, task }
    }

    /// Ends it. Panics if a call of its failed or took too long, or if anything in the server has panicked.
    pub async fn finish(self) {
        self.stop.cancel();
        let seen = self.task.await.unwrap();
        println!("slowest calls of the healthy client: {seen:?}");
        if self.target == Target::Jetway {
            let log = fs::read_to_string(self.log).unwrap();
            assert!(!log.contains("panicked at"), "{log}");
            assert!(seen.put < BOUND && seen.get < BOUND && seen.event < BOUND, "{seen:?}");
        }
    }
}

/// A watch made, an event on it, and the value read back.
async fn round(client: &Client, seen: &mut Seen) {
    let key = "/healthy";
    let mut watch = WatchStream::open(client);
    watch.watch(watch_key(key)).await;
    let began = Instant::now();
    let revision = client.put(key, seen.rounds.to_string()).await;
    seen.put = seen.put.max(began.elapsed());
    let event = watch.events(1).await;
    seen.event = seen.event.max(began.elapsed());
    assert_eq!(pair(&event[0]).mod_revision, revision);
    let began = Instant::now();
    assert_eq!(client.kv(key).await.unwrap().mod_revision, revision);
    seen.get = seen.get.max(began.elapsed());
    seen.rounds += 1;
}
