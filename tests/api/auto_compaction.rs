//! Compaction without being asked. When exactly it comes is shown by the unit tests of `auto_compaction`.

use jetway::proto::etcdserverpb::*;
use tonic::Code;

use crate::support::client::*;
use crate::support::eventually;
use crate::support::server::Server;

const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";

/// CMP-12
#[tokio::test]
async fn old_revisions_go_by_themselves_and_the_newest_stays() {
    let args = ["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"];
    let server = Server::start_with(&args).await;
    let client = server.client().await;
    let first = client.put("a", "1").await;
    let last = client.put("a", "2").await;
    let at = |revision| RangeRequest { revision, ..get("a") };
    let refusal = eventually("a compaction", async || client.range(at(first)).await.err()).await;
    assert_eq!((refusal.code(), refusal.message()), (Code::OutOfRange, COMPACTED));
    // Nothing is written, so the newest revision can be compacted at most up to itself.
    assert_eq!(client.range(at(last)).await.unwrap().kvs[0].value, "2");
    assert_eq!(client.revision().await, last);
}
