//! `jetway restore --to-revision`, beside what the source serves at each revision.

use std::process::Command;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use jetway::proto::etcdserverpb::*;
use support::client::*;
use support::server::{Server, Target, jetway};
use support::snapshot::{QUICK, Saved, jetway_restored, runs, same_history_to, text};

use crate::refusals::is_refused;

/// Random writes by puts, deletes and transactions, with compactions. Returns the floor.
async fn random_history(client: &Client, random: &mut StdRng) -> i64 {
    let mut floor = -1;
    for round in 0..3 {
        for _ in 0..40 {
            let key = format!("k/{}", random.random_range(0..12));
            let value = vec![b'v'; [0, 1, 30, 9000][random.random_range(0..4)]];
            match random.random_range(0..10) {
                0..6 => drop(client.put(key, value).await),
                6 => drop(client.delete(key).await),
                7 => drop(client.delete_range(delete_all("k/1")).await.unwrap()),
                _ => {
                    let others = (20..23).map(|other| op(put(format!("k/{other}"), &value)));
                    client.txn(run(others.chain([op(delete(key))]).collect())).await.unwrap();
                }
            }
        }
        if round == 1 {
            floor = client.revision().await - 20;
            client.compact_request(CompactionRequest { revision: floor, physical: true }).await.unwrap();
        }
    }
    floor
}

/// Each tenth revision of a snapshot is restored with all history before it.
async fn is_restored_to_any_revision(source: Target) {
    let seed =
        std::env::var("JETWAY_SNAPSHOT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("JETWAY_SNAPSHOT_SEED={seed}");
    let server = Server::launch(source, &QUICK).await;
    let client = server.client().await;
    let floor = random_history(&client, &mut StdRng::seed_from_u64(seed)).await;
    let saved = Saved::of(&client).await;
    let end = client.revision().await;
    let tens = (floor..end).step_by(10).chain([end]);
    for revision in tens {
        let restored = saved.restored_by_jetway(&["--to-revision", &revision.to_string()]).await;
        same_history_to(&client, &restored.client().await, floor, revision).await;
        // The store goes on behind that revision, and all tools of etcd's take it.
        assert_eq!(restored.client().await.put("next", "1").await, revision + 1);
        Saved::of(&restored.client().await).await.status().await;
    }
    let path = saved.path();
    let (before, behind) = ((floor - 1).to_string(), (end + 1).to_string());
    let compacted = format!("is compacted to revision {floor}, and --to-revision {before} is before that");
    is_refused(&path, &["--to-revision", &before], &[&compacted, "restore an earlier snapshot"]).await;
    let ended = format!("ends at revision {end}, and --to-revision {behind} is behind that");
    is_refused(&path, &["--to-revision", &behind], &[&ended, "restore a later snapshot"]).await;
    is_refused(&path, &["--to-revision", "0"], &["--to-revision", "0 is not in 1.."]).await;
    is_refused(&path, &["--to-revision", "-1"], &["--to-revision", "-1 is not in 1.."]).await;
}

#[tokio::test]
async fn a_snapshot_of_etcd_is_restored_to_any_revision() {
    is_restored_to_any_revision(Target::Etcd).await;
}

#[tokio::test]
async fn a_snapshot_of_jetway_is_restored_to_any_revision() {
    is_restored_to_any_revision(Target::Jetway).await;
}

/// etcdutl restores what a jetway saves of an earlier revision.
#[tokio::test]
async fn a_jetway_saves_any_revision_for_etcd() {
    let server = Server::launch(Target::Jetway, &QUICK).await;
    let client = server.client().await;
    let floor = random_history(&client, &mut StdRng::seed_from_u64(rand::random())).await;
    client.lease_grant(7, 600).await.unwrap();
    client.put_request(PutRequest { lease: 7, ..put("leased", "v") }).await.unwrap();
    let leased = client.revision().await;
    client.lease_revoke(7).await.unwrap();
    let end = client.revision().await;
    for revision in (floor..leased).step_by(10).chain([leased, end]) {
        let saved = Saved::nowhere();
        save(&server, &saved, revision).await.unwrap();
        let etcd = saved.restored().await;
        same_history_to(&client, &etcd.client().await, floor, revision).await;
        let granted = etcd.client().await.lease_time_to_live(7, false).await.unwrap().granted_ttl;
        assert_eq!(granted, if revision == leased { 60 } else { 0 }, "at {revision}");
    }
    let saved = Saved::nowhere();
    for (revision, word) in [(floor - 1, "has been compacted"), (end + 1, "is a future revision")] {
        let refusal = save(&server, &saved, revision).await.unwrap_err();
        assert!(refusal.contains(word), "{refusal}");
    }
    let etcd = Server::launch(Target::Etcd, &QUICK).await;
    let refusal = save(&etcd, &saved, 1).await.unwrap_err();
    assert!(refusal.contains("--revision 1") && refusal.contains("--to-revision 1"), "{refusal}");
    assert!(!saved.path().exists());
}

/// `jetway snapshot save --revision`; the error is its output.
async fn save(server: &Server, saved: &Saved, revision: i64) -> Result<(), String> {
    let (path, endpoint, revision) = (saved.path(), server.endpoint(), revision.to_string());
    let args = ["snapshot", "save", text(&path), "--endpoints", &endpoint, "--revision", &revision];
    let mut command = Command::new(jetway());
    command.args(args);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    if output.status.success() { Ok(()) } else { Err(told) }
}

/// Leases that live on stay, and those that have ended are granted again.
#[tokio::test]
async fn leases_that_have_ended_are_granted_again() {
    let server = Server::launch(Target::Etcd, &QUICK).await;
    let client = server.client().await;
    for (id, ttl) in [(1, 600), (2, 6000), (3, 600)] {
        client.lease_grant(id, ttl).await.unwrap();
        for key in ["a", "b"] {
            let key = format!("{id}/{key}");
            client.put_request(PutRequest { lease: id, ..put(&key, "v") }).await.unwrap();
        }
    }
    // Its keys have left the lease before it ends.
    client.put("3/a", "free").await;
    client.delete("3/b").await;
    let to = client.revision().await;
    client.lease_revoke(1).await.unwrap();
    client.lease_revoke(3).await.unwrap();
    let saved = Saved::of(&client).await;
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    let to_revision = to.to_string();
    let path = saved.path();
    let args = ["restore", text(&path), "--to-revision", &to_revision, "--data-dir", text(&data)];
    let report = runs(jetway(), &args).await;
    assert!(report.contains("5 keys in 8 versions and 2 leases"), "{report}");
    assert!(report.contains("1 of the leases had ended since, and are granted again for 60 s"), "{report}");
    let restored = jetway_restored(&path, &["--to-revision", &to_revision]).await;
    let restored = restored.client().await;
    same_history_to(&client, &restored, -1, to).await;
    let granted = restored.lease_time_to_live(1, true).await.unwrap();
    assert_eq!(
        (granted.granted_ttl, granted.keys),
        (60, vec![b"1/a".to_vec().into(), b"1/b".to_vec().into()])
    );
    assert_eq!(restored.lease_time_to_live(2, true).await.unwrap().granted_ttl, 6000);
    assert_eq!(restored.lease_time_to_live(3, true).await.unwrap().ttl, -1);
}

/// Clients that have seen later revisions are led past them.
#[tokio::test]
async fn a_bump_goes_with_an_earlier_revision() {
    let server = Server::launch(Target::Etcd, &QUICK).await;
    let client = server.client().await;
    for value in 0..10 {
        client.put("a", format!("{value}")).await;
    }
    let flags = ["--to-revision", "5", "--bump-revision", "1000", "--mark-compacted"];
    let restored = Saved::of(&client).await.restored_by_jetway(&flags).await;
    let restored = restored.client().await;
    assert_eq!(restored.revision().await, 1005);
    let a = restored.range(get("a")).await.unwrap().kvs.remove(0);
    assert_eq!((&a.value[..], a.mod_revision, a.version), (&b"3"[..], 5, 4));
}
