//! The Election service.

use jetway::proto::v3electionpb::*;
use tokio::task::JoinHandle;
use tonic::{Code, Streaming};

use support::client::*;
use support::keys::{b, unique};
use support::server::Server;
use support::{eventually, within};

async fn campaign(client: &Client, name: &str, lease: i64, value: &str) -> Answer<CampaignResponse> {
    let request = CampaignRequest { name: b(name), lease, value: b(value) };
    client.unary("/v3electionpb.Election/Campaign", request).await
}

async fn stand(client: &Client, name: &str, lease: i64, value: &str) -> JoinHandle<Answer<CampaignResponse>> {
    let standing = tokio::spawn({
        let (client, name, value) = (client.clone(), name.to_owned(), value.to_owned());
        async move { campaign(&client, &name, lease, &value).await }
    });
    let key = format!("{name}/{lease:x}");
    eventually("a candidate's key", async || client.kv(&key).await).await;
    standing
}

async fn proclaim(client: &Client, leader: Option<LeaderKey>, value: &str) -> Answer<ProclaimResponse> {
    client.unary("/v3electionpb.Election/Proclaim", ProclaimRequest { leader, value: b(value) }).await
}

async fn resign(client: &Client, leader: Option<LeaderKey>) -> Answer<ResignResponse> {
    client.unary("/v3electionpb.Election/Resign", ResignRequest { leader }).await
}

async fn leader(client: &Client, name: &str) -> Answer<LeaderResponse> {
    client.unary("/v3electionpb.Election/Leader", LeaderRequest { name: b(name) }).await
}

async fn observe(client: &Client, name: &str) -> Observer {
    let request = LeaderRequest { name: b(name) };
    Observer(client.server_stream("/v3electionpb.Election/Observe", request).await.unwrap())
}

struct Observer(Streaming<LeaderResponse>);

impl Observer {
    /// The next value, and the revisions of its message and its header.
    async fn next(&mut self) -> (String, i64, i64) {
        let message = within("a leader", self.0.message()).await.unwrap().expect("the stream goes on");
        let kv = message.kv.expect("a leader has a key");
        (String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_revision, revision(&message.header))
    }
}

/// ELE-1, ELE-3
#[tokio::test]
async fn the_first_candidate_leads_until_it_resigns() {
    let client = Server::shared().await.client().await;
    let name = unique("election");
    for lease in [0x601, 0x602] {
        client.lease_grant(lease, 600).await.unwrap();
    }
    refused(leader(&client, &name).await, Code::Unknown, "election: no leader");
    let first = campaign(&client, &name, 0x601, "one").await.unwrap();
    let key = first.leader.clone().unwrap();
    let kv = client.kv(format!("{name}/601")).await.unwrap();
    let expected = LeaderKey { name: b(&name), key: kv.key.clone(), rev: kv.create_revision, lease: 0x601 };
    assert_eq!((&key, revision(&first.header)), (&expected, kv.create_revision));
    assert_eq!(leader(&client, &name).await.unwrap().kv, Some(kv));

    let second = stand(&client, &name, 0x602, "two").await;
    let standing = client.kv(format!("{name}/602")).await.unwrap();
    assert_eq!(leader(&client, &name).await.unwrap().kv.unwrap().value, "one");
    resign(&client, Some(key)).await.unwrap();
    let second = within("the election", second).await.unwrap().unwrap();
    // The header is that of the candidacy, not of the victory.
    assert_eq!(revision(&second.header), standing.create_revision);
    assert_eq!(second.leader.unwrap().rev, standing.create_revision);
    assert_eq!(leader(&client, &name).await.unwrap().kv, Some(standing));
}

/// ELE-1
#[tokio::test]
async fn a_repeated_campaign_changes_the_value_only() {
    let client = Server::shared().await.client().await;
    let name = unique("election");
    client.lease_grant(0x611, 600).await.unwrap();
    let first = campaign(&client, &name, 0x611, "one").await.unwrap();
    let same = campaign(&client, &name, 0x611, "one").await.unwrap();
    assert_eq!(same.leader, first.leader);
    assert_eq!(client.kv(format!("{name}/611")).await.unwrap().version, 1);
    let other = campaign(&client, &name, 0x611, "two").await.unwrap();
    assert_eq!(other.leader, first.leader);
    let kv = client.kv(format!("{name}/611")).await.unwrap();
    assert_eq!((&kv.value[..], kv.version), (&b"two"[..], 2));
}

/// ELE-2
#[tokio::test]
async fn only_the_leader_proclaims_and_resigns() {
    let client = Server::shared().await.client().await;
    let name = unique("election");
    client.lease_grant(0x621, 600).await.unwrap();
    let key = campaign(&client, &name, 0x621, "one").await.unwrap().leader.unwrap();
    let proclaimed = proclaim(&client, Some(key.clone()), "two").await.unwrap();
    let kv = client.kv(&key.key).await.unwrap();
    assert_eq!(
        (&kv.value[..], kv.lease, kv.mod_revision),
        (&b"two"[..], 0x621, revision(&proclaimed.header))
    );

    let stale = LeaderKey { rev: key.rev - 1, ..key.clone() };
    refused(proclaim(&client, Some(stale.clone()), "no").await, Code::Unknown, "election: not leader");
    resign(&client, Some(stale)).await.unwrap();
    assert_eq!(client.kv(&key.key).await, Some(kv));
    let missing = "\"leader\" field must be provided";
    refused(proclaim(&client, None, "no").await, Code::Unknown, missing);
    refused(resign(&client, None).await, Code::Unknown, missing);
    let nameless = LeaderKey { key: b(""), ..key.clone() };
    refused(resign(&client, Some(nameless)).await, Code::Unknown, "etcdserver: key is not provided");

    resign(&client, Some(key.clone())).await.unwrap();
    assert_eq!(client.kv(&key.key).await, None);
    refused(proclaim(&client, Some(key.clone()), "no").await, Code::Unknown, "election: not leader");
    resign(&client, Some(key)).await.unwrap();
}

/// LOCK-4, ELE-1
#[tokio::test]
async fn a_cancelled_candidate_is_not_elected() {
    let client = Server::shared().await.client().await;
    let name = unique("election");
    for lease in 0x631..0x634 {
        client.lease_grant(lease, 600).await.unwrap();
    }
    let first = campaign(&client, &name, 0x631, "one").await.unwrap();
    let gives_up = stand(&client, &name, 0x632, "two").await;
    let stays = stand(&client, &name, 0x633, "three").await;
    gives_up.abort();
    let left = async || client.kv(format!("{name}/632")).await.is_none().then_some(());
    eventually("the key to go", left).await;
    resign(&client, first.leader).await.unwrap();
    within("the election", stays).await.unwrap().unwrap();
    assert_eq!(leader(&client, &name).await.unwrap().kv.unwrap().value, "three");
}

/// ELE-3
#[tokio::test]
async fn an_observer_sees_each_leader_and_each_of_its_values() {
    let client = Server::shared().await.client().await;
    let name = unique("election");
    for lease in [0x641, 0x642] {
        client.lease_grant(lease, 600).await.unwrap();
    }
    // Below the same prefix as a string, but not of this election.
    client.put(format!("{name}x/1"), "other").await;
    let request = observe(&client, &name);
    let first = async {
        // The headers of the answer come with the first leader at the latest.
        campaign(&client, &name, 0x641, "one").await.unwrap()
    };
    let (mut observer, first) = tokio::join!(request, first);
    let created = revision(&first.header);
    let (value, changed, told_at) = observer.next().await;
    assert_eq!((&value[..], changed), ("one", created));
    assert!(told_at >= created);
    let key = first.leader.unwrap();
    for value in ["two", "three"] {
        let at = revision(&proclaim(&client, Some(key.clone()), value).await.unwrap().header);
        assert_eq!(observer.next().await, (value.to_owned(), at, at));
    }
    let second = stand(&client, &name, 0x642, "four").await;
    resign(&client, Some(key)).await.unwrap();
    assert_eq!(observer.next().await.0, "four");
    let key = within("the election", second).await.unwrap().unwrap().leader.unwrap();
    resign(&client, Some(key)).await.unwrap();
    // Nobody leads for a while, and the stream waits.
    let third = campaign(&client, &name, 0x641, "five").await.unwrap();
    let at = revision(&third.header);
    assert_eq!(observer.next().await, ("five".to_owned(), at, at));
    // A late observer sees the present leader first.
    let mut late = observe(&client, &name).await;
    assert_eq!(late.next().await.0, "five");
}

/// LOCK-1, LOCK-2
#[tokio::test]
async fn a_campaign_needs_a_lease_that_lives() {
    let client = Server::shared().await.client().await;
    let answer = campaign(&client, &unique("election"), 4712, "x").await;
    refused(answer, Code::Unknown, "etcdserver: requested lease not found");
    let led = campaign(&client, &unique("election"), 0, "x").await.unwrap().leader.unwrap();
    assert_eq!(client.lease_time_to_live(led.lease, false).await.unwrap().granted_ttl, 60);
    assert_eq!(client.kv(&led.key).await.unwrap().lease, led.lease);
}
