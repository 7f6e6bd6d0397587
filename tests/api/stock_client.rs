//! A client library as programs use it: etcd-client, over all services in one session each.

use etcd_client::*;

use support::keys::unique;
use support::server::Server;
use support::snapshot::Saved;
use support::within;

async fn connect() -> Client {
    let server = Server::shared().await;
    Client::connect([server.endpoint()], None).await.unwrap()
}

#[tokio::test]
async fn puts_gets_and_deletes() {
    let mut client = connect().await;
    let at = unique("stock");
    let key = |name: &str| format!("{at}{name}");
    for name in ["a", "b", "c"] {
        client.put(key(name), name, None).await.unwrap();
    }
    let previous = client.put(key("a"), "A", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(previous.prev_key().unwrap().value(), b"a");
    let options =
        GetOptions::new().with_prefix().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(2);
    let answer = client.get(at.clone(), Some(options)).await.unwrap();
    let values: Vec<_> = answer.kvs().iter().map(|kv| kv.value_str().unwrap()).collect();
    assert_eq!((values, answer.count(), answer.more()), (vec!["c", "b"], 3, true));
    let count =
        client.get(at.clone(), Some(GetOptions::new().with_prefix().with_count_only())).await.unwrap();
    assert_eq!(count.count(), 3);
    let options = DeleteOptions::new().with_prefix().with_prev_key();
    let deleted = client.delete(at, Some(options)).await.unwrap();
    assert_eq!((deleted.deleted(), deleted.prev_kvs().len()), (3, 3));
}

#[tokio::test]
async fn a_guarded_create_succeeds_once() {
    let mut client = connect().await;
    let key = unique("create");
    let create = || {
        Txn::new()
            .when([Compare::mod_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), "x", None)])
            .or_else([TxnOp::get(key.clone(), None)])
    };
    assert!(client.txn(create()).await.unwrap().succeeded());
    let second = client.txn(create()).await.unwrap();
    assert!(!second.succeeded());
    let Some(TxnOpResponse::Get(found)) = second.op_responses().into_iter().next() else {
        panic!("the failure branch answers with the pair");
    };
    assert_eq!(found.kvs()[0].value(), b"x");
}

#[tokio::test]
async fn a_watch_sees_puts_and_deletes_with_previous_values() {
    let mut client = connect().await;
    let at = unique("watch");
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch(at.clone(), Some(options)).await.unwrap();
    // The client does not wait for it.
    assert!(within("the watcher", stream.message()).await.unwrap().unwrap().created());
    client.put(format!("{at}a"), "1", None).await.unwrap();
    client.delete(format!("{at}a"), None).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 2 {
        let answer = within("events", stream.message()).await.unwrap().unwrap();
        events.extend(answer.events().iter().cloned());
    }
    assert_eq!(events[0].event_type(), EventType::Put);
    assert_eq!(events[0].kv().unwrap().value(), b"1");
    assert_eq!(events[1].event_type(), EventType::Delete);
    assert_eq!(events[1].prev_kv().unwrap().value(), b"1");
}

#[tokio::test]
async fn leases_are_granted_kept_alive_and_revoked() {
    let mut client = connect().await;
    let key = unique("lease");
    let lease = client.lease_grant(60, None).await.unwrap();
    client.put(key.clone(), "x", Some(PutOptions::new().with_lease(lease.id()))).await.unwrap();
    let (mut keeper, mut answers) = client.lease_keep_alive(lease.id()).await.unwrap();
    keeper.keep_alive().await.unwrap();
    let answer = within("a renewal", answers.message()).await.unwrap().unwrap();
    assert_eq!((answer.id(), answer.ttl()), (lease.id(), 60));
    let options = LeaseTimeToLiveOptions::new().with_keys();
    let left = client.lease_time_to_live(lease.id(), Some(options)).await.unwrap();
    assert_eq!((left.granted_ttl(), left.keys()), (60, &[key.clone().into_bytes()][..]));
    client.lease_revoke(lease.id()).await.unwrap();
    assert_eq!(client.get(key, None).await.unwrap().count(), 0);
}

#[tokio::test]
async fn maintenance_and_cluster_answer() {
    let mut client = connect().await;
    let status = client.status().await.unwrap();
    assert!(status.version().starts_with("3."));
    let members = client.member_list().await.unwrap();
    assert_eq!(members.members()[0].id(), status.leader());
    assert!(client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().is_empty());
}

#[tokio::test]
async fn errors_keep_their_code_and_text() {
    let mut client = connect().await;
    let Err(Error::GRpcStatus(status)) =
        client.get("a", Some(GetOptions::new().with_revision(i64::MAX))).await
    else {
        panic!("a future revision is an error");
    };
    assert_eq!(status.code(), tonic::Code::OutOfRange);
    assert_eq!(status.message(), "etcdserver: mvcc: required revision is a future revision");
}

/// MNT-5
#[tokio::test]
async fn a_snapshot_is_a_file_of_etcd_s() {
    let server = Server::start().await;
    let mut client = Client::connect([server.endpoint()], None).await.unwrap();
    for number in 0..30 {
        client.put(format!("key/{number}"), vec![b'v'; 10_000], None).await.unwrap();
    }
    let saved = Saved::nowhere();
    let mut stream = client.snapshot().await.unwrap();
    let (mut file, mut left) = (Vec::new(), Vec::new());
    while let Some(part) = within("a part", stream.message()).await.unwrap() {
        file.extend_from_slice(part.blob());
        left.push(part.remaining_bytes());
    }
    assert!(left.is_sorted_by(|a, b| a >= b) && left.ends_with(&[0, 0]), "{left:?}");
    std::fs::write(saved.path(), file).unwrap();
    assert_eq!(saved.status().await["totalKey"], 30);
    let now = client.get("key", None).await.unwrap().header().unwrap().revision();
    let hash = client.hash_kv(now).await.unwrap().hash();
    assert!(saved.hash_kv().await.starts_with(&format!("{hash}, {now}, ")));
}
