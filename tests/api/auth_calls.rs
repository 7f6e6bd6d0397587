//! Permissions of watches, leases, maintenance, and membership changes.

use jetway::proto::authpb::permission::Type::{Read, Readwrite, Write};
use jetway::proto::etcdserverpb::*;
use jetway::proto::v3electionpb::{CampaignRequest, CampaignResponse, LeaderRequest, LeaderResponse};
use jetway::proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::Code;

use support::auth::{add_user, enable, permission};
use support::client::{Answer, Client, put, refused};
use support::keys::b;
use support::lease::KeepAlive;
use support::server::Server;
use support::watch::{WatchStream, watch_all};

const DENIED: &str = "etcdserver: permission denied";
const EMPTY: &str = "etcdserver: user name is empty";
const TOKEN: &str = "etcdserver: invalid auth token";

fn watch(key: impl AsRef<[u8]>, range_end: impl AsRef<[u8]>) -> WatchCreateRequest {
    WatchCreateRequest { key: b(key), range_end: b(range_end), ..Default::default() }
}

/// WAT-5, WAT-6: a user without the right to watch is refused in a response of the stream, in gRPC's long
/// form.
#[tokio::test]
async fn a_watch_needs_a_permission_for_all_of_its_range() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Read, "r", "s"), permission(Write, "w", "x")]).await;
    let user = client.login("u", "u").await;
    let now = root.put("r1", "v").await;
    let mut stream = WatchStream::open(&user);
    let id = stream.watch(watch("r", "s")).await;
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    for request in
        [watch("r", "t"), watch("r", "\0"), watch("", "\0"), watch("", ""), watch("w", ""), watch("q", "r1")]
    {
        let answer = stream.create(request).await;
        assert_eq!((answer.canceled, answer.watch_id, answer.compact_revision), (true, -1, 0));
        assert_eq!((&*answer.cancel_reason, answer.header.unwrap().revision), (denied, now));
    }
    // A start that cannot be is found first.
    let answer = stream.create(WatchCreateRequest { start_revision: -1, ..watch("w", "") }).await;
    assert_eq!(answer.cancel_reason, "etcdserver: mvcc: required revision has been compacted");
    // Nothing of this hurts the watch that was permitted.
    root.put("r2", "v").await;
    assert_eq!(stream.events(1).await[0].kv.as_ref().unwrap().key, "r2");
    stream.cancel(id);

    for (who, reason) in [
        (&client, "rpc error: code = InvalidArgument desc = etcdserver: user name is empty"),
        (
            &client.with_token("abcdefghijklmnop.7"),
            "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
        ),
    ] {
        let answer = WatchStream::open(who).create(watch("r", "")).await;
        assert_eq!((&*answer.cancel_reason, answer.canceled, answer.watch_id), (reason, true, -1));
    }
}

/// WAT-16
#[tokio::test]
async fn a_watch_continues_after_its_permission_is_revoked() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Read, "r", "s")]).await;
    let user = client.login("u", "u").await;
    let mut stream = WatchStream::open(&user);
    stream.watch(watch("r", "s")).await;
    root.role_revoke("u", "r", "s").await.unwrap();
    root.put("r1", "v").await;
    assert_eq!(stream.events(1).await[0].kv.as_ref().unwrap().key, "r1");
    let answer = stream.create(watch("r", "s")).await;
    assert!(answer.cancel_reason.ends_with(DENIED), "{}", answer.cancel_reason);
    // And a watch from before there were users goes on too.
    root.auth_disable().await.unwrap();
    let mut nobody = WatchStream::open(&client);
    nobody.watch(watch_all("r")).await;
    client.auth_enable().await.unwrap();
    let root = client.login("root", "root").await;
    root.put("r2", "v").await;
    assert_eq!(nobody.events(1).await[0].kv.as_ref().unwrap().key, "r2");
    let answer = nobody.create(watch("r", "")).await;
    assert!(answer.cancel_reason.ends_with(EMPTY), "{}", answer.cancel_reason);
}

/// The status that ends a keep-alive call.
async fn keep_alive(client: &Client, id: i64) -> Answer<LeaseKeepAliveResponse> {
    let mut call = KeepAlive::open(client);
    call.send(id);
    call.message().await.expect("an answer or a status")
}

/// LSE-25
#[tokio::test]
async fn a_lease_needs_a_user_and_permissions_for_its_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    let permissions = [permission(Readwrite, "u", "v"), permission(Read, "r", "s")];
    add_user(&root, "u", &permissions).await;
    add_user(&root, "nothing", &[]).await;
    let user = client.login("u", "u").await;
    let nothing = client.login("nothing", "nothing").await;
    let stranger = client.with_token("abcdefghijklmnop.7");

    for (who, code, text) in
        [(&client, Code::InvalidArgument, EMPTY), (&stranger, Code::Unauthenticated, TOKEN)]
    {
        refused(who.lease_grant(0, 60).await, code, text);
        refused(who.lease_revoke(1).await, code, text);
        refused(who.lease_time_to_live(1, false).await, code, text);
        refused(who.lease_time_to_live(1, true).await, code, text);
        refused(who.leases().await, code, text);
        refused(keep_alive(who, 1).await, code, text);
    }
    // Anybody else may grant one, and do all with one that has no keys.
    nothing.lease_grant(1, 600).await.unwrap();
    assert_eq!(keep_alive(&nothing, 1).await.unwrap().ttl, 600);
    nothing.lease_time_to_live(1, true).await.unwrap();
    assert_eq!(nothing.leases().await.unwrap().leases.len(), 1);
    nothing.lease_revoke(1).await.unwrap();
    refused(nothing.lease_revoke(1).await, Code::NotFound, "etcdserver: requested lease not found");
    assert_eq!(nothing.lease_time_to_live(1, true).await.unwrap().ttl, -1);
    assert_eq!(keep_alive(&nothing, 1).await.unwrap().ttl, 0);

    // Keys that the user may write.
    user.lease_grant(2, 600).await.unwrap();
    let on = |lease, key| PutRequest { lease, ..put(key, "v") };
    user.put_request(on(2, "u1")).await.unwrap();
    assert_eq!(user.lease_time_to_live(2, true).await.unwrap().keys, ["u1"]);
    assert_eq!(keep_alive(&user, 2).await.unwrap().ttl, 600);
    user.leases().await.unwrap();
    refused(nothing.lease_time_to_live(2, true).await, Code::PermissionDenied, DENIED);
    assert_eq!(nothing.lease_time_to_live(2, false).await.unwrap().granted_ttl, 600);
    refused(nothing.leases().await, Code::PermissionDenied, DENIED);
    refused(nothing.lease_revoke(2).await, Code::PermissionDenied, DENIED);
    refused(keep_alive(&nothing, 2).await, Code::PermissionDenied, DENIED);

    // One that it may only read, then one that it may not.
    root.put_request(on(2, "r1")).await.unwrap();
    assert_eq!(user.lease_time_to_live(2, true).await.unwrap().keys.len(), 2);
    user.leases().await.unwrap();
    refused(user.lease_revoke(2).await, Code::PermissionDenied, DENIED);
    refused(keep_alive(&user, 2).await, Code::PermissionDenied, DENIED);
    refused(user.put_request(on(2, "u2")).await, Code::PermissionDenied, DENIED);
    root.put_request(on(2, "z1")).await.unwrap();
    refused(user.lease_time_to_live(2, true).await, Code::PermissionDenied, DENIED);
    refused(user.leases().await, Code::PermissionDenied, DENIED);

    assert_eq!(keep_alive(&root, 2).await.unwrap().ttl, 600);
    assert_eq!(root.lease_time_to_live(2, true).await.unwrap().keys.len(), 3);
    root.lease_revoke(2).await.unwrap();
    assert!(root.kv("z1").await.is_none());
}

/// LSE-20 with users: nobody needs a permission for the end of a lease.
#[tokio::test]
async fn a_lease_expires_without_any_permission_for_its_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    root.lease_grant(7, 2).await.unwrap();
    root.put_request(PutRequest { lease: 7, ..put("k", "v") }).await.unwrap();
    support::eventually("the lease to end", async || root.kv("k").await.is_none().then_some(())).await;
}

/// STS-2, MNT-8, CLU-3, CLU-7
#[tokio::test]
async fn maintenance_and_membership_changes_need_root() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Readwrite, "\0", "\0")]).await;
    let user = client.login("u", "u").await;
    let stranger = client.with_token("abcdefghijklmnop.7");
    let alarm = |action: alarm_request::AlarmAction| AlarmRequest {
        action: action.into(),
        member_id: 0,
        alarm: AlarmType::Nospace.into(),
    };
    use alarm_request::AlarmAction::{Activate, Deactivate, Get};
    for (who, code, text) in [
        (&client, Code::InvalidArgument, EMPTY),
        (&stranger, Code::Unauthenticated, TOKEN),
        (&user, Code::PermissionDenied, DENIED),
    ] {
        if code != Code::PermissionDenied {
            refused(who.status().await, code, text);
            refused(who.members().await, code, text);
            refused(who.alarm(alarm(Get)).await, code, text);
        }
        refused(who.alarm(alarm(Activate)).await, code, text);
        refused(who.alarm(alarm(Deactivate)).await, code, text);
        refused(who.alarm(AlarmRequest { action: 9, ..alarm(Get) }).await, code, text);
        refused(who.defragment().await, code, text);
        let answer: Answer<HashResponse> = who.unary("/etcdserverpb.Maintenance/Hash", HashRequest {}).await;
        refused(answer, code, text);
        let answer: Answer<HashKvResponse> =
            who.unary("/etcdserverpb.Maintenance/HashKV", HashKvRequest { revision: 0 }).await;
        refused(answer, code, text);
        let answer: Answer<MoveLeaderResponse> =
            who.unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id: 1 }).await;
        refused(answer, code, text);
        let answer: Answer<DowngradeResponse> = who
            .unary("/etcdserverpb.Maintenance/Downgrade", DowngradeRequest { action: 7, version: "".into() })
            .await;
        refused(answer, code, text);
        let snapshot: Answer<tonic::Streaming<SnapshotResponse>> =
            who.server_stream("/etcdserverpb.Maintenance/Snapshot", SnapshotRequest {}).await;
        let status = match snapshot {
            Ok(mut stream) => stream.message().await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!((status.code(), status.message()), (code, text));

        let add = |url: &str| MemberAddRequest { peer_ur_ls: vec![url.into()], is_learner: false };
        let answer: Answer<MemberAddResponse> =
            who.unary("/etcdserverpb.Cluster/MemberAdd", add("http://127.0.0.1:1")).await;
        refused(answer, code, text);
        let answer: Answer<MemberAddResponse> =
            who.unary("/etcdserverpb.Cluster/MemberAdd", add("no url")).await;
        refused(answer, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
        let answer: Answer<MemberRemoveResponse> =
            who.unary("/etcdserverpb.Cluster/MemberRemove", MemberRemoveRequest { id: 1 }).await;
        refused(answer, code, text);
        let update = MemberUpdateRequest { id: 1, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
        let answer: Answer<MemberUpdateResponse> =
            who.unary("/etcdserverpb.Cluster/MemberUpdate", update).await;
        refused(answer, code, text);
        let answer: Answer<MemberPromoteResponse> =
            who.unary("/etcdserverpb.Cluster/MemberPromote", MemberPromoteRequest { id: 1 }).await;
        refused(answer, code, text);
    }
    user.status().await.unwrap();
    user.members().await.unwrap();
    user.alarm(alarm(Get)).await.unwrap();
    root.defragment().await.unwrap();
    root.alarm(alarm(Deactivate)).await.unwrap();
}

/// LOCK-1: locks and elections are keys and leases, so the caller needs the permissions for them.
#[tokio::test]
async fn locks_and_elections_need_the_permissions_of_their_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    add_user(&root, "u", &[permission(Readwrite, "mine/", "mine0")]).await;
    let user = client.login("u", "u").await;
    let lock = async |client: &Client, name: &str| -> Answer<LockResponse> {
        client.unary("/v3lockpb.Lock/Lock", LockRequest { name: b(name), lease: 0 }).await
    };
    let unlock = async |client: &Client, key: &[u8]| -> Answer<UnlockResponse> {
        client.unary("/v3lockpb.Lock/Unlock", UnlockRequest { key: b(key) }).await
    };
    let campaign = async |client: &Client, name: &str| -> Answer<CampaignResponse> {
        let request = CampaignRequest { name: b(name), lease: 0, value: b("v") };
        client.unary("/v3electionpb.Election/Campaign", request).await
    };
    let leader = async |client: &Client, name: &str| -> Answer<LeaderResponse> {
        client.unary("/v3electionpb.Election/Leader", LeaderRequest { name: b(name) }).await
    };
    let key = lock(&user, "mine").await.unwrap().key;
    let held = root.kv(&key).await.unwrap();
    for (who, text) in [(&client, EMPTY), (&client.with_token("abcdefghijklmnop.7"), TOKEN), (&user, DENIED)]
    {
        refused(lock(who, "other").await, Code::Unknown, text);
        refused(unlock(who, b"other/1").await, Code::Unknown, text);
        refused(campaign(who, "other").await, Code::Unknown, text);
        refused(leader(who, "other").await, Code::Unknown, text);
        // An observation that fails ends without a word, as in etcd.
        let mut observed: tonic::Streaming<LeaderResponse> = who
            .server_stream("/v3electionpb.Election/Observe", LeaderRequest { name: b("other") })
            .await
            .unwrap();
        assert!(support::within("the end", observed.message()).await.unwrap().is_none());
    }
    assert_eq!(root.kv(&key).await.unwrap(), held);
    unlock(&user, &key).await.unwrap();
    campaign(&user, "mine").await.unwrap();
    assert_eq!(leader(&user, "mine").await.unwrap().kv.unwrap().value, "v");
}

/// AUT-15: who asks for health needs no name.
#[tokio::test]
async fn health_needs_no_user() {
    let server = Server::start().await;
    let client = server.client().await;
    enable(&client).await;
    let check = jetway::proto::health::HealthCheckRequest { service: String::new() };
    let answer: jetway::proto::health::HealthCheckResponse =
        client.unary("/grpc.health.v1.Health/Check", check).await.unwrap();
    assert_eq!(answer.status(), jetway::proto::health::health_check_response::ServingStatus::Serving);
    let health = support::http::http(&server.address(), "GET", "/health").await;
    assert!(health.body.contains("\"health\":\"true\""), "{}", health.body);
}
