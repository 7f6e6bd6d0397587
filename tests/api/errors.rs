//! Errors that belong to no rule of a single request.

use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::server::Server;

/// MD-5: clients find out by this what a server does not know.
#[tokio::test]
async fn unknown_methods_and_services_are_unimplemented() {
    let client = Server::shared().await.client().await;
    let answer: Answer<RangeResponse> = client.unary("/etcdserverpb.KV/Rnage", get("a")).await;
    refused(answer, Code::Unimplemented, "unknown method Rnage for service etcdserverpb.KV");
    let answer: Answer<RangeResponse> = client.unary("/etcdserverpb.VK/Range", get("a")).await;
    refused(answer, Code::Unimplemented, "unknown service etcdserverpb.VK");
}

/// ERR-1, HDR-7: one call of each kind that fails, code and text.
#[tokio::test]
async fn errors_are_plain_statuses_with_etcds_text() {
    let client = Server::shared().await.client().await;
    let status = client.lease_revoke(31_337).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "etcdserver: requested lease not found"));
    assert!(status.details().is_empty());
    let status = client.range(RangeRequest { revision: i64::MAX, ..get("a") }).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange);
    assert_eq!(status.message(), "etcdserver: mvcc: required revision is a future revision");
    assert!(status.details().is_empty());
}

/// A message that is no protobuf is refused, and the connection lives on.
#[tokio::test]
async fn a_message_that_is_no_protobuf_is_refused() {
    let client = Server::shared().await.client().await;
    // Field 1 of a TxnRequest is a compare, which these bytes are not.
    let garbage = get(b"\xff\xff\xff");
    let answer: Answer<TxnResponse> = client.unary("/etcdserverpb.KV/Txn", garbage).await;
    assert_eq!(answer.unwrap_err().code(), Code::Internal);
    client.get("a").await.unwrap();
}
