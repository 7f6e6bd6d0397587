//! Put with each of its options.

use jetway::proto::etcdserverpb::*;
use tonic::Code;

use support::client::*;
use support::keys::*;
use support::server::Server;

/// PUT-1
#[tokio::test]
async fn contradictory_puts_are_refused_in_a_fixed_order() {
    let client = Server::shared().await.client().await;
    let everything_wrong = PutRequest {
        key: b(""),
        value: b("v"),
        lease: 1,
        ignore_value: true,
        ignore_lease: true,
        prev_kv: false,
    };
    let refuse =
        async |request, text| refused(client.put_request(request).await, Code::InvalidArgument, text);
    refuse(everything_wrong.clone(), "etcdserver: key is not provided").await;
    let keyed = PutRequest { key: b("missing"), ..everything_wrong };
    refuse(keyed.clone(), "etcdserver: value is provided").await;
    let without_value = PutRequest { value: b(""), ..keyed };
    refuse(without_value.clone(), "etcdserver: lease is provided").await;
    refuse(PutRequest { lease: 0, ..without_value }, "etcdserver: key not found").await;
}

/// PUT-2
#[tokio::test]
async fn a_failed_put_changes_nothing() {
    let server = Server::start().await;
    let client = server.client().await;
    let leased = PutRequest { lease: 4242, ..put("a", "x") };
    refused(client.put_request(leased).await, Code::NotFound, "etcdserver: requested lease not found");
    let not_found = "etcdserver: key not found";
    for ignoring in [
        PutRequest { ignore_value: true, ..put("a", "") },
        PutRequest { ignore_lease: true, ..put("a", "x") },
        PutRequest { ignore_value: true, ignore_lease: true, ..put("a", "") },
    ] {
        refused(client.put_request(ignoring).await, Code::InvalidArgument, not_found);
    }
    let ignoring_value = PutRequest { ignore_value: true, lease: 4242, ..put("a", "") };
    let lease_first = "etcdserver: requested lease not found";
    refused(client.put_request(ignoring_value).await, Code::NotFound, lease_first);
    client.put("b", "x").await;
    client.delete("b").await;
    let deleted = PutRequest { ignore_value: true, ..put("b", "") };
    refused(client.put_request(deleted).await, Code::InvalidArgument, not_found);
    let now = client.get("a").await.unwrap();
    assert_eq!((now.count, revision(&now.header)), (0, 3));
}

/// PUT-4, PUT-8
#[tokio::test]
async fn versions_count_from_the_creation_of_the_key() {
    let client = Server::shared().await.client().await;
    let key = unique("versions");
    let shape = async || {
        let kv = client.kv(&key).await.unwrap();
        (kv.create_revision, kv.mod_revision, kv.version)
    };
    let created = client.put(&key, "").await;
    assert_eq!(shape().await, (created, created, 1));
    let updated = client.put(&key, "x").await;
    assert_eq!(shape().await, (created, updated, 2));
    client.delete(&key).await;
    let again = client.put(&key, "").await;
    assert_eq!(shape().await, (again, again, 1));
    assert_eq!(client.kv(&key).await.unwrap().value, "");
}

/// PUT-8
#[tokio::test]
async fn any_bytes_are_a_value() {
    let client = Server::shared().await.client().await;
    let key = unique("bytes");
    let every_byte: Vec<u8> = (0..=255).collect();
    for value in [&every_byte[..], b"", b"\0", b"\r\n\r\n", b"+ACK"] {
        client.put(&key, value).await;
        assert_eq!(client.kv(&key).await.unwrap().value, value);
    }
}

/// PUT-5, LSE-6
#[tokio::test]
async fn a_key_belongs_to_the_lease_of_its_newest_put() {
    let client = Server::shared().await.client().await;
    let key = unique("lease-of-key");
    let (one, two) =
        (client.lease_grant(0, 600).await.unwrap().id, client.lease_grant(0, 600).await.unwrap().id);
    let owned = async || {
        let mut owners = Vec::new();
        for lease in [one, two] {
            owners.push(client.lease_time_to_live(lease, true).await.unwrap().keys.contains(&b(&key)));
        }
        (client.kv(&key).await.unwrap().lease, owners[0], owners[1])
    };
    let put_with = async |lease| {
        client.put_request(PutRequest { lease, ..put(&key, "x") }).await.unwrap();
    };
    put_with(one).await;
    assert_eq!(owned().await, (one, true, false));
    put_with(one).await;
    assert_eq!(owned().await, (one, true, false));
    put_with(two).await;
    assert_eq!(owned().await, (two, false, true));
    put_with(0).await;
    assert_eq!(owned().await, (0, false, false), "a put without a lease detaches the key");
    put_with(one).await;
    client.lease_revoke(two).await.unwrap();
    assert!(client.kv(&key).await.is_some(), "the other lease no longer holds the key");
    client.lease_revoke(one).await.unwrap();
    assert!(client.kv(&key).await.is_none());
}

/// PUT-6, PUT-7
#[tokio::test]
async fn ignore_value_and_ignore_lease_keep_the_stored_value_and_lease() {
    let client = Server::shared().await.client().await;
    let key = unique("ignore");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    client.put_request(PutRequest { lease, ..put(&key, "kept") }).await.unwrap();
    let shape = async || {
        let kv = client.kv(&key).await.unwrap();
        (String::from_utf8(kv.value.to_vec()).unwrap(), kv.lease, kv.version)
    };
    let both = PutRequest { ignore_value: true, ignore_lease: true, ..put(&key, "") };
    let answer = client.put_request(both).await.unwrap();
    assert_eq!(answer.prev_kv, None, "not asked for");
    assert_eq!(shape().await, ("kept".into(), lease, 2));
    client.put_request(PutRequest { ignore_lease: true, ..put(&key, "new") }).await.unwrap();
    assert_eq!(shape().await, ("new".into(), lease, 3));
    client.put_request(PutRequest { ignore_value: true, ..put(&key, "") }).await.unwrap();
    assert_eq!(shape().await, ("new".into(), 0, 4), "the lease was not to be kept");
    client.put_request(PutRequest { ignore_value: true, lease, ..put(&key, "") }).await.unwrap();
    assert_eq!(shape().await, ("new".into(), lease, 5));
    client.lease_revoke(lease).await.unwrap();
}

/// PUT-7
#[tokio::test]
async fn prev_kv_is_the_whole_pair_before() {
    let client = Server::shared().await.client().await;
    let key = unique("prev");
    let lease = client.lease_grant(0, 600).await.unwrap().id;
    let with_prev = |value: &str| client.put_request(PutRequest { prev_kv: true, lease, ..put(&key, value) });
    assert_eq!(with_prev("one").await.unwrap().prev_kv, None);
    let before = client.kv(&key).await;
    assert_eq!(with_prev("two").await.unwrap().prev_kv, before);
    assert_eq!(client.put_request(put(&key, "three")).await.unwrap().prev_kv, None);
    client.delete(&key).await;
    assert_eq!(with_prev("four").await.unwrap().prev_kv, None, "the key had gone");
    client.lease_revoke(lease).await.unwrap();
}
