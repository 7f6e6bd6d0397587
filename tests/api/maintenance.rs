//! Status, alarms, members, authentication status, health service.

use jetway::proto::etcdserverpb::alarm_request::AlarmAction;
use jetway::proto::etcdserverpb::*;
use jetway::proto::health::health_check_response::ServingStatus;
use jetway::proto::health::{HealthCheckRequest, HealthCheckResponse};
use tonic::Code;

use support::client::*;
use support::server::Server;

/// STS-1, CLI-7: kube-apiserver decides by the version whether it may ask for progress.
#[tokio::test]
async fn status_reports_a_version_a_leader_and_sizes() {
    let server = Server::start().await;
    let client = server.client().await;
    client.put("a", vec![b'v'; 100_000]).await;
    // The size follows the write, a moment later.
    let grown = async || client.status().await.ok().filter(|status| status.db_size > 100_000);
    let status = support::eventually("the size to show the write", grown).await;
    let version: Vec<u64> = status.version.split('.').map(|part| part.parse().unwrap()).collect();
    let [major, minor, patch] = version[..] else { panic!("{} is no plain semver", status.version) };
    assert!((major, minor, patch) >= (3, 6, 0), "{}", status.version);
    assert!(status.db_size >= status.db_size_in_use && status.db_size_in_use > 0, "{status:?}");
    assert_ne!(status.leader, 0);
    assert_eq!(status.leader, status.header.as_ref().unwrap().member_id);
    assert_ne!(status.raft_term, 0);
    assert!(status.raft_index > 0 && status.raft_applied_index > 0);
    assert_eq!((status.is_learner, status.errors.len()), (false, 0));
    assert_eq!(status.db_size_quota, 2 << 30);
    let storage: Vec<u64> = status.storage_version.split('.').map(|part| part.parse().unwrap()).collect();
    assert_eq!(storage[..2], [major, minor]);
    assert_eq!(status.downgrade_info, Some(DowngradeInfo::default()));
}

/// ALM-1, ALM-3
#[tokio::test]
async fn a_fresh_store_has_no_alarms_and_disarming_none_succeeds() {
    let client = Server::shared().await.client().await;
    for alarm in [0, 1, 2] {
        let answer = client.alarm(AlarmRequest { alarm, ..Default::default() }).await.unwrap();
        assert_eq!(answer.alarms, []);
        let disarm = AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: 0, alarm };
        assert_eq!(client.alarm(disarm).await.unwrap().alarms, []);
    }
}

/// ALM-5, ALM-6, TXN-21, LIM-5, DEL-6, LSE-4
#[tokio::test]
async fn a_full_quota_refuses_writes_that_add_and_allows_those_that_free() {
    let server = Server::start_with(&["--quota-backend-bytes", "8000000"]).await;
    let client = server.client().await;
    client.lease_grant(1, 600).await.unwrap();
    let value = vec![b'v'; 1 << 20];
    let text = "etcdserver: mvcc: database space exceeded";
    let mut stored = 0;
    let status = loop {
        match client.put_request(put(format!("k/{stored}"), &value)).await {
            Ok(_) => stored += 1,
            Err(status) => break status,
        }
        assert!(stored < 64, "the quota holds");
    };
    assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, text));
    // The alarm is what refuses from now on, however small the write.
    refused(client.put_request(put("small", "x")).await, Code::ResourceExhausted, text);
    refused(client.lease_grant(2, 600).await, Code::ResourceExhausted, text);
    let not_taken = TxnRequest { failure: vec![op(put("small", "x"))], ..Default::default() };
    refused(client.txn(not_taken).await, Code::ResourceExhausted, text);
    let alarms = client.alarm(AlarmRequest::default()).await.unwrap().alarms;
    let [alarm] = &alarms[..] else { panic!("one alarm, not {alarms:?}") };
    assert_eq!(alarm.alarm(), AlarmType::Nospace);
    assert_eq!(client.status().await.unwrap().errors.len(), 1);

    client.get("k/0").await.unwrap();
    client.txn(run(vec![op(get("k/0")), op(delete("k/0"))])).await.unwrap();
    client.delete_range(delete_all("k/")).await.unwrap();
    client.lease_revoke(1).await.unwrap();
    let last = client.revision().await;
    client.compact_request(CompactionRequest { revision: last, physical: true }).await.unwrap();
    client.defragment().await.unwrap();
    refused(client.put_request(put("small", "x")).await, Code::ResourceExhausted, text);

    let disarm = AlarmRequest {
        action: AlarmAction::Deactivate.into(),
        member_id: alarm.member_id,
        alarm: AlarmType::Nospace.into(),
    };
    assert_eq!(client.alarm(disarm).await.unwrap().alarms, alarms);
    client.put("small", "x").await;
}

/// CLU-1, CLU-2, CLU-3, HDR-4
#[tokio::test]
async fn the_member_list_names_the_endpoint_of_this_server() {
    let server = Server::shared().await;
    let client = server.client().await;
    let linearizable = client.members().await.unwrap();
    let local: MemberListResponse = client
        .unary("/etcdserverpb.Cluster/MemberList", MemberListRequest { linearizable: false })
        .await
        .unwrap();
    assert_eq!(linearizable.members, local.members);
    let [member] = &local.members[..] else { panic!("one member, not {:?}", local.members) };
    let header = local.header.as_ref().unwrap();
    assert_eq!((member.id, header.revision), (header.member_id, 0));
    assert_eq!((&member.name[..], member.is_learner), ("default", false));
    assert_eq!(member.client_ur_ls, [server.endpoint()]);
}

/// AUT-4, AUT-5
#[tokio::test]
async fn auth_is_off_on_a_fresh_store() {
    let client = Server::shared().await.client().await;
    let status = client.auth_status().await.unwrap();
    assert_eq!((status.enabled, status.auth_revision), (false, 1));
}

/// The health service knows the empty name only: it stands for the whole server.
#[tokio::test]
async fn the_health_service_serves() {
    let client = Server::shared().await.client().await;
    let check = |service: &str| HealthCheckRequest { service: service.into() };
    let answer: HealthCheckResponse = client.unary("/grpc.health.v1.Health/Check", check("")).await.unwrap();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let answer: Answer<HealthCheckResponse> =
        client.unary("/grpc.health.v1.Health/Check", check("etcdserverpb.KV")).await;
    refused(answer, Code::NotFound, "unknown service");
    let mut stream: tonic::Streaming<HealthCheckResponse> =
        client.server_stream("/grpc.health.v1.Health/Watch", check("")).await.unwrap();
    let first = support::within("the health", stream.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
}

/// ALM-1, ALM-2, ALM-3, ALM-6
#[tokio::test]
async fn an_alarm_is_activated_for_any_member_until_it_is_deactivated_for_that_member() {
    let server = Server::start().await;
    let client = server.client().await;
    let ask = |action: AlarmAction, member_id, alarm: AlarmType| {
        client.alarm(AlarmRequest { action: action.into(), member_id, alarm: alarm.into() })
    };
    let nospace = AlarmMember { member_id: 5, alarm: AlarmType::Nospace.into() };
    assert_eq!(ask(AlarmAction::Activate, 5, AlarmType::None).await.unwrap().alarms, []);
    for _ in 0..2 {
        assert_eq!(ask(AlarmAction::Activate, 5, AlarmType::Nospace).await.unwrap().alarms, [nospace]);
    }
    assert_eq!(ask(AlarmAction::Get, 0, AlarmType::None).await.unwrap().alarms, [nospace]);
    assert_eq!(ask(AlarmAction::Get, 99, AlarmType::Nospace).await.unwrap().alarms, [nospace]);
    assert_eq!(ask(AlarmAction::Get, 5, AlarmType::Corrupt).await.unwrap().alarms, []);
    let text = "etcdserver: mvcc: database space exceeded";
    refused(client.put_request(put("a", "x")).await, Code::ResourceExhausted, text);
    assert_eq!(ask(AlarmAction::Deactivate, 6, AlarmType::Nospace).await.unwrap().alarms, []);
    assert_eq!(ask(AlarmAction::Deactivate, 5, AlarmType::Nospace).await.unwrap().alarms, [nospace]);
    client.put("a", "x").await;
}

/// ALM-7
#[tokio::test]
async fn the_corrupt_alarm_is_raised_by_request_and_refuses_writes() {
    let server = Server::start().await;
    let client = server.client().await;
    let revision = client.put("a", "x").await;
    client.lease_grant(1, 6000).await.unwrap();
    let set = |action: AlarmAction| {
        client.alarm(AlarmRequest { action: action.into(), member_id: 5, alarm: AlarmType::Corrupt.into() })
    };
    set(AlarmAction::Activate).await.unwrap();
    let text = "etcdserver: corrupt cluster";
    refused(client.put_request(put("a", "y")).await, Code::DataLoss, text);
    refused(client.delete_range(delete("a")).await, Code::DataLoss, text);
    refused(client.txn(run(vec![op(delete("a"))])).await, Code::DataLoss, text);
    refused(client.compact(revision).await, Code::DataLoss, text);
    refused(client.lease_grant(2, 6000).await, Code::DataLoss, text);
    refused(client.lease_revoke(1).await, Code::DataLoss, text);
    assert_eq!(client.kv("a").await.unwrap().value, "x");
    client.txn(run(vec![op(get("a"))])).await.unwrap();
    set(AlarmAction::Deactivate).await.unwrap();
    assert_eq!(client.put("a", "y").await, revision + 1);
}

/// CLU-4, CLU-5
#[tokio::test]
async fn invalid_membership_changes_are_refused() {
    let client = Server::shared().await.client().await;
    let no_urls = MemberAddRequest::default();
    let answer: Answer<MemberAddResponse> = client.unary("/etcdserverpb.Cluster/MemberAdd", no_urls).await;
    refused(answer, Code::InvalidArgument, "etcdserver: given member URLs are invalid");
    let text = "etcdserver: member not found";
    let answer: Answer<MemberRemoveResponse> =
        client.unary("/etcdserverpb.Cluster/MemberRemove", MemberRemoveRequest { id: 77 }).await;
    refused(answer, Code::NotFound, text);
    let update = MemberUpdateRequest { id: 77, peer_ur_ls: vec!["http://127.0.0.1:1".into()] };
    let answer: Answer<MemberUpdateResponse> =
        client.unary("/etcdserverpb.Cluster/MemberUpdate", update).await;
    refused(answer, Code::NotFound, text);
    let promote = async |id| -> Answer<MemberPromoteResponse> {
        client.unary("/etcdserverpb.Cluster/MemberPromote", MemberPromoteRequest { id }).await
    };
    refused(promote(77).await, Code::NotFound, text);
    let own = client.status().await.unwrap().leader;
    let voter = "etcdserver: can only promote a learner member";
    refused(promote(own).await, Code::FailedPrecondition, voter);
}

/// CLU-1, CLU-4, CLU-5, CLU-6
#[tokio::test]
async fn the_only_member_cannot_be_removed_and_may_change_its_peer_urls() {
    let server = Server::start().await;
    let client = server.client().await;
    let [member] = &client.members().await.unwrap().members[..] else { panic!("one member") };
    let remove = MemberRemoveRequest { id: member.id };
    let answer: Answer<MemberRemoveResponse> =
        client.unary("/etcdserverpb.Cluster/MemberRemove", remove).await;
    let text = "etcdserver: re-configuration failed due to not enough started members";
    refused(answer, Code::Unknown, text);

    let urls = vec!["http://127.0.0.1:9".to_owned()];
    let update = MemberUpdateRequest { id: member.id, peer_ur_ls: urls.clone() };
    let updated: Answer<MemberUpdateResponse> =
        client.unary("/etcdserverpb.Cluster/MemberUpdate", update).await;
    let updated = updated.unwrap();
    let expected = Member { peer_ur_ls: urls.clone(), ..member.clone() };
    assert_eq!((&updated.members[..], revision(&updated.header)), (&[expected][..], 0));
    assert_eq!(client.members().await.unwrap().members, updated.members);
    for is_learner in [false, true] {
        let add = MemberAddRequest { peer_ur_ls: urls.clone(), is_learner };
        let answer: Answer<MemberAddResponse> = client.unary("/etcdserverpb.Cluster/MemberAdd", add).await;
        refused(answer, Code::FailedPrecondition, "etcdserver: Peer URLs already exists");
    }
}

/// MNT-6, MNT-7, HDR-4
#[tokio::test]
async fn the_only_member_keeps_the_leadership_and_cannot_be_downgraded() {
    let client = Server::shared().await.client().await;
    let status = client.status().await.unwrap();
    let transfer = async |target_id| -> Answer<MoveLeaderResponse> {
        client.unary("/etcdserverpb.Maintenance/MoveLeader", MoveLeaderRequest { target_id }).await
    };
    assert_eq!(transfer(status.leader).await.unwrap().header, None);
    refused(transfer(77).await, Code::FailedPrecondition, "etcdserver: bad leader transferee");
    let downgrade = async |action, version: &str| -> Answer<DowngradeResponse> {
        let version = version.to_owned();
        client.unary("/etcdserverpb.Maintenance/Downgrade", DowngradeRequest { action, version }).await
    };
    let validate = downgrade_request::DowngradeAction::Validate.into();
    let wrong_format = "etcdserver: wrong downgrade target version format";
    refused(downgrade(validate, "nonsense").await, Code::InvalidArgument, wrong_format);
    let wrong_version = "etcdserver: invalid downgrade target version";
    refused(downgrade(validate, "3.0.0").await, Code::InvalidArgument, wrong_version);
    refused(downgrade(9, "3.6.0").await, Code::Unknown, "etcdserver: unknown method");
}

/// MD-2: there is a leader, so asking for one changes nothing.
#[tokio::test]
async fn calls_that_require_a_leader_succeed() {
    let server = Server::shared().await;
    let client = server.client().await.with_metadata("hasleader", "true");
    let key = support::keys::unique("hasleader");
    let mut watch = support::watch::WatchStream::open(&client);
    watch.watch(support::watch::watch_key(&key)).await;
    client.put(&key, "x").await;
    assert_eq!(watch.events(1).await.len(), 1);
    let mut keep_alive = support::lease::KeepAlive::open(&client);
    assert_eq!(keep_alive.renew(123_123).await.ttl, 0);
}
