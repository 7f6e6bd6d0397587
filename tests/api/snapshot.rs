//! Snapshots: taken by etcd's clients, checked and restored by etcdutl, and served by an etcd.
//!
//! `JETWAY_SNAPSHOT_SEED` repeats the random history, whose seed is printed.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use support::client::*;
use support::contents::{ROLES, fill, fill_auth};
use support::server::{Server, peer};
use support::snapshot::{QUICK, Saved, etcdutls, hash_kv, keys, messages, runs, same_history, text};

const CHECKSUM: usize = 32;

async fn etcdctl(server: &Server, args: &[&str]) -> String {
    let endpoint = format!("--endpoints={}", server.endpoint());
    runs(peer("JETWAY_TEST_ETCDCTL", "etcdctl"), &[&[&endpoint[..]], args].concat()).await
}

/// MNT-5, HDR-4
#[tokio::test]
async fn a_snapshot_comes_in_blobs_with_their_checksum_behind() {
    const BLOB: usize = 32 * 1024;
    let server = Server::start().await;
    let client = server.client().await;
    client.put("large", vec![b'v'; 300_000]).await;
    let messages = messages(&client).await;
    let (checksum, blobs) = messages.split_last().unwrap();
    let size: usize = blobs.iter().map(|message| message.blob.len()).sum();
    assert!(size > 300_000 && size.is_multiple_of(4096), "{size}");
    let mut left = size;
    for (number, message) in blobs.iter().enumerate() {
        let is_last = number + 1 == blobs.len();
        assert!(message.blob.len() == BLOB || is_last && message.blob.len() < BLOB, "blob {number}");
        left -= message.blob.len();
        assert_eq!(message.remaining_bytes, left as u64);
    }
    let content: Vec<u8> = blobs.iter().flat_map(|message| message.blob.clone()).collect();
    assert_eq!(checksum.blob, ring::digest::digest(&ring::digest::SHA256, &content).as_ref());
    assert_eq!((checksum.blob.len(), checksum.remaining_bytes), (CHECKSUM, 0));
    assert!(messages.iter().all(|message| message.header.is_none() && message.version == "3.7.0"));
}

/// MNT-5
#[tokio::test]
async fn etcdctl_saves_what_etcdutl_restores_and_an_etcd_serves() {
    let server = Server::start_with(&QUICK).await;
    let client = server.client().await;
    let floor = fill(&client).await;
    let root = fill_auth(&client).await;
    let kind = AlarmType::Nospace.into();
    let alarm = AlarmRequest { action: AlarmAction::Activate.into(), member_id: 12, alarm: kind };
    root.alarm(alarm).await.unwrap();

    let saved = Saved::nowhere();
    let path = saved.path();
    // The root's password is the one that `enable` gives.
    etcdctl(&server, &["--user", "root:root", "snapshot", "save", text(&path)]).await;
    let now = root.revision().await;
    let status = saved.status().await;
    assert_eq!((&status["revision"], &status["version"]), (&now.into(), &"3.7.0".into()));
    assert_eq!(status["totalKey"], keys(&root, 0).await.count);
    let hash = hash_kv(&root, now).await;
    assert_eq!(saved.hash_kv().await, format!("{}, {now}, {floor}", hash.hash));

    let restored = saved.restored().await;
    let theirs = restored.client().await.login("root", "root").await;
    assert_eq!(
        theirs.auth_status().await.unwrap().auth_revision,
        root.auth_status().await.unwrap().auth_revision
    );
    assert_eq!(
        theirs.alarm(AlarmRequest::default()).await.unwrap().alarms,
        root.alarm(AlarmRequest::default()).await.unwrap().alarms
    );
    let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), ..alarm };
    for client in [&root, &theirs] {
        client.alarm(disarm).await.unwrap();
    }
    same_history(&root, &theirs, floor, false).await;
    for id in [7, 0x7000_0000_0000_0001] {
        let (ours, theirs) =
            (root.lease_time_to_live(id, true).await, theirs.lease_time_to_live(id, true).await);
        let (ours, theirs) = (ours.unwrap(), theirs.unwrap());
        assert_eq!((ours.granted_ttl, ours.keys), (theirs.granted_ttl, theirs.keys));
        assert!(theirs.ttl > 0, "{}", theirs.ttl);
    }
    assert_eq!(theirs.leases().await.unwrap().leases.len(), 2);
    assert_eq!(theirs.user_list().await.unwrap().users, root.user_list().await.unwrap().users);
    assert_eq!(theirs.role_list().await.unwrap().roles, root.role_list().await.unwrap().roles);
    for (role, ..) in ROLES {
        let (ours, theirs) = (root.role_get(role).await.unwrap(), theirs.role_get(role).await.unwrap());
        assert_eq!(ours.perm, theirs.perm, "{role}");
    }
    let bob = restored.client().await.login("bob", "secret").await;
    bob.put("b", "by bob").await;
    assert!(bob.put_request(put("z", "by bob")).await.is_err());
    assert!(restored.client().await.authenticate("certified", "").await.is_err());
    // A snapshot by a user who is not root is refused, as each other call of its kind.
    let stream: Answer<tonic::Streaming<SnapshotResponse>> = server
        .client()
        .await
        .login("bob", "secret")
        .await
        .server_stream("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest {})
        .await;
    let refusal = match stream {
        Ok(mut stream) => stream.message().await.unwrap_err(),
        Err(status) => status,
    };
    assert_eq!(refusal.code(), tonic::Code::PermissionDenied);
}

/// Trees of three levels, whose pages an etcd then merges and empties.
#[tokio::test]
async fn a_snapshot_of_many_keys_can_be_written_to_after_its_restore() {
    const KEYS: usize = 20_000;
    let server = Server::start().await;
    let client = server.client().await;
    for chunk in (0..KEYS).collect::<Vec<_>>().chunks(100) {
        let puts = chunk.iter().map(|number| op(put(format!("k/{number:05}"), format!("{number}"))));
        client.txn(run(puts.collect())).await.unwrap();
    }
    let saved = Saved::of(&client).await;
    assert_eq!(saved.status().await["totalKey"], KEYS);
    let restored = saved.restored().await;
    let theirs = restored.client().await;
    assert_eq!(keys(&theirs, 0).await.kvs, keys(&client, 0).await.kvs);
    theirs.delete_range(delete_all("k/1")).await.unwrap();
    let now = theirs.revision().await;
    theirs.compact_request(CompactionRequest { revision: now, physical: true }).await.unwrap();
    theirs.defragment().await.unwrap();
    assert_eq!(theirs.range(all("k/")).await.unwrap().count, KEYS as i64 / 2);
    let again = Saved::of(&theirs).await;
    assert_eq!(again.status().await["totalKey"], KEYS / 2);
}

/// The state of a snapshot is that of one revision, and the writes go on meanwhile.
#[tokio::test]
async fn a_snapshot_under_writes_is_of_one_revision() {
    let server = Server::start().await;
    let client = server.client().await;
    for number in 0..200 {
        client.put(format!("filler/{number}"), vec![b'f'; 20_000]).await;
    }
    let writer = server.client().await;
    let writing = async {
        for number in 0.. {
            let value = format!("{number}");
            writer.txn(run(vec![op(put("left", &value)), op(put("right", &value))])).await.unwrap();
        }
    };
    let saving = async {
        // Some writes come before each snapshot, and some while it is sent.
        let mut saved = Vec::new();
        for _ in 0..3 {
            let before = client.revision().await;
            support::eventually("writes to go on", async || {
                (client.revision().await > before + 5).then_some(())
            })
            .await;
            saved.push(Saved::of(&client).await);
        }
        saved
    };
    let saved = tokio::select! {
        () = writing => unreachable!("it has no end"),
        saved = saving => saved,
    };
    let mut last = 0;
    for saved in saved {
        let revision = saved.status().await["revision"].as_i64().unwrap();
        assert!(revision > last);
        last = revision;
        let hash = hash_kv(&client, revision).await.hash;
        assert_eq!(saved.hash_kv().await, format!("{hash}, {revision}, -1"));
    }
}

/// Random puts, deletes, transactions and compactions.
#[tokio::test]
async fn a_restored_random_history_has_the_same_hashes() {
    const KEYS: [&[u8]; 9] = [b"\0", b"\0\0", b"a", b"a\0", b"b", b"b/c", b"b\xff", b"\xff", b"\xff\xff"];
    let seed =
        std::env::var("JETWAY_SNAPSHOT_SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("JETWAY_SNAPSHOT_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut server = Server::start().await;
    let mut client = server.client().await;
    let mut floor = -1;
    client.lease_grant(5, 6000).await.unwrap();
    for round in 0..4 {
        for _ in 0..40 {
            let key = KEYS[random.random_range(0..KEYS.len())];
            let value = vec![b'v'; [0, 1, 30, 3000, 9000][random.random_range(0..5)]];
            match random.random_range(0..10) {
                0..5 => drop(client.put(key, value).await),
                5 => drop(client.put_request(PutRequest { lease: 5, ..put(key, value) }).await.unwrap()),
                6 | 7 => drop(client.delete(key).await),
                8 => {
                    let other = KEYS.iter().find(|other| **other != key).unwrap();
                    client.txn(run(vec![op(put(key, value)), op(delete(other))])).await.unwrap();
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
        let restored = Saved::of(&client).await.restored().await;
        same_history(&client, &restored.client().await, floor, false).await;
    }
    // No server remembers now the hash of the compaction.
    server.kill9();
    server.restart().await;
    client = server.client().await;
    let restored = Saved::of(&client).await.restored().await;
    same_history(&client, &restored.client().await, floor, true).await;
}

/// Leases, deletes, keys of odd bytes and a floor, by the tools of three minor versions.
#[tokio::test]
async fn each_etcdutl_takes_the_file_and_an_etcd_serves_it() {
    let server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(7, 600).await.unwrap();
    for number in 0..300 {
        client.put(format!("key/{number}"), vec![b'v'; number * 7]).await;
    }
    client.put("\0\u{ff}", "odd").await;
    let floor = client.delete_range(delete_all("key/1")).await.unwrap().header.unwrap().revision;
    client.compact_request(CompactionRequest { revision: floor, physical: true }).await.unwrap();
    client.delete("key/2").await;
    let hash = hash_kv(&client, 0).await;
    let hash = format!("{}, {}, {floor}", hash.hash, hash.hash_revision);
    let without_leases = Saved::of(&client).await;
    client.put_request(PutRequest { lease: 7, ..put("leased", "x") }).await.unwrap();
    let saved = Saved::of(&client).await;
    let (now, count) = (client.revision().await, keys(&client, 0).await.count);
    for (version, etcdutl) in etcdutls() {
        let run = async |args: &[&str]| runs(etcdutl.clone(), args).await;
        let status = run(&["snapshot", "status", text(&saved.path()), "-w", "json"]).await;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["revision"], now, "{version}");
        // 3.5 has no command for a hash, and counts the pairs of all buckets.
        if version != "3.5" {
            assert_eq!((&status["totalKey"], &status["version"]), (&count.into(), &"3.7.0".into()));
            // The hash of 3.6 ends with a panic at a key with a lease, in files of etcd's own, too.
            let copy = saved.path().with_extension("copy");
            std::fs::copy(without_leases.path(), &copy).unwrap();
            assert_eq!(run(&["hashkv", text(&copy)]).await.trim(), hash, "{version}");
        }
        let restored = saved.restored_by(&[etcdutl.clone(), etcdutl.clone()]).await;
        let theirs = restored.client().await;
        same_history(&client, &theirs, floor, false).await;
        assert_eq!(theirs.lease_time_to_live(7, true).await.unwrap().keys, ["leased"], "{version}");
    }
}

/// A client that is cut off gets an error, and never the checksum that would make its part a whole.
#[tokio::test]
async fn a_snapshot_that_is_cut_off_ends_with_an_error() {
    let server = Server::start().await;
    let client = server.client().await;
    for number in 0..40 {
        client.put(format!("key/{number}"), vec![b'v'; 100_000]).await;
    }
    for received in [1, 10, 60] {
        let proxy = support::proxy::Proxy::to(server.address(), 4_000_000).await;
        let mut narrow = etcd_client::Client::connect([&proxy.address], None).await.unwrap();
        let mut stream = narrow.snapshot().await.unwrap();
        let mut file = Vec::new();
        for _ in 0..received {
            file.extend_from_slice(stream.message().await.unwrap().unwrap().blob());
        }
        proxy.break_off();
        let error = loop {
            match stream.message().await {
                Ok(Some(message)) => file.extend_from_slice(message.blob()),
                Ok(None) => panic!("it has ended well after {} bytes", file.len()),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, etcd_client::Error::GRpcStatus(_)), "{error:?}");
        let (content, checksum) = file.split_at(file.len() - CHECKSUM);
        assert_ne!(ring::digest::digest(&ring::digest::SHA256, content).as_ref(), checksum);
    }
    // The server serves the next one.
    let saved = Saved::of(&client).await;
    assert_eq!(saved.status().await["totalKey"], 40);
}
