//! A watch that follows the whole keyspace through every crash, as a good client does: it starts again behind
//! the last revision it has seen.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jetway::proto::etcdserverpb::WatchCreateRequest;
use jetway::proto::mvccpb::Event;
use tokio::task::JoinHandle;

use support::client::{Client, revision};
use support::eventually;
use support::watch::{WatchStream, pair, watch_all};

/// An event and when it came.
#[derive(Clone, Debug)]
pub struct Seen {
    pub event: Event,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Progress {
    seen: Vec<Seen>,
    /// Everything up to here has come.
    revision: i64,
    resumed: usize,
}

#[derive(Debug)]
pub struct Watcher {
    progress: Arc<Mutex<Progress>>,
    task: JoinHandle<()>,
}

impl Watcher {
    /// Watches everything from the first revision on.
    pub fn start(endpoint: &str) -> Self {
        let progress = Arc::new(Mutex::new(Progress::default()));
        let client = Client::lazy(endpoint);
        let task = tokio::spawn(follow(client, Arc::clone(&progress)));
        Self { progress, task }
    }

    /// The last revision of which all is known.
    pub fn revision(&self) -> i64 {
        self.progress.lock().unwrap().revision
    }

    pub fn resumed(&self) -> usize {
        self.progress.lock().unwrap().resumed
    }

    /// The events so far. Fails if the watcher has found something wrong.
    pub async fn events_to(&mut self, revision: i64) -> Vec<Seen> {
        eventually(&format!("the watcher to see revision {revision}"), async || {
            if self.task.is_finished() {
                (&mut self.task).await.expect("the watcher goes on");
            }
            (self.revision() >= revision).then_some(())
        })
        .await;
        self.progress.lock().unwrap().seen.clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(client: Client, progress: Arc<Mutex<Progress>>) {
    loop {
        let from = progress.lock().unwrap().revision + 1;
        let mut watch = WatchStream::open(&client);
        watch.request(WatchCreateRequest {
            start_revision: from,
            prev_kv: true,
            progress_notify: true,
            ..watch_all("")
        });
        while let Some(Ok(message)) = watch.message().await {
            assert_eq!(message.compact_revision, 0, "a watch from {from} is compacted");
            if message.canceled {
                break;
            }
            if message.created {
                continue;
            }
            let mut progress = progress.lock().unwrap();
            let at = revision(&message.header);
            assert!(at >= progress.revision, "revision {at} after {}", progress.revision);
            let now = Instant::now();
            for event in &message.events {
                let revision = pair(event).mod_revision;
                assert!(revision >= from, "revision {revision} on a watch from {from}");
            }
            // All events of one revision come in one message, and a message may end before the header's
            // revision.
            progress.revision = match message.events.last() {
                Some(event) => pair(event).mod_revision,
                None => at,
            };
            progress.seen.extend(message.events.into_iter().map(|event| Seen { event, at: now }));
        }
        progress.lock().unwrap().resumed += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
