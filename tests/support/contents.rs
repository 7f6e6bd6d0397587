//! Contents of a store for a snapshot or a restore: of each kind that there is.

use jetway::proto::authpb::permission::Type;
use jetway::proto::etcdserverpb::*;

use crate::auth::permission;
use crate::client::*;

/// Writes all that a store can hold. Returns the compaction floor.
pub async fn fill(client: &Client) -> i64 {
    let lease = |id: i64| PutRequest { lease: id, ..put("leased", "x") };
    client.lease_grant(7, 600).await.unwrap();
    client.lease_grant(0x7000_0000_0000_0001, 900).await.unwrap();
    for value in ["1", "2", "3"] {
        client.put("a", value).await;
    }
    for key in [&b"\0"[..], b"\xff", b"\xff\xff\0", b"/", b"//", "ключ".as_bytes(), &[7; 900]] {
        client.put(key, key).await;
    }
    client.put("empty", "").await;
    client.put("mebibyte", vec![b'm'; 1 << 20]).await;
    // Of this transaction the last change alone outlives the compaction.
    client.txn(run(vec![op(put("t/1", "1")), op(put("t/2", "1")), op(put("t/3", "1"))])).await.unwrap();
    client.txn(run(vec![op(put("t/1", "2")), op(delete("t/2"))])).await.unwrap();
    client.put("gone", "x").await;
    let floor = client.delete("gone").await;
    client.compact_request(CompactionRequest { revision: floor, physical: true }).await.unwrap();
    client.put_request(lease(7)).await.unwrap();
    client.put_request(lease(0x7000_0000_0000_0001)).await.unwrap();
    client.txn(run(vec![op(put("b", "1")), op(put("c", "1")), op(delete("a"))])).await.unwrap();
    client.put("gone", "back").await;
    floor
}

/// Roles with a range of keys each: one key, a range, and all from a key on.
pub const ROLES: [(&str, &str, &str); 3] = [("r", "b", ""), ("range", "k", "m"), ("open", "k", "\0")];

/// Adds users and roles, and enables auth. Returns root's client.
pub async fn fill_auth(client: &Client) -> Client {
    for (role, key, end) in ROLES {
        client.role_add(role).await.unwrap();
        client.role_grant(role, Some(permission(Type::Readwrite, key, end))).await.unwrap();
    }
    client.user_add("bob", "secret").await.unwrap();
    client.user_grant_role("bob", "r").await.unwrap();
    client.user_add_without_password("certified").await.unwrap();
    crate::auth::enable(client).await
}
