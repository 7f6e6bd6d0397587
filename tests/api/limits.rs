//! Sizes.

use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;

const TOO_LARGE: &str = "etcdserver: request is too large";
const MAX_REQUEST: usize = 1536 * 1024;
const MAX_MESSAGE: usize = MAX_REQUEST + 512 * 1024;

/// LIM-1, LIM-13, PUT-10
#[tokio::test]
async fn a_write_of_up_to_one_and_a_half_mebibytes_is_accepted() {
    let client = Server::shared().await.client().await;
    let key = unique("large");
    // Room for what etcd adds to the request when it replicates it.
    let fits = vec![b'v'; MAX_REQUEST - 512];
    client.put(&key, &fits).await;
    assert_eq!(client.kv(&key).await.unwrap().value, fits);
    let too_large = vec![b'v'; MAX_REQUEST + 1];
    refused(client.put_request(put(&key, &too_large)).await, Code::InvalidArgument, TOO_LARGE);
    let halves = ["a", "b"].map(|name| op(put(format!("{key}{name}"), &too_large[..MAX_REQUEST / 2 + 1])));
    refused(client.txn(run(halves.to_vec())).await, Code::InvalidArgument, TOO_LARGE);
    assert_eq!(client.kv(&key).await.unwrap().version, 1);
}

/// LIM-2
#[tokio::test]
async fn a_message_above_two_mebibytes_is_refused_by_the_transport() {
    let client = Server::shared().await.client().await;
    let request = put("k", vec![b'v'; MAX_MESSAGE]);
    let size = prost::Message::encoded_len(&request);
    let text = format!("grpc: received message larger than max ({size} vs. {MAX_MESSAGE})");
    refused(client.put_request(request).await, Code::ResourceExhausted, &text);
    // A read that is too large is refused for the same reason; below that a read has no limit.
    let request = RangeRequest { range_end: vec![b'z'; MAX_REQUEST + 1000].into(), ..get("no such key") };
    client.range(request).await.unwrap();
}

/// LIM-1, LIM-2
#[tokio::test]
async fn the_request_size_limit_is_a_flag() {
    let server = Server::start_with(&["--max-request-bytes", "10000"]).await;
    let client = server.client().await;
    client.put("k", vec![b'v'; 9_000]).await;
    refused(client.put_request(put("k", vec![b'v'; 10_001])).await, Code::InvalidArgument, TOO_LARGE);
    let request = put("k", vec![b'v'; 10_000 + (512 << 10)]);
    let status = client.put_request(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
}

/// LIM-4
#[tokio::test]
async fn the_limit_of_operations_is_a_flag() {
    let server = Server::start_with(&["--max-txn-ops", "3"]).await;
    let client = server.client().await;
    let gets = |count| run((0..count).map(|_| op(get("a"))).collect());
    client.txn(gets(3)).await.unwrap();
    let text = "etcdserver: too many operations in txn request";
    refused(client.txn(gets(4)).await, Code::InvalidArgument, text);
}

/// LIM-14, KEY-1: many keys on one lease, long keys.
#[tokio::test]
async fn keys_and_leases_have_no_limit_of_their_own() {
    let client = Server::shared().await.client().await;
    let at = unique("many");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    for chunk in 0..10 {
        let key = |n: usize| format!("{at}{}/{}", "k".repeat(200), chunk * 100 + n);
        client
            .txn(run((0..100).map(|n| op(PutRequest { lease, ..put(key(n), "x") })).collect()))
            .await
            .unwrap();
    }
    assert_eq!(client.lease_time_to_live(lease, true).await.unwrap().keys.len(), 1000);
    client.lease_revoke(lease).await.unwrap();
    assert_eq!(client.range(RangeRequest { count_only: true, ..all(&at) }).await.unwrap().count, 0);
}
