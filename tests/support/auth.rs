//! Users, roles and tokens for tests.

use jetway::proto::authpb::{Permission, UserAddOptions, permission::Type};
use jetway::proto::etcdserverpb::*;

use crate::client::{Answer, Client, revision};
use crate::keys::b;

/// The calls of Auth.
impl Client {
    pub async fn auth_enable(&self) -> Answer<AuthEnableResponse> {
        self.unary("/etcdserverpb.Auth/AuthEnable", AuthEnableRequest {}).await
    }

    pub async fn auth_disable(&self) -> Answer<AuthDisableResponse> {
        self.unary("/etcdserverpb.Auth/AuthDisable", AuthDisableRequest {}).await
    }

    pub async fn authenticate(&self, name: &str, password: &str) -> Answer<AuthenticateResponse> {
        let request = AuthenticateRequest { name: name.into(), password: password.into() };
        self.unary("/etcdserverpb.Auth/Authenticate", request).await
    }

    /// A client that has logged in.
    pub async fn login(&self, name: &str, password: &str) -> Self {
        self.with_token(&self.authenticate(name, password).await.unwrap().token)
    }

    pub async fn user_add(&self, name: &str, password: &str) -> Answer<AuthUserAddResponse> {
        self.user_add_request(AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            ..Default::default()
        })
        .await
    }

    /// Adds a user that only a certificate can name.
    pub async fn user_add_without_password(&self, name: &str) -> Answer<AuthUserAddResponse> {
        let options = Some(UserAddOptions { no_password: true });
        self.user_add_request(AuthUserAddRequest { name: name.into(), options, ..Default::default() }).await
    }

    pub async fn user_add_request(&self, request: AuthUserAddRequest) -> Answer<AuthUserAddResponse> {
        self.unary("/etcdserverpb.Auth/UserAdd", request).await
    }

    pub async fn user_get(&self, name: &str) -> Answer<AuthUserGetResponse> {
        self.unary("/etcdserverpb.Auth/UserGet", AuthUserGetRequest { name: name.into() }).await
    }

    pub async fn user_list(&self) -> Answer<AuthUserListResponse> {
        self.unary("/etcdserverpb.Auth/UserList", AuthUserListRequest {}).await
    }

    pub async fn user_delete(&self, name: &str) -> Answer<AuthUserDeleteResponse> {
        self.unary("/etcdserverpb.Auth/UserDelete", AuthUserDeleteRequest { name: name.into() }).await
    }

    pub async fn user_change_password(
        &self,
        name: &str,
        password: &str,
    ) -> Answer<AuthUserChangePasswordResponse> {
        self.user_change_password_request(AuthUserChangePasswordRequest {
            name: name.into(),
            password: password.into(),
            hashed_password: String::new(),
        })
        .await
    }

    pub async fn user_change_password_request(
        &self,
        request: AuthUserChangePasswordRequest,
    ) -> Answer<AuthUserChangePasswordResponse> {
        self.unary("/etcdserverpb.Auth/UserChangePassword", request).await
    }

    pub async fn user_grant_role(&self, user: &str, role: &str) -> Answer<AuthUserGrantRoleResponse> {
        let request = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
        self.unary("/etcdserverpb.Auth/UserGrantRole", request).await
    }

    pub async fn user_revoke_role(&self, user: &str, role: &str) -> Answer<AuthUserRevokeRoleResponse> {
        let request = AuthUserRevokeRoleRequest { name: user.into(), role: role.into() };
        self.unary("/etcdserverpb.Auth/UserRevokeRole", request).await
    }

    pub async fn role_add(&self, name: &str) -> Answer<AuthRoleAddResponse> {
        self.unary("/etcdserverpb.Auth/RoleAdd", AuthRoleAddRequest { name: name.into() }).await
    }

    pub async fn role_get(&self, role: &str) -> Answer<AuthRoleGetResponse> {
        self.unary("/etcdserverpb.Auth/RoleGet", AuthRoleGetRequest { role: role.into() }).await
    }

    pub async fn role_list(&self) -> Answer<AuthRoleListResponse> {
        self.unary("/etcdserverpb.Auth/RoleList", AuthRoleListRequest {}).await
    }

    pub async fn role_delete(&self, role: &str) -> Answer<AuthRoleDeleteResponse> {
        self.unary("/etcdserverpb.Auth/RoleDelete", AuthRoleDeleteRequest { role: role.into() }).await
    }

    pub async fn role_grant(
        &self,
        role: &str,
        perm: Option<Permission>,
    ) -> Answer<AuthRoleGrantPermissionResponse> {
        let request = AuthRoleGrantPermissionRequest { name: role.into(), perm };
        self.unary("/etcdserverpb.Auth/RoleGrantPermission", request).await
    }

    pub async fn role_revoke(
        &self,
        role: &str,
        key: impl AsRef<[u8]>,
        range_end: impl AsRef<[u8]>,
    ) -> Answer<AuthRoleRevokePermissionResponse> {
        let request =
            AuthRoleRevokePermissionRequest { role: role.into(), key: b(key), range_end: b(range_end) };
        self.unary("/etcdserverpb.Auth/RoleRevokePermission", request).await
    }
}

/// A permission as on the wire.
pub fn permission(kind: Type, key: impl AsRef<[u8]>, range_end: impl AsRef<[u8]>) -> Permission {
    Permission { perm_type: kind.into(), key: b(key), range_end: b(range_end) }
}

/// Makes the user `root` and enables auth; returns a client that is root. Its password is `root`.
pub async fn enable(client: &Client) -> Client {
    client.user_add("root", "root").await.unwrap();
    client.user_grant_role("root", "root").await.unwrap();
    client.auth_enable().await.unwrap();
    client.login("root", "root").await
}

/// Adds a user with a role of the same name that holds these permissions; the name is the password too.
pub async fn add_user(root: &Client, name: &str, permissions: &[Permission]) {
    root.user_add(name, name).await.unwrap();
    root.role_add(name).await.unwrap();
    for permission in permissions {
        root.role_grant(name, Some(permission.clone())).await.unwrap();
    }
    root.user_grant_role(name, name).await.unwrap();
}

/// The auth revision, which anybody may ask for.
pub async fn auth_revision(client: &Client) -> u64 {
    let status = client.auth_status().await.unwrap();
    assert!(revision(&status.header) >= 1);
    status.auth_revision
}
