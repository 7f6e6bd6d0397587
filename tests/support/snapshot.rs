//! Snapshots: taken by a client, checked and restored by etcdutl.

use std::path::{Path, PathBuf};
use std::process::Command;

use jetway::proto::etcdserverpb::{
    HashKvRequest, HashKvResponse, RangeRequest, RangeResponse, SnapshotRequest, SnapshotResponse,
};
use tempfile::TempDir;

use crate::client::Client;
use crate::server::{Launch, Server, Target, jetway, peer};

/// Passwords that cost little to hash.
pub const QUICK: [&str; 2] = ["--bcrypt-cost", "4"];

/// All messages of a snapshot.
pub async fn messages(client: &Client) -> Vec<SnapshotResponse> {
    let mut stream: tonic::Streaming<SnapshotResponse> =
        client.server_stream("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest {}).await.unwrap();
    let mut messages = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        messages.push(message);
    }
    messages
}

/// Runs a program to its end and returns its output.
pub async fn runs(program: PathBuf, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{args:?}: {}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// etcdutl of each minor version that there is, the oldest first, and that version.
pub fn etcdutls() -> [(&'static str, PathBuf); 3] {
    [
        ("3.5", peer("JETWAY_TEST_ETCDUTL_3_5", "etcdutl-3.5")),
        ("3.6", peer("JETWAY_TEST_ETCDUTL_3_6", "etcdutl-3.6")),
        ("3.7", peer("JETWAY_TEST_ETCDUTL", "etcdutl")),
    ]
}

/// Runs etcdutl.
pub async fn etcdutl(args: &[&str]) -> String {
    runs(peer("JETWAY_TEST_ETCDUTL", "etcdutl"), args).await
}

/// A file with a snapshot, in a folder of its own.
#[derive(Debug)]
pub struct Saved {
    folder: TempDir,
}

impl Saved {
    /// A folder without a file.
    pub fn nowhere() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// The snapshot that a server sends now.
    pub async fn of(client: &Client) -> Self {
        let saved = Self::nowhere();
        let blobs: Vec<_> = messages(client).await.into_iter().map(|message| message.blob).collect();
        std::fs::write(saved.path(), blobs.concat()).unwrap();
        saved
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("saved.db")
    }

    /// The report of `etcdutl snapshot status`, which checks the whole file.
    pub async fn status(&self) -> serde_json::Value {
        let status = etcdutl(&["snapshot", "status", text(&self.path()), "--write-out", "json"]).await;
        serde_json::from_str(&status).unwrap()
    }

    /// etcdutl's words for HashKV of the file: the hash, the revision and the floor. etcdutl changes a file
    /// when it opens it for that, so it gets a copy.
    pub async fn hash_kv(&self) -> String {
        let copy = self.folder.path().join("copy.db");
        std::fs::copy(self.path(), &copy).unwrap();
        etcdutl(&["hashkv", text(&copy)]).await.trim().to_owned()
    }

    /// A jetway that serves the restored data, by `jetway restore` with more flags.
    pub async fn restored_by_jetway(&self, flags: &[&str]) -> Server {
        jetway_restored(&self.path(), flags).await
    }

    /// An etcd that serves the restored data.
    pub async fn restored(&self) -> Server {
        self.restored_by(&[peer("JETWAY_TEST_ETCDUTL", "etcdutl")]).await
    }

    /// The same. The first etcdutl restores the data, and the others defragment it.
    pub async fn restored_by(&self, etcdutls: &[PathBuf]) -> Server {
        let mut server = Server::create(Target::Etcd, Launch { args: &QUICK, ..Launch::default() });
        let url = format!("http://{}", server.peer_address());
        let (path, data) = (self.path(), server.dir().join("data"));
        let restore = ["snapshot", "restore", text(&path), "--data-dir", text(&data), "--name", "default"];
        let cluster = format!("default={url}");
        let member = ["--initial-cluster", &cluster, "--initial-advertise-peer-urls", &url];
        runs(etcdutls[0].clone(), &[&restore[..], &member].concat()).await;
        for etcdutl in &etcdutls[1..] {
            runs(etcdutl.clone(), &["defrag", "--data-dir", text(&data)]).await;
        }
        server.restart().await;
        server
    }
}

/// A jetway that serves what it has restored from a file or a directory.
pub async fn jetway_restored(source: &Path, flags: &[&str]) -> Server {
    let mut server = Server::create(Target::Jetway, Launch { args: &QUICK, ..Launch::default() });
    let data = server.dir().join("data");
    runs(jetway(), &[&["restore", text(source), "--data-dir", text(&data)], flags].concat()).await;
    server.restart().await;
    server
}

/// The hash of the store at a revision.
pub async fn hash_kv(client: &Client, revision: i64) -> HashKvResponse {
    client.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision }).await.unwrap()
}

/// All keys at a revision.
pub async fn keys(client: &Client, revision: i64) -> RangeResponse {
    let everything =
        RangeRequest { key: "\0".into(), range_end: "\0".into(), revision, ..Default::default() };
    client.range(everything).await.unwrap()
}

/// Both serve the same at each revision from `floor` on. `with_floor` compares the hash of the floor too,
/// which a server remembers from its compaction and not from a restart.
pub async fn same_history(server: &Client, restored: &Client, floor: i64, with_floor: bool) {
    same_history_between(server, restored, floor, server.revision().await, with_floor).await;
}

/// The same up to a revision, which is the last one of `restored`.
pub async fn same_history_to(server: &Client, restored: &Client, floor: i64, end: i64) {
    same_history_between(server, restored, floor, end, false).await;
}

async fn same_history_between(server: &Client, restored: &Client, floor: i64, now: i64, with_floor: bool) {
    assert_eq!(restored.revision().await, now);
    for revision in floor.max(1)..=now {
        let (a, b) = (keys(server, revision).await, keys(restored, revision).await);
        assert_eq!((a.kvs, a.count), (b.kvs, b.count), "at revision {revision} of {floor} to {now}");
        if revision > floor || with_floor {
            let parts = |hash: HashKvResponse| (hash.hash, hash.compact_revision, hash.hash_revision);
            let (a, b) = (parts(hash_kv(server, revision).await), parts(hash_kv(restored, revision).await));
            assert_eq!(a, b, "HashKV at revision {revision} of {floor} to {now}");
        }
    }
}

/// A path as an argument.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
