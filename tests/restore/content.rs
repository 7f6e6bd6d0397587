//! Everything that a file holds is there after a restore, as it is in an etcd that restores the same file.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use support::client::*;
use support::contents::{fill, fill_auth};
use support::server::{Server, Target};
use support::snapshot::{QUICK, Saved, same_history};

/// Both have the same leases, users, roles and alarms.
async fn same_tables(ours: &Client, theirs: &Client) {
    let alarms = async |client: &Client| client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    assert_eq!(alarms(ours).await, alarms(theirs).await);
    let ids = async |client: &Client| {
        let mut ids: Vec<i64> = client.leases().await.unwrap().leases.iter().map(|lease| lease.id).collect();
        ids.sort_unstable();
        ids
    };
    assert_eq!(ids(ours).await, ids(theirs).await);
    for id in ids(ours).await {
        let lease = async |client: &Client| client.lease_time_to_live(id, true).await.unwrap();
        let (a, b) = (lease(ours).await, lease(theirs).await);
        assert_eq!((a.granted_ttl, &a.keys), (b.granted_ttl, &b.keys), "lease {id}");
        assert!((1..=a.granted_ttl).contains(&a.ttl), "lease {id} has {} s left", a.ttl);
    }
    let auth = async |client: &Client| {
        let status = client.auth_status().await.unwrap();
        (status.enabled, status.auth_revision)
    };
    assert_eq!(auth(ours).await, auth(theirs).await);
    let users = theirs.user_list().await.unwrap().users;
    assert_eq!(ours.user_list().await.unwrap().users, users);
    let roles = theirs.role_list().await.unwrap().roles;
    assert_eq!(ours.role_list().await.unwrap().roles, roles);
    for role in roles.iter().filter(|role| *role != "root") {
        assert_eq!(
            ours.role_get(role).await.unwrap().perm,
            theirs.role_get(role).await.unwrap().perm,
            "{role}"
        );
    }
}

/// A snapshot of `source` has the same content in an etcd and in a jetway.
async fn both_restore_all_of(source: Target) {
    let server = Server::launch(source, &QUICK).await;
    let client = server.client().await;
    let floor = fill(&client).await;
    let saved = Saved::of(&client).await;
    let (etcd, jetway) = tokio::join!(saved.restored(), saved.restored_by_jetway(&[]));
    let (theirs, ours) = (etcd.client().await, jetway.client().await);
    same_history(&theirs, &ours, floor, true).await;
    same_tables(&ours, &theirs).await;
    let is_compacted = async |client: &Client| {
        let request = RangeRequest { revision: floor - 1, ..get("b") };
        client.range(request).await.unwrap_err().message().to_owned()
    };
    assert_eq!(is_compacted(&ours).await, is_compacted(&theirs).await);
    // Both go on alike.
    for client in [&ours, &theirs] {
        client.put("b", "2").await;
        client.delete("t/3").await;
        let now = client.revision().await;
        client.compact_request(CompactionRequest { revision: now - 1, physical: true }).await.unwrap();
        client.put("t/1", "3").await;
    }
    same_history(&theirs, &ours, ours.revision().await - 2, true).await;
    // The restored store is one that outlives a start, and that jetway saves again.
    let mut jetway = jetway;
    jetway.kill9();
    jetway.restart().await;
    let again = Saved::of(&jetway.client().await).await.restored_by_jetway(&[]).await;
    same_history(&jetway.client().await, &again.client().await, ours.revision().await - 2, true).await;
}

#[tokio::test]
async fn a_snapshot_of_etcd_has_all_its_content() {
    both_restore_all_of(Target::Etcd).await;
}

#[tokio::test]
async fn a_snapshot_of_jetway_has_all_its_content() {
    both_restore_all_of(Target::Jetway).await;
}

#[tokio::test]
async fn users_and_alarms_are_in_force_after_a_restore() {
    let server = Server::launch(Target::Etcd, &QUICK).await;
    let client = server.client().await;
    let floor = fill(&client).await;
    let root = fill_auth(&client).await;
    let kind = AlarmType::Nospace.into();
    let alarm = AlarmRequest { action: AlarmAction::Activate.into(), member_id: 12, alarm: kind };
    root.alarm(alarm).await.unwrap();
    let saved = Saved::of(&root).await;
    let (etcd, jetway) = tokio::join!(saved.restored(), saved.restored_by_jetway(&[]));
    let theirs = etcd.client().await.login("root", "root").await;
    let ours = jetway.client().await.login("root", "root").await;
    same_tables(&ours, &theirs).await;
    assert_eq!(ours.put_request(put("b", "x")).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), ..alarm };
    for client in [&ours, &theirs] {
        client.alarm(disarm).await.unwrap();
    }
    same_history(&theirs, &ours, floor, true).await;
    let bob = jetway.client().await.login("bob", "secret").await;
    bob.put("b", "by bob").await;
    assert_eq!(bob.put_request(put("z", "by bob")).await.unwrap_err().code(), tonic::Code::PermissionDenied);
    assert!(jetway.client().await.put_request(put("b", "by nobody")).await.is_err());
    assert!(jetway.client().await.authenticate("certified", "").await.is_err());
}

#[tokio::test]
async fn an_empty_store_is_restored() {
    for source in [Target::Etcd, Target::Jetway] {
        let server = Server::launch(source, &[]).await;
        let jetway = Saved::of(&server.client().await).await.restored_by_jetway(&[]).await;
        let client = jetway.client().await;
        assert_eq!(client.revision().await, 1);
        assert_eq!(client.put("a", "1").await, 2);
    }
}

/// Random puts, deletes, transactions and compactions.
#[tokio::test]
async fn a_random_history_of_etcd_has_the_same_hashes() {
    const KEYS: [&[u8]; 9] = [b"\0", b"\0\0", b"a", b"a\0", b"b", b"b/c", b"b\xff", b"\xff", b"\xff\xff"];
    let seed =
        std::env::var("JETWAY_SNAPSHOT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("JETWAY_SNAPSHOT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::launch(Target::Etcd, &[]).await;
    let client = server.client().await;
    let mut floor = -1;
    client.lease_grant(5, 6000).await.unwrap();
    for round in 0..4 {
        for _ in 0..40 {
            let key = KEYS[random.random_range(0..KEYS.len())];
            let value = vec![b'v'; [0, 1, 30, 3000, 9000][random.random_range(0..5)]];
            match random.random_range(0..10) {
                0..5 => drop(client.put(key, value).await),
                5 => drop(client.put_request(PutRequest { lease: 5, ..put(key, value) }).await.unwrap()),
                6 => drop(client.delete(key).await),
                7 | 8 => {
                    let others = KEYS.iter().filter(|other| **other != key);
                    let puts = others.map(|other| op(put(*other, &value)));
                    let puts = puts.take(random.random_range(0..4)).chain([op(delete(key))]).collect();
                    client.txn(run(puts)).await.unwrap();
                }
                _ => drop(client.delete_range(delete_all("b")).await.unwrap()),
            }
        }
        // The last round compacts everything, the first one nothing.
        let now = client.revision().await;
        if round > 0 {
            floor = if round == 3 { now } else { random.random_range(floor.max(1) + 1..=now) };
            client.compact_request(CompactionRequest { revision: floor, physical: true }).await.unwrap();
        }
        let saved = Saved::of(&client).await;
        let (etcd, jetway) = tokio::join!(saved.restored(), saved.restored_by_jetway(&[]));
        same_history(&etcd.client().await, &jetway.client().await, floor, true).await;
    }
}
