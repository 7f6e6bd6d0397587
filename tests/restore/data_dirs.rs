//! Data directories of etcds that are stopped: restored with all that they hold, or refused with the remedy.

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use jetway::proto::etcdserverpb::CompactionRequest;
use support::cluster::Cluster;
use support::eventually;
use support::server::{Server, Target};
use support::snapshot::{Saved, jetway_restored, keys, same_history, text};
use tempfile::TempDir;

use crate::refusals::{data_dir, is_refused};

#[tokio::test]
async fn the_data_directory_of_a_stopped_etcd_is_restored() {
    let mut server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    client.lease_grant(5, 600).await.unwrap();
    for value in 0..50 {
        client.put(format!("k/{}", value % 7), format!("{value}")).await;
    }
    client.compact_request(CompactionRequest { revision: 20, physical: true }).await.unwrap();
    is_refused(&data_dir(&server), &[], &["an etcd runs on", "etcdctl snapshot save"]).await;
    server.stop().await;
    let restored = jetway_restored(&data_dir(&server), &[]).await;
    let database = data_dir(&server).join("member/snap/db");
    is_refused(&database, &[], &["has no checksum", "--skip-hash-check"]).await;
    let copied = jetway_restored(&database, &["--skip-hash-check"]).await;
    server.restart().await;
    let client = server.client().await;
    same_history(&client, &restored.client().await, 20, true).await;
    same_history(&client, &copied.client().await, 20, true).await;
    assert_eq!(restored.client().await.lease_time_to_live(5, true).await.unwrap().granted_ttl, 600);
}

/// An etcd that was killed has entries in its log that its database does not show.
#[tokio::test]
async fn a_data_directory_with_more_in_its_log_is_refused_with_the_remedy() {
    // Nothing is committed to the database before a clean end.
    let rarely = ["--backend-batch-interval", "1h", "--backend-batch-limit", "1000000"];
    let mut server = Server::launch(Target::Etcd, &rarely).await;
    let client = server.client().await;
    for value in 0..20 {
        client.put("k", format!("{value}")).await;
    }
    server.kill9();
    let words = ["what is behind would be lost", "Start this etcd once", "etcdctl snapshot save"];
    is_refused(&data_dir(&server), &[], &words).await;
    // The first remedy.
    server.restart().await;
    let client = server.client().await;
    let saved = Saved::of(&client).await;
    same_history(&client, &saved.restored_by_jetway(&[]).await.client().await, 1, true).await;
    server.stop().await;
    same_history(
        &saved.restored().await.client().await,
        &jetway_restored(&data_dir(&server), &[]).await.client().await,
        1,
        true,
    )
    .await;
    // The second one.
    let alone = data_dir(&server).join("member/snap/db");
    std::fs::remove_dir_all(data_dir(&server).join("member/wal")).unwrap();
    is_refused(&data_dir(&server), &[], &["not known whether the database is complete", "--skip-hash-check"])
        .await;
    jetway_restored(&alone, &["--skip-hash-check"]).await;
}

/// The log of an etcd may have a directory of its own.
#[tokio::test]
async fn the_log_is_found_by_wal_dir() {
    let folder = TempDir::new().unwrap();
    let wal = folder.path().join("wal");
    let args =
        ["--wal-dir", text(&wal), "--backend-batch-interval", "1h", "--backend-batch-limit", "1000000"];
    let mut server = Server::launch(Target::Etcd, &args).await;
    let client = server.client().await;
    client.put("k", "v").await;
    server.kill9();
    is_refused(
        &data_dir(&server),
        &[],
        &["--wal-dir, give it here", "etcdctl snapshot save", "--skip-hash-check"],
    )
    .await;
    let flags = ["--wal-dir", text(&wal)];
    is_refused(&data_dir(&server), &flags, &["what is behind would be lost"]).await;
    server.restart().await;
    let client = server.client().await;
    server.stop().await;
    let restored = jetway_restored(&data_dir(&server), &flags).await;
    server.restart().await;
    same_history(&client, &restored.client().await, 1, true).await;
}

/// etcd makes its directories readable for its own user alone.
#[tokio::test]
async fn a_data_directory_that_may_not_be_read_is_no_empty_one() {
    let folder = TempDir::new().unwrap();
    let member = folder.path().join("member");
    std::fs::create_dir_all(member.join("snap")).unwrap();
    std::fs::set_permissions(&member, Permissions::from_mode(0o000)).unwrap();
    let may_read_all = std::fs::read_dir(&member).is_ok();
    if may_read_all {
        println!("skipped: this user may read everything");
    } else {
        is_refused(folder.path(), &[], &["member/snap/db: Permission denied"]).await;
    }
    std::fs::set_permissions(&member, Permissions::from_mode(0o700)).unwrap();
}

/// The newest file of etcd's that describes a snapshot of Raft. Its name is a term and an index.
fn newest_snapshot(snap: &Path) -> Option<(PathBuf, u64)> {
    let mut files: Vec<_> = std::fs::read_dir(snap).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension() == Some(OsStr::new("snap")));
    let newest = files.into_iter().max()?;
    let index = newest.file_stem()?.to_str()?.split_once('-')?.1.to_owned();
    Some((newest, u64::from_str_radix(&index, 16).unwrap()))
}

/// A member of etcd's that was killed after it had stored the database of another one, and before that was in
/// its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_to_be_replaced_is_refused_with_the_remedy() {
    let flags = ["--snapshot-count", "50", "--snapshot-catchup-entries", "10"];
    let mut etcds = Cluster::prepare_as(Target::Etcd, 3, "http", &flags);
    etcds.start_all().await;
    let client = etcds.members[0].client().await;
    for number in 0..10 {
        client.put(format!("old/{number}"), "v").await;
    }
    etcds.members[2].stop().await;
    let snap = data_dir(&etcds.members[2]).join("member/snap");
    let old = std::fs::read(snap.join("db")).unwrap();
    assert!(newest_snapshot(&snap).is_none());
    for number in 0..200 {
        client.put(format!("new/{number}"), "v").await;
    }
    let last = client.revision().await;
    etcds.members[2].restart().await;
    let lagging = etcds.members[2].client().await;
    eventually("the member to catch up", async || (lagging.revision().await == last).then_some(())).await;
    let (_, index) = newest_snapshot(&snap).expect("it has received a snapshot");
    etcds.members[2].stop().await;
    let received = snap.join(format!("{index:016x}.snap.db"));
    std::fs::rename(snap.join("db"), &received).unwrap();
    std::fs::write(snap.join("db"), old).unwrap();

    let data = data_dir(&etcds.members[2]);
    let remedy = format!("Start this etcd once, which puts {} in its place", text(&received));
    is_refused(&data, &[], &["what is behind would be lost", &remedy]).await;
    let elsewhere = snap.join("elsewhere");
    std::fs::rename(&received, &elsewhere).unwrap();
    is_refused(&data, &[], &["The later one is not there", "restore another member, or a backup"]).await;
    std::fs::rename(&elsewhere, &received).unwrap();
    // The remedy.
    etcds.members[2].restart().await;
    let saved = Saved::of(&etcds.members[2].client().await).await;
    let restored = saved.restored_by_jetway(&[]).await;
    assert_eq!(keys(&restored.client().await, 0).await.count, 210);
    // A snapshot of its own is nothing that is to come.
    etcds.members[2].stop().await;
    let restored = jetway_restored(&data, &[]).await;
    assert_eq!(keys(&restored.client().await, 0).await.count, 210);
}
