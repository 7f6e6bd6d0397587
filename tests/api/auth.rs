//! Users and roles: what the calls of Auth answer.

use base64::Engine as _;
use jetway::proto::authpb::permission::Type::{Read, Readwrite, Write};
use jetway::proto::etcdserverpb::{AuthUserAddRequest, AuthUserChangePasswordRequest};
use tonic::Code;

use support::auth::{add_user, auth_revision, enable, permission};
use support::client::{refused, revision};
use support::server::Server;

const FAILED: &str = "etcdserver: authentication failed, invalid user ID or password";
const NOT_FOUND: &str = "etcdserver: user name not found";
const NO_ROLE: &str = "etcdserver: role name not found";
const MANAGEMENT: &str = "etcdserver: invalid auth management";

/// AUT-1, AUT-4
#[tokio::test]
async fn auth_can_be_enabled_only_with_a_root_user_and_disabled_again() {
    let server = Server::start().await;
    let client = server.client().await;
    assert_eq!(auth_revision(&client).await, 1);
    refused(client.auth_enable().await, Code::FailedPrecondition, "etcdserver: root user does not exist");
    client.user_add("root", "secret").await.unwrap();
    refused(
        client.auth_enable().await,
        Code::FailedPrecondition,
        "etcdserver: root user does not have root role",
    );
    // Off already: no error, no change.
    client.auth_disable().await.unwrap();
    assert_eq!(auth_revision(&client).await, 2);
    // The role need not exist.
    client.user_grant_role("root", "root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    assert_eq!(auth_revision(&client).await, 3);
    let at = revision(&client.auth_enable().await.unwrap().header);
    assert_eq!(at, 1, "users are no keys");
    let status = client.auth_status().await.unwrap();
    assert_eq!((status.enabled, status.auth_revision), (true, 3));

    refused(client.auth_enable().await, Code::InvalidArgument, "etcdserver: user name is empty");
    let root = client.login("root", "secret").await;
    root.auth_enable().await.unwrap();
    assert_eq!(auth_revision(&root).await, 3);
    root.auth_disable().await.unwrap();
    let status = client.auth_status().await.unwrap();
    assert_eq!((status.enabled, status.auth_revision), (false, 4));
    // Tokens are gone, and nobody asks for one.
    root.put("/k", "v").await;
    client.auth_enable().await.unwrap();
    refused(root.get("/k").await, Code::Unauthenticated, "etcdserver: invalid auth token");
}

/// AUT-5
#[tokio::test]
async fn while_auth_is_off_no_token_is_issued_and_any_is_accepted() {
    let client = Server::shared().await.client().await;
    refused(
        client.authenticate("nobody", "").await,
        Code::FailedPrecondition,
        "etcdserver: authentication is not enabled",
    );
    client.with_token("no such token").put("/auth/off", "v").await;
    assert_eq!(client.with_token("").auth_status().await.unwrap().auth_revision, 1);
}

/// AUT-1, AUT-4: users.
#[tokio::test]
async fn users_are_added_listed_and_deleted() {
    let server = Server::start().await;
    let client = server.client().await;
    refused(client.user_add("", "p").await, Code::InvalidArgument, "etcdserver: user name is empty");
    refused(
        client.user_add("", &"p".repeat(73)).await,
        Code::Unknown,
        "bcrypt: password length exceeds 72 bytes",
    );
    client.user_add("long", &"p".repeat(72)).await.unwrap();
    client.user_add("empty", "").await.unwrap();
    client.user_add_without_password("none").await.unwrap();
    client.user_add("B", "p").await.unwrap();
    refused(
        client.user_add("B", "other").await,
        Code::FailedPrecondition,
        "etcdserver: user name already exists",
    );
    assert_eq!(client.user_list().await.unwrap().users, ["B", "empty", "long", "none"]);
    assert_eq!(auth_revision(&client).await, 5);
    refused(client.user_delete("b").await, Code::FailedPrecondition, NOT_FOUND);
    client.user_delete("B").await.unwrap();
    refused(client.user_get("B").await, Code::FailedPrecondition, NOT_FOUND);
    assert_eq!(auth_revision(&client).await, 6);

    // While auth is off, root is a user like any other.
    client.user_add("root", "r").await.unwrap();
    client.user_delete("root").await.unwrap();
    let root = enable(&client).await;
    refused(root.user_delete("root").await, Code::InvalidArgument, MANAGEMENT);
    refused(root.user_revoke_role("root", "root").await, Code::InvalidArgument, MANAGEMENT);
    refused(root.role_delete("root").await, Code::InvalidArgument, MANAGEMENT);
}

/// AUT-4, AUT-13: passwords.
#[tokio::test]
async fn a_changed_password_invalidates_the_tokens_of_the_old_one() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    root.user_add("u", "first").await.unwrap();
    root.user_add("empty", "").await.unwrap();
    root.user_add_without_password("none").await.unwrap();
    for (name, password) in [("u", "First"), ("u", ""), ("U", "first"), ("", ""), ("empty", "x")] {
        refused(client.authenticate(name, password).await, Code::InvalidArgument, FAILED);
    }
    refused(
        client.authenticate("none", "").await,
        Code::Unknown,
        "auth: authentication failed, password was given for no password user",
    );
    client.authenticate("empty", "").await.unwrap();

    // A token is 16 letters and a number.
    let token = client.authenticate("u", "first").await.unwrap().token;
    let (letters, number) = token.split_once('.').unwrap();
    assert!(letters.len() == 16 && letters.bytes().all(|byte| byte.is_ascii_alphabetic()), "{token}");
    number.parse::<u64>().unwrap();
    let user = client.with_token(&token);
    user.user_get("u").await.unwrap();

    refused(root.user_change_password("nobody", "x").await, Code::FailedPrecondition, NOT_FOUND);
    root.user_change_password("u", "second").await.unwrap();
    refused(user.user_get("u").await, Code::Unauthenticated, "etcdserver: invalid auth token");
    refused(client.authenticate("u", "first").await, Code::InvalidArgument, FAILED);
    let user = client.login("u", "second").await;
    user.user_get("u").await.unwrap();
    // A user without a password cannot be given one.
    root.user_change_password("none", "x").await.unwrap();
    assert!(client.authenticate("none", "x").await.is_err());

    // A user of the same name is somebody else.
    root.user_delete("u").await.unwrap();
    root.user_add("u", "second").await.unwrap();
    refused(user.user_get("u").await, Code::Unauthenticated, "etcdserver: invalid auth token");
}

/// A change of a password takes `hashedPassword`. UserAdd does not: etcd hashes the plain password there.
#[tokio::test]
async fn a_hashed_password_is_accepted_for_a_change_only() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    // As Go writes it.
    let hash = bcrypt::hash("secret", 4).unwrap().replacen("$2b$", "$2a$", 1);
    let hashed_password = base64::engine::general_purpose::STANDARD.encode(hash);
    let add = AuthUserAddRequest {
        name: "u".into(),
        password: "plain".into(),
        hashed_password: hashed_password.clone(),
        options: None,
    };
    root.user_add_request(add).await.unwrap();
    client.authenticate("u", "plain").await.unwrap();
    let change = |hashed_password: &str| AuthUserChangePasswordRequest {
        name: "u".into(),
        password: String::new(),
        hashed_password: hashed_password.into(),
    };
    root.user_change_password_request(change(&hashed_password)).await.unwrap();
    client.authenticate("u", "secret").await.unwrap();
    refused(
        root.user_change_password_request(change("no base64!")).await,
        Code::Unknown,
        "auth: authentication failed, password was given for no password user",
    );
    client.authenticate("u", "secret").await.unwrap();
    // Nothing at all is a password that nobody has.
    root.user_change_password_request(change("")).await.unwrap();
    refused(client.authenticate("u", "").await, Code::InvalidArgument, FAILED);
    refused(client.authenticate("u", "secret").await, Code::InvalidArgument, FAILED);
}

/// AUT-1, AUT-4: roles.
#[tokio::test]
async fn roles_are_added_granted_revoked_and_deleted() {
    let server = Server::start().await;
    let client = server.client().await;
    refused(client.role_add("").await, Code::InvalidArgument, "etcdserver: role name is empty");
    for role in ["writer", "Reader", "other"] {
        client.role_add(role).await.unwrap();
    }
    refused(client.role_add("other").await, Code::FailedPrecondition, "etcdserver: role name already exists");
    assert_eq!(client.role_list().await.unwrap().roles, ["Reader", "other", "writer"]);
    client.user_add("u", "").await.unwrap();
    assert_eq!(auth_revision(&client).await, 5);
    refused(client.user_grant_role("nobody", "other").await, Code::FailedPrecondition, NOT_FOUND);
    refused(client.user_grant_role("u", "nothing").await, Code::FailedPrecondition, NO_ROLE);
    for role in ["writer", "other", "Reader", "other", "root"] {
        client.user_grant_role("u", role).await.unwrap();
    }
    assert_eq!(auth_revision(&client).await, 9, "a role that is held already changes nothing");
    assert_eq!(client.user_get("u").await.unwrap().roles, ["Reader", "other", "root", "writer"]);
    refused(client.user_revoke_role("nobody", "other").await, Code::FailedPrecondition, NOT_FOUND);
    client.user_revoke_role("u", "other").await.unwrap();
    for role in ["other", "nothing"] {
        refused(
            client.user_revoke_role("u", role).await,
            Code::FailedPrecondition,
            "etcdserver: role is not granted to the user",
        );
    }
    refused(client.role_delete("nothing").await, Code::FailedPrecondition, NO_ROLE);
    client.role_delete("Reader").await.unwrap();
    assert_eq!(client.user_get("u").await.unwrap().roles, ["root", "writer"]);
    assert_eq!(auth_revision(&client).await, 11);
}

/// AUT-1, AUT-4: permissions of roles.
#[tokio::test]
async fn permissions_are_kept_by_range_in_the_order_of_their_keys() {
    let server = Server::start().await;
    let client = server.client().await;
    let given = |key: &str, end: &[u8]| Some(permission(Read, key, end));
    client.role_add("r").await.unwrap();
    refused(
        client.role_grant("nothing", None).await,
        Code::InvalidArgument,
        "etcdserver: permission not given",
    );
    for (key, end) in [("", &b""[..]), ("", b"\0"), ("b", b"a"), ("b", b"b")] {
        refused(client.role_grant("r", given(key, end)).await, Code::InvalidArgument, MANAGEMENT);
    }
    refused(client.role_grant("nothing", given("a", b"")).await, Code::FailedPrecondition, NO_ROLE);
    let before = auth_revision(&client).await;
    let all = [
        permission(Read, "m", ""),
        permission(Write, "a", "\0"),
        permission(Readwrite, b"\xff\0", ""),
        permission(Write, "m", "n"),
        permission(Read, "m", "z"),
    ];
    for permission in &all {
        client.role_grant("r", Some(permission.clone())).await.unwrap();
    }
    let order = [1, 0, 3, 4, 2].map(|at: usize| all[at].clone());
    assert_eq!(client.role_get("r").await.unwrap().perm, order);
    assert_eq!(auth_revision(&client).await, before + 5);

    // The same range again: replaced.
    client.role_grant("r", Some(permission(Readwrite, "m", ""))).await.unwrap();
    client.role_grant("r", Some(permission(Readwrite, "m", ""))).await.unwrap();
    let mut replaced = order.clone();
    replaced[1] = permission(Readwrite, "m", "");
    assert_eq!(client.role_get("r").await.unwrap().perm, replaced);
    assert_eq!(auth_revision(&client).await, before + 7);
    // But not behind another one that begins at the same key, where etcd does not look.
    client.role_grant("r", Some(permission(Readwrite, "m", "n"))).await.unwrap();
    let perm = client.role_get("r").await.unwrap().perm;
    assert_eq!(perm.iter().filter(|given| given.key == "m" && given.range_end == "n").count(), 2);

    refused(client.role_revoke("nothing", "m", "").await, Code::FailedPrecondition, NO_ROLE);
    for (key, end) in [("m", "zz"), ("b", ""), ("a", "")] {
        refused(
            client.role_revoke("r", key, end).await,
            Code::FailedPrecondition,
            "etcdserver: permission is not granted to the role",
        );
    }
    client.role_revoke("r", "m", "n").await.unwrap();
    client.role_revoke("r", "a", "\0").await.unwrap();
    let left = [replaced[1].clone(), all[4].clone(), all[2].clone()];
    assert_eq!(client.role_get("r").await.unwrap().perm, left);

    refused(client.role_get("root").await, Code::FailedPrecondition, NO_ROLE);
    client.role_add("root").await.unwrap();
    client.role_grant("root", given("a", b"")).await.unwrap();
    assert_eq!(client.role_get("root").await.unwrap().perm, [permission(Readwrite, "", "\0")]);
}

/// AUT-11, AUT-12, AUT-15
#[tokio::test]
async fn only_root_manages_users_and_roles_and_each_user_may_get_its_own() {
    let server = Server::start().await;
    let client = server.client().await;
    let root = enable(&client).await;
    for name in ["u", "v", "ghost"] {
        add_user(&root, name, &[]).await;
    }
    root.role_add("root").await.unwrap();
    let user = client.login("u", "u").await;

    // Nobody, and somebody who cannot be.
    let (empty, token) = ("etcdserver: user name is empty", "etcdserver: invalid auth token");
    let stranger = client.with_token("aaaaaaaaaaaaaaaa.1");
    let denied = "etcdserver: permission denied";
    for (who, code, text) in [
        (&client, Code::InvalidArgument, empty),
        (&stranger, Code::Unauthenticated, token),
        (&user, Code::PermissionDenied, denied),
    ] {
        refused(who.auth_enable().await, code, text);
        refused(who.auth_disable().await, code, text);
        refused(who.user_add("new", "p").await, code, text);
        refused(who.user_delete("nobody").await, code, text);
        refused(who.user_change_password("u", "p").await, code, text);
        refused(who.user_grant_role("u", "root").await, code, text);
        refused(who.user_revoke_role("u", "u").await, code, text);
        refused(who.user_get("v").await, code, text);
        refused(who.user_list().await, code, text);
        refused(who.role_add("new").await, code, text);
        refused(who.role_delete("nothing").await, code, text);
        refused(who.role_get("v").await, code, text);
        refused(who.role_get("nothing").await, code, text);
        refused(who.role_list().await, code, text);
        refused(who.role_grant("u", None).await, code, text);
        refused(who.role_revoke("u", "k", "").await, code, text);
    }
    assert_eq!(user.user_get("u").await.unwrap().roles, ["u"]);
    assert_eq!(user.role_get("u").await.unwrap().perm, []);
    // Permissions are checked before the request, except for a password that cannot be hashed.
    refused(user.user_add("", "p").await, Code::PermissionDenied, denied);
    refused(
        client.user_add("", &"p".repeat(73)).await,
        Code::Unknown,
        "bcrypt: password length exceeds 72 bytes",
    );

    // Anybody may ask whether auth is on and log in; a wrong token is wrong for the one and nothing to the
    // other.
    assert!(client.auth_status().await.unwrap().enabled);
    assert!(user.auth_status().await.unwrap().enabled);
    refused(stranger.auth_status().await, Code::Unauthenticated, token);
    stranger.authenticate("u", "u").await.unwrap();

    // A role that makes an administrator.
    root.user_grant_role("u", "root").await.unwrap();
    user.user_add("new", "p").await.unwrap();
}
