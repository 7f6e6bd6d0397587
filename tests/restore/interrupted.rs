//! A restore that is killed leaves nothing that is served, and is run again.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use rand::Rng as _;
use serde_json::Value;
use support::client::*;
use support::eventually;
use support::nats::Nats;
use support::server::{Launch, Server, Target, jetway, spawn};
use support::snapshot::{Saved, keys, runs, same_history, text};

const KEYS: usize = 4000;

/// A store whose restore takes a while.
pub async fn large() -> (Server, Saved) {
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let puts = chunk.iter().map(|number| op(put(format!("k/{number:05}"), vec![b'v'; 2000])));
        client.txn(run(puts.collect())).await.unwrap();
    }
    let saved = Saved::of(&client).await;
    (server, saved)
}

pub fn begin(args: &[&str]) -> Child {
    let mut command = Command::new(jetway());
    command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    spawn(command).unwrap()
}

/// Bytes of all files below a folder.
fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => size(&entry.path()),
            _ => entry.metadata().map_or(0, |file| file.len()),
        })
        .sum()
}

/// Kills a restore when there are as many bytes below a folder. Returns false if it has ended before.
pub async fn kill_at(mut restore: Child, folder: &Path, bytes: u64) -> bool {
    let is_there = eventually("the restore to come so far", async || {
        if restore.try_wait().unwrap().is_some() {
            return Some(false);
        }
        (size(folder) >= bytes).then_some(true)
    })
    .await;
    restore.kill().unwrap();
    let Output { stdout, stderr, .. } = restore.wait_with_output().unwrap();
    println!("{}{}", String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    is_there
}

#[tokio::test]
async fn a_restore_that_is_killed_is_never_served_in_part() {
    const ROUNDS: usize = 6;
    let (source, saved) = large().await;
    let path = saved.path();
    let all = std::fs::metadata(&path).unwrap().len();
    let mut refused = 0;
    for round in 0..ROUNDS {
        let mut server = Server::create(Target::Jetway, Launch::default());
        let data = server.dir().join("data");
        let restore = ["restore", text(&path), "--data-dir", text(&data)];
        // One in the first half, when the stream is there for certain.
        let bytes = if round == 0 { all / 4 } else { rand::rng().random_range(1..all) };
        let was_killed = kill_at(begin(&restore), &data.join("nats/jetstream"), bytes).await;
        let served = server.try_restart().await;
        match served {
            Ok(()) => {
                let count = keys(&server.client().await, 0).await.count;
                let is_whole = count == KEYS as i64;
                assert!(
                    is_whole || was_killed && count == 0,
                    "{count} keys, killed at {bytes} of {all} bytes"
                );
                continue;
            }
            Err(_) => {
                assert!(server.log().contains("run the same command once more"), "{}", server.log());
                refused += 1;
            }
        }
        runs(jetway(), &restore).await;
        server.restart().await;
        let (theirs, ours) = (source.client().await, server.client().await);
        assert_eq!(ours.revision().await, theirs.revision().await);
        assert!(keys(&ours, 0).await.kvs == keys(&theirs, 0).await.kvs);
    }
    assert!(refused > 0, "no restore was killed in the middle");
}

#[tokio::test]
async fn a_bucket_is_restored_and_an_unfinished_one_is_refused() {
    let (source, saved) = large().await;
    let path = saved.path();
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let restore = ["restore", text(&path), "--endpoint", &endpoint];
    let format = async || {
        let info = nats.api("STREAM.INFO.KV_test", &Value::Null).await;
        info["config"]["metadata"]["jetway.format"].clone()
    };
    let was_killed = kill_at(begin(&restore), &nats.store(), 2_000_000).await;
    assert!(was_killed);
    assert_eq!(format().await, "unfinished restore");
    let (status, log) = Server::fails_to_start(&["--endpoint", &endpoint]).await;
    assert!(!status.success() && log.contains("run the same command once more"), "{log}");
    let told = runs(jetway(), &restore).await;
    assert!(told.contains(&format!("start it with: jetway --endpoint {endpoint}")), "{told}");
    assert_eq!(format().await, "2");
    let server = Server::launch(Target::Jetway, &["--endpoint", &endpoint]).await;
    let other = Server::launch(Target::Jetway, &["--endpoint", &endpoint]).await;
    same_history(&source.client().await, &server.client().await, KEYS as i64 / 100, true).await;
    server.client().await.put("more", "1").await;
    assert_eq!(keys(&other.client().await, 0).await.count, KEYS as i64 + 1);
    let refused = begin(&restore).wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("a restore needs an empty bucket"), "{text}");
}

/// A stream that an operator has made, and that was never used, is empty, too.
#[tokio::test]
async fn a_prepared_stream_is_restored_into() {
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    for value in 0..20 {
        client.put("k", format!("{value}")).await;
    }
    let saved = Saved::of(&client).await;
    let nats = Nats::start().await;
    let config = serde_json::json!({
        "name": "KV_test", "subjects": ["$KV.test.>"], "storage": "file", "retention": "limits", "discard": "old",
        "num_replicas": 1, "max_age": 60_000_000_000_u64, "first_seq": 100, "metadata": { "team": "a" },
    });
    nats.api("STREAM.CREATE.KV_test", &config).await;
    let path = saved.path();
    runs(jetway(), &["restore", text(&path), "--endpoint", &nats.endpoint()]).await;
    let restored = Server::launch(Target::Jetway, &["--endpoint", &nats.endpoint()]).await;
    same_history(&client, &restored.client().await, 1, true).await;
}
