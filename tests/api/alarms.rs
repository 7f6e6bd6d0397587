//! Calls that alarms refuse, and calls that they do not. `maintenance` shows how alarms are activated and
//! deactivated.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::eventually;
use support::lease::KeepAlive;
use support::server::Server;
use support::watch::{WatchStream, watch_all};

const CORRUPT: &str = "etcdserver: corrupt cluster";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn alarm(client: &Client, action: AlarmAction, kind: AlarmType) -> Vec<AlarmMember> {
    let request = AlarmRequest { action: action.into(), member_id: 7, alarm: kind.into() };
    client.alarm(request).await.unwrap().alarms
}

fn get_txn() -> TxnRequest {
    run(vec![op(get("a"))])
}

/// ALM-7, CMP-10
#[tokio::test]
async fn the_corrupt_alarm_refuses_every_write_and_no_read() {
    let server = Server::start().await;
    let client = server.client().await;
    client.lease_grant(1, 600).await.unwrap();
    client.lease_grant(2, 2).await.unwrap();
    client.put_request(PutRequest { lease: 2, ..put("a", "1") }).await.unwrap();
    let mut watch = WatchStream::open(&client);
    watch.watch(watch_all("")).await;
    alarm(&client, AlarmAction::Activate, AlarmType::Corrupt).await;

    refused(client.put_request(put("a", "2")).await, Code::DataLoss, CORRUPT);
    // The state of the store is not asked before the alarm is.
    let leased = PutRequest { lease: 99, ..put("a", "2") };
    refused(client.put_request(leased).await, Code::DataLoss, CORRUPT);
    refused(client.put_request(put("", "2")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    refused(client.delete_range(delete("a")).await, Code::DataLoss, CORRUPT);
    refused(client.delete_range(delete("nothing")).await, Code::DataLoss, CORRUPT);
    refused(client.txn(run(vec![op(delete("nothing"))])).await, Code::DataLoss, CORRUPT);
    let not_taken = TxnRequest { failure: vec![op(put("a", "2"))], ..get_txn() };
    refused(client.txn(not_taken).await, Code::DataLoss, CORRUPT);
    refused(client.compact(2).await, Code::DataLoss, CORRUPT);
    refused(client.compact(99).await, Code::DataLoss, CORRUPT);
    refused(client.lease_grant(3, 600).await, Code::DataLoss, CORRUPT);
    refused(client.lease_revoke(1).await, Code::DataLoss, CORRUPT);
    refused(client.lease_revoke(99).await, Code::DataLoss, CORRUPT);

    assert_eq!(client.kv("a").await.unwrap().value, "1");
    assert_eq!(client.txn(get_txn()).await.unwrap().responses.len(), 1);
    client.txn(TxnRequest::default()).await.unwrap();
    assert_eq!(KeepAlive::open(&client).renew(1).await.ttl, 600);
    assert_eq!(client.leases().await.unwrap().leases.len(), 2);
    let mut late = WatchStream::open(&client);
    late.watch(WatchCreateRequest { start_revision: 2, ..watch_all("") }).await;
    assert_eq!(late.events(1).await.len(), 1);
    assert_eq!(client.status().await.unwrap().errors.len(), 1);
    client.defragment().await.unwrap();

    // The end of a lease is a write too: it waits for the alarm to go.
    let overdue = async || client.lease_time_to_live(2, false).await.ok().filter(|lease| lease.ttl < -1);
    eventually("the lease to be overdue", overdue).await;
    assert!(client.kv("a").await.is_some());
    let lowered = alarm(&client, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    assert_eq!(lowered, [AlarmMember { member_id: 7, alarm: AlarmType::Corrupt.into() }]);
    client.put("b", "2").await;
    eventually("the key to go with its lease", async || client.kv("a").await.is_none().then_some(())).await;
}

/// ALM-7: calls that were on their way when the alarm was raised are no exception.
#[tokio::test]
async fn nothing_is_written_behind_the_corrupt_alarm() {
    const ROUNDS: usize = 20;
    const CLIENTS: usize = 16;
    let server = Server::start().await;
    let client = server.client().await;
    for round in 0..ROUNDS {
        let until_refused = |number: usize| {
            let client = client.clone();
            async move {
                for write in 0.. {
                    if let Err(refusal) =
                        client.put_request(put(format!("{number}"), format!("{write}"))).await
                    {
                        return refusal;
                    }
                }
                unreachable!("it has no end")
            }
        };
        let begun = client.revision().await;
        let clients = tokio::spawn(futures_util::future::join_all((0..CLIENTS).map(until_refused)));
        let some_are_written = async || (client.revision().await > begun + 20).then_some(());
        eventually("some writes", some_are_written).await;
        let request = AlarmRequest {
            action: AlarmAction::Activate.into(),
            member_id: 7,
            alarm: AlarmType::Corrupt.into(),
        };
        let raised = revision(&client.alarm(request).await.unwrap().header);
        for refusal in clients.await.unwrap() {
            assert_eq!((refusal.code(), refusal.message()), (Code::DataLoss, CORRUPT));
        }
        assert_eq!(client.revision().await, raised, "in round {round}");
        alarm(&client, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    }
}

/// ALM-5, ALM-7: with both alarms there is corruption first.
#[tokio::test]
async fn the_corrupt_alarm_is_reported_before_the_nospace_alarm() {
    let server = Server::start().await;
    let client = server.client().await;
    for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
        alarm(&client, AlarmAction::Activate, kind).await;
    }
    refused(client.put_request(put("a", "2")).await, Code::DataLoss, CORRUPT);
    alarm(&client, AlarmAction::Deactivate, AlarmType::Corrupt).await;
    refused(client.put_request(put("a", "2")).await, Code::ResourceExhausted, NO_SPACE);
    client.delete("a").await;
}

/// ALM-5: nothing is looked at before the room is.
#[tokio::test]
async fn the_nospace_alarm_is_checked_before_the_request() {
    let server = Server::start_with(&["--quota-backend-bytes", "1000000"]).await;
    let client = server.client().await;
    let alarms = async || client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    // Too large for the quota, and without a key.
    let refusal = client.put_request(put("", vec![0; 1_100_000])).await;
    refused(refusal, Code::ResourceExhausted, NO_SPACE);
    assert_eq!(alarms().await.len(), 1);
    refused(client.put_request(put("", "x")).await, Code::InvalidArgument, "etcdserver: key is not provided");
    refused(client.put_request(put("a", "x")).await, Code::ResourceExhausted, NO_SPACE);
}

/// ALM-4
#[tokio::test]
async fn alarms_survive_a_restart() {
    let mut server = Server::start().await;
    let client = server.client().await;
    for kind in [AlarmType::Nospace, AlarmType::Corrupt] {
        alarm(&client, AlarmAction::Activate, kind).await;
    }
    server.kill9();
    server.restart().await;
    let client = server.client().await;
    let raised = client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    let of = |kind: AlarmType| AlarmMember { member_id: 7, alarm: kind.into() };
    assert_eq!(raised, [of(AlarmType::Nospace), of(AlarmType::Corrupt)]);
    refused(client.put_request(put("a", "2")).await, Code::DataLoss, CORRUPT);
}
