//! `--snapshot-schedule`, as an operator sees it: files, metrics and lines of the log.

use std::path::Path;

use jetway::proto::etcdserverpb::{HashKvRequest, HashKvResponse, MoveLeaderRequest, MoveLeaderResponse};
use support::eventually;
use support::metrics::Metrics;
use support::nats::Nats;
use support::server::Server;
use support::snapshot::{QUICK, etcdutl, text};

use crate::{becomes, line, lines, value};

const AT: &str = "jetway_snapshot_last_success_timestamp_seconds";
const SIZE: &str = "jetway_snapshot_last_size_bytes";
const SECONDS: &str = "jetway_snapshot_last_duration_seconds";
const FAILURES: &str = "jetway_snapshot_failures_total";

/// The names in a directory; none if there is no such directory.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort_unstable();
    names
}

/// The names of whole snapshots.
fn snapshots(dir: &Path) -> Vec<String> {
    names(dir).into_iter().filter(|name| name.ends_with(".db")).collect()
}

fn schedule<'a>(times: &'a str, dir: &'a Path) -> [&'a str; 8] {
    [
        QUICK[0],
        QUICK[1],
        "--snapshot-schedule",
        times,
        "--snapshot-dir",
        text(dir),
        "--snapshot-retention",
        "3",
    ]
}

/// The files are whole, the oldest ones go, and those of others stay.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scheduled_snapshots_are_whole_and_as_many_as_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("not/yet");
    let mut server = Server::start_with(&schedule("1s", &dir)).await;
    let client = server.client().await;
    client.put("a", vec![b'v'; 100_000]).await;
    // An empty store's first snapshot shows the beginning of the names.
    let first = eventually("the first snapshot", async || snapshots(&dir).first().cloned()).await;
    let mut foreign = ["notes.db".to_owned(), format!("snapshot-1{}", &first["snapshot-".len()..])];
    let abandoned = format!("{}.part", &first);
    for name in foreign.iter().chain([&abandoned]) {
        std::fs::write(dir.join(name), "x").unwrap();
    }
    let hour_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
    let file = std::fs::File::options().write(true).open(dir.join(&abandoned)).unwrap();
    file.set_modified(hour_ago).unwrap();
    foreign.sort_unstable();
    let is_own = |name: &String| !foreign.contains(name) && name.ends_with(".db");
    let own = || names(&dir).into_iter().filter(is_own).collect::<Vec<_>>();
    // More than are kept have been saved since.
    eventually("four more snapshots", async || {
        (lines(&server, &["saved a scheduled snapshot"]).len() > 4).then_some(())
    })
    .await;
    assert!(becomes(&server, SIZE, &[], |bytes| bytes > 1e5).await < 1e6);
    assert!(becomes(&server, SECONDS, &[], |seconds| seconds > 0.0).await < 10.0);
    let metrics = Metrics::scrape(&server.address()).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - metrics.value(AT, &[])).abs() < 60.0);
    assert!(metrics.value(FAILURES, &[]) < 0.5);
    line(&server, &["INFO", "saved a scheduled snapshot", "path=", "bytes=", "revision=2", "took="]).await;

    let hash: HashKvResponse =
        client.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision: 0 }).await.unwrap();
    server.stop().await;
    let left = own();
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(!left.contains(&first) && !names(&dir).contains(&abandoned));
    assert!(foreign.iter().all(|name| dir.join(name).exists()));
    for name in &left {
        let hashed = etcdutl(&["hashkv", text(&dir.join(name))]).await;
        assert!(hashed.starts_with(&format!("{}, 2, ", hash.hash)), "{name}: {hashed}");
    }
}

/// A restart takes the time of the last one from its file, and does not save another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interval_goes_on_behind_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("snapshots");
    let mut server = Server::start_with(&schedule("1h", &dir)).await;
    line(&server, &["saved a scheduled snapshot"]).await;
    let before = snapshots(&dir);
    let at = value(&server, AT).await;
    server.stop().await;
    server.restart().await;
    let again = becomes(&server, AT, &[], |_| true).await;
    assert!((again - at).abs() < 3.0, "{at} {again}");
    assert_eq!(snapshots(&dir), before);
    assert_eq!(lines(&server, &["saved a scheduled snapshot"]).len(), 1);
    // An older file is an hour old, and so another one is due. Two of one second differ by the revision.
    server.client().await.put("a", "b").await;
    server.stop().await;
    let file = std::fs::File::options().write(true).open(dir.join(&before[0])).unwrap();
    file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(3700)).unwrap();
    server.restart().await;
    eventually("another snapshot", async || (snapshots(&dir).len() == 2).then_some(())).await;
}

/// The newest snapshots are kept. Those of the clock that was ahead are older than their names tell.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snapshots_after_the_clock_was_ahead_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("snapshots");
    let mut server = Server::start_with(&schedule("1s", &dir)).await;
    eventually("three snapshots", async || (snapshots(&dir).len() == 3).then_some(())).await;
    server.stop().await;
    let ahead: Vec<_> = snapshots(&dir)
        .iter()
        .map(|name| {
            let (prefix, time) = name.rsplit_once("-2").unwrap();
            let ahead = format!("{prefix}-3{time}");
            std::fs::rename(dir.join(name), dir.join(&ahead)).unwrap();
            ahead
        })
        .collect();
    server.restart().await;
    line(&server, &["saved a scheduled snapshot", "path="]).await;
    eventually("the first one of the clock that was ahead to go", async || {
        (!names(&dir).contains(&ahead[0])).then_some(())
    })
    .await;
    eventually("three snapshots of the right clock", async || {
        let now = snapshots(&dir);
        (now.len() == 3 && ahead.iter().all(|name| !now.contains(name))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_snapshot_is_reported_and_stops_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("file");
    std::fs::write(&dir, "no directory").unwrap();
    let server = Server::start_with(&schedule("1s", &dir)).await;
    let client = server.client().await;
    let told = ["WARN", "a scheduled snapshot was not saved", "--snapshot-dir", text(&dir)];
    line(&server, &told).await;
    becomes(&server, FAILURES, &[], |failures| failures > 1.5).await;
    assert_eq!(Metrics::scrape(&server.address()).await.find(AT, &[]), None);
    client.put("a", "b").await;
    std::fs::remove_file(&dir).unwrap();
    becomes(&server, AT, &[], |at| at > 1e9).await;
    let failures = value(&server, FAILURES).await;
    becomes(&server, SECONDS, &[], |seconds| seconds > 0.0).await;
    assert!((value(&server, FAILURES).await - failures).abs() < 0.5);
}

/// With a directory for each instance, so that the writer shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_instance_that_writes_saves_scheduled_snapshots() {
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let dirs = [folder.path().join("a"), folder.path().join("b")];
    let mut servers = Vec::new();
    for dir in &dirs {
        let args = [&["--endpoint", &endpoint][..], &schedule("1s", dir)].concat();
        servers.push(Server::start_with(&args).await);
    }
    eventually("three snapshots of the writer", async || (snapshots(&dirs[0]).len() == 3).then_some(()))
        .await;
    assert_eq!(names(&dirs[1]), Vec::<String>::new());
    let target_id = servers[1].client().await.status().await.unwrap().header.unwrap().member_id;
    let moved: MoveLeaderResponse = servers[0]
        .client()
        .await
        .unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id })
        .await
        .unwrap();
    assert!(moved.header.is_none());
    eventually("three snapshots of the next writer", async || (snapshots(&dirs[1]).len() == 3).then_some(()))
        .await;
    let saved = lines(&servers[0], &["saved a scheduled snapshot"]).len();
    eventually("more of them", async || {
        (lines(&servers[1], &["saved a scheduled snapshot"]).len() > 5).then_some(())
    })
    .await;
    assert_eq!(lines(&servers[0], &["saved a scheduled snapshot"]).len(), saved);
}

/// The interval counts from the newest file, which another instance has saved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_with_one_directory_share_the_interval() {
    let folder = tempfile::tempdir().unwrap();
    let nats = Nats::start().await;
    let endpoint = nats.endpoint();
    let mut servers = Vec::new();
    for interval in ["1s", "4s"] {
        let args = [&["--endpoint", &endpoint][..], &schedule(interval, folder.path())].concat();
        servers.push(Server::start_with(&args).await);
    }
    let saved = async |at: usize, count: usize| {
        eventually("snapshots of an instance", async || {
            (lines(&servers[at], &["saved a scheduled snapshot"]).len() >= count).then_some(())
        })
        .await;
    };
    // More than an interval of the second one.
    saved(0, 7).await;
    let target_id = servers[1].client().await.status().await.unwrap().header.unwrap().member_id;
    let _: MoveLeaderResponse = servers[0]
        .client()
        .await
        .unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id })
        .await
        .unwrap();
    saved(1, 1).await;
    let modified = |name: &String| folder.path().join(name).metadata().unwrap().modified().unwrap();
    let times: Vec<_> = snapshots(folder.path()).iter().map(modified).collect();
    let [.., before, last] = times[..] else { panic!("{times:?}") };
    let gap = last.duration_since(before).unwrap();
    assert!(gap > std::time::Duration::from_millis(3900), "{gap:?}");
}
