//! The Lock service.

use bytes::Bytes;
use jetway::proto::etcdserverpb::*;
use jetway::proto::v3lockpb::*;
use tokio::task::JoinHandle;
use tonic::Code;

use support::client::*;
use support::keys::{b, unique};
use support::server::Server;
use support::{eventually, within};

async fn lock(client: &Client, name: &str, lease: i64) -> Answer<LockResponse> {
    client.unary("/v3lockpb.Lock/Lock", LockRequest { name: b(name), lease }).await
}

async fn unlock(client: &Client, key: impl AsRef<[u8]>) -> Answer<UnlockResponse> {
    client.unary("/v3lockpb.Lock/Unlock", UnlockRequest { key: b(key) }).await
}

/// Asks for the lock in the background; returns when the server holds the key that stands in line.
async fn wait_in_line(client: &Client, name: &str, lease: i64) -> JoinHandle<Answer<LockResponse>> {
    let key = format!("{name}/{lease:x}");
    let waiting = tokio::spawn({
        let (client, name) = (client.clone(), name.to_owned());
        async move { lock(&client, &name, lease).await }
    });
    eventually("a key in line", async || client.kv(&key).await).await;
    waiting
}

/// LOCK-3
#[tokio::test]
async fn a_lock_is_a_key_named_by_the_lease() {
    let client = Server::shared().await.client().await;
    let name = unique("lock");
    client.lease_grant(0x1234, 600).await.unwrap();
    let first = lock(&client, &name, 0x1234).await.unwrap();
    assert_eq!(first.key, format!("{name}/1234"));
    let kv = client.kv(&first.key).await.unwrap();
    assert_eq!((&kv.value[..], kv.lease, kv.create_revision), (&b""[..], 0x1234, revision(&first.header)));
    // The same lease has the lock already.
    let again = lock(&client, &name, 0x1234).await.unwrap();
    assert_eq!(again.key, first.key);
    assert_eq!(client.kv(&first.key).await.unwrap(), kv);
    assert_ne!(first.header.unwrap().member_id, 0);

    client.lease_grant(-0x1f, 600).await.unwrap();
    let negative = lock(&client, &unique("lock"), -0x1f).await.unwrap();
    assert!(negative.key.ends_with(b"/-1f"), "{:?}", negative.key);
}

/// LOCK-2
#[tokio::test]
async fn without_a_lease_the_server_grants_one() {
    let client = Server::shared().await.client().await;
    let locked = lock(&client, &unique("lock"), 0).await.unwrap();
    let lease = client.kv(&locked.key).await.unwrap().lease;
    assert!(locked.key.ends_with(format!("/{lease:x}").as_bytes()));
    assert_eq!(client.lease_time_to_live(lease, false).await.unwrap().granted_ttl, 60);
    refused(
        lock(&client, &unique("lock"), 4711).await,
        Code::Unknown,
        "etcdserver: requested lease not found",
    );
}

/// LOCK-3, LOCK-5
#[tokio::test]
async fn the_longest_waiter_gets_the_lock_next() {
    let client = Server::shared().await.client().await;
    let name = unique("lock");
    for lease in 501..505 {
        client.lease_grant(lease, 600).await.unwrap();
    }
    let mut owner = lock(&client, &name, 501).await.unwrap();
    let mut line = Vec::new();
    for lease in 502..505 {
        line.push((lease, wait_in_line(&client, &name, lease).await));
    }
    for (lease, waiting) in line {
        let unlocked = unlock(&client, &owner.key).await.unwrap();
        owner = within("the lock", waiting).await.unwrap().unwrap();
        assert_eq!(owner.key, format!("{name}/{lease:x}"));
        assert!(revision(&owner.header) >= revision(&unlocked.header), "it was read after the unlock");
    }
    assert_eq!(client.list(&name).await, ["/1f8"]);
}

/// LOCK-4
#[tokio::test]
async fn a_cancelled_waiter_leaves_the_queue() {
    let client = Server::shared().await.client().await;
    let name = unique("lock");
    for lease in 511..514 {
        client.lease_grant(lease, 600).await.unwrap();
    }
    let owner = lock(&client, &name, 511).await.unwrap();
    let gives_up = wait_in_line(&client, &name, 512).await;
    let stays = wait_in_line(&client, &name, 513).await;
    gives_up.abort();
    let left = async || client.kv(format!("{name}/200")).await.is_none().then_some(());
    eventually("the key to go", left).await;
    unlock(&client, &owner.key).await.unwrap();
    within("the lock", stays).await.unwrap().unwrap();
}

/// LOCK-3
#[tokio::test]
async fn a_waiter_whose_lease_ends_gets_no_lock() {
    let client = Server::shared().await.client().await;
    let name = unique("lock");
    for lease in 521..524 {
        client.lease_grant(lease, 600).await.unwrap();
    }
    let owner = lock(&client, &name, 521).await.unwrap();
    let waiting = wait_in_line(&client, &name, 522).await;
    client.lease_revoke(522).await.unwrap();
    unlock(&client, &owner.key).await.unwrap();
    let answer = within("the answer", waiting).await.unwrap();
    refused(answer, Code::Unknown, "mutex: session is expired");
    // The end of the owner's lease frees the lock, too.
    lock(&client, &name, 521).await.unwrap();
    let next = wait_in_line(&client, &name, 523).await;
    client.lease_revoke(521).await.unwrap();
    within("the lock", next).await.unwrap().unwrap();
}

/// LOCK-1, LOCK-5
#[tokio::test]
async fn unlock_deletes_the_key_that_it_names() {
    let client = Server::shared().await.client().await;
    let key = unique("unlock");
    client.put(&key, "x").await;
    let unlocked = unlock(&client, &key).await.unwrap();
    assert_eq!(client.kv(&key).await, None);
    // Nothing is there now, which is no error.
    let again = unlock(&client, &key).await.unwrap();
    assert!(revision(&again.header) >= revision(&unlocked.header));
    refused(unlock(&client, "").await, Code::Unknown, "etcdserver: key is not provided");
}

/// LOCK-1: limits and alarms that refuse a write refuse a lock.
#[tokio::test]
async fn limits_and_alarms_hold_for_locks() {
    let server = Server::start_with(&["--max-request-bytes", "1000"]).await;
    let client = server.client().await;
    let answer: Answer<LockResponse> = client
        .unary("/v3lockpb.Lock/Lock", LockRequest { name: Bytes::from(vec![b'n'; 900]), lease: 0 })
        .await;
    refused(answer, Code::Unknown, "etcdserver: request is too large");
    let raise = AlarmRequest { action: 1, member_id: 1, alarm: AlarmType::Nospace.into() };
    client.alarm(raise).await.unwrap();
    refused(lock(&client, "x", 0).await, Code::Unknown, "etcdserver: mvcc: database space exceeded");
}
