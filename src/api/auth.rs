//! The Auth service.

use super::header::HeaderSource;
use super::identity::caller;
use crate::auth::{self, Permission, READ_WRITE, ROOT};
use crate::engine::{AuthChange, Engine};
use crate::error::EtcdError;
use crate::proto::authpb;
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::proto::etcdserverpb::{
    AuthDisableRequest, AuthDisableResponse, AuthEnableRequest, AuthEnableResponse, AuthRoleAddRequest,
    AuthRoleAddResponse, AuthRoleDeleteRequest, AuthRoleDeleteResponse, AuthRoleGetRequest,
    AuthRoleGetResponse, AuthRoleGrantPermissionRequest, AuthRoleGrantPermissionResponse,
    AuthRoleListRequest, AuthRoleListResponse, AuthRoleRevokePermissionRequest,
    AuthRoleRevokePermissionResponse, AuthStatusRequest, AuthStatusResponse, AuthUserAddRequest,
    AuthUserAddResponse, AuthUserChangePasswordRequest, AuthUserChangePasswordResponse,
    AuthUserDeleteRequest, AuthUserDeleteResponse, AuthUserGetRequest, AuthUserGetResponse,
    AuthUserGrantRoleRequest, AuthUserGrantRoleResponse, AuthUserListRequest, AuthUserListResponse,
    AuthUserRevokeRoleRequest, AuthUserRevokeRoleResponse, AuthenticateRequest, AuthenticateResponse,
    ResponseHeader,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tonic::{Request, Response, Status};

/// The Auth service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct AuthService {
    engine: Engine,
    header: HeaderSource,
}

impl AuthService {
    /// Serves `engine`.
    pub(crate) fn new(engine: Engine, header: HeaderSource) -> AuthService {
        AuthService { engine, header }
    }

    fn header(&self) -> ResponseHeader {
        self.header.at(self.engine.reader().revision())
    }

    /// Makes a change of users or roles, which needs the role `root`.
    async fn change<T>(
        &self,
        request: Request<T>,
        change: impl FnOnce(T) -> AuthChange,
    ) -> Result<ResponseHeader, Status> {
        let caller = caller(&self.engine, &request).await?;
        self.engine.change_auth(&caller, change(request.into_inner())).await?;
        Ok(self.header())
    }

    async fn hash(&self, password: String) -> Result<String, EtcdError> {
        auth::hash(password, self.engine.auth().bcrypt_cost()).await
    }
}

/// A hash that a client has made itself. As in etcd, it is in base64, and not checked further.
fn given_hash(text: &str) -> Result<String, EtcdError> {
    let hash = STANDARD.decode(text).map_err(|_| EtcdError::NoPasswordUser)?;
    Ok(String::from_utf8(hash).unwrap_or_default())
}

fn wire_permission(permission: &Permission) -> authpb::Permission {
    authpb::Permission {
        perm_type: permission.kind,
        key: permission.key.clone(),
        range_end: permission.range_end.clone(),
    }
}

#[tonic::async_trait]
impl Auth for AuthService {
    async fn auth_enable(
        &self,
        request: Request<AuthEnableRequest>,
    ) -> Result<Response<AuthEnableResponse>, Status> {
        let header = self.change(request, |_| AuthChange::Enable).await?;
        Ok(Response::new(AuthEnableResponse { header: Some(header) }))
    }

    async fn auth_disable(
        &self,
        request: Request<AuthDisableRequest>,
    ) -> Result<Response<AuthDisableResponse>, Status> {
        let header = self.change(request, |_| AuthChange::Disable).await?;
        Ok(Response::new(AuthDisableResponse { header: Some(header) }))
    }

    async fn auth_status(
        &self,
        request: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        // Every caller may ask, but a token must be valid.
        caller(&self.engine, &request).await?;
        let store = self.engine.auth_store().await?;
        Ok(Response::new(AuthStatusResponse {
            header: Some(self.header()),
            enabled: store.is_enabled(),
            auth_revision: store.revision(),
        }))
    }

    async fn authenticate(
        &self,
        request: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        let AuthenticateRequest { name, password } = request.into_inner();
        let token = self.engine.authenticate(&name, &password).await?;
        Ok(Response::new(AuthenticateResponse { header: Some(self.header()), token }))
    }

    async fn user_add(
        &self,
        mut request: Request<AuthUserAddRequest>,
    ) -> Result<Response<AuthUserAddResponse>, Status> {
        let has_password = !request.get_ref().options.is_some_and(|options| options.no_password);
        let password = std::mem::take(&mut request.get_mut().password);
        // As in etcd, the hash is made before the checks.
        let hash = if has_password { Some(self.hash(password).await?) } else { None };
        let header = self.change(request, |request| AuthChange::AddUser { name: request.name, hash }).await?;
        Ok(Response::new(AuthUserAddResponse { header: Some(header) }))
    }

    async fn user_get(
        &self,
        request: Request<AuthUserGetRequest>,
    ) -> Result<Response<AuthUserGetResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        let store = self.engine.auth_store().await?;
        let name = request.into_inner().name;
        if caller.user().unwrap_or_default() != name {
            store.check_admin(caller.user())?;
        }
        let roles = store.roles_of(&name)?.iter().cloned().collect();
        Ok(Response::new(AuthUserGetResponse { header: Some(self.header()), roles }))
    }

    async fn user_list(
        &self,
        request: Request<AuthUserListRequest>,
    ) -> Result<Response<AuthUserListResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        let store = self.engine.auth_store().await?;
        store.check_admin(caller.user())?;
        let users = store.users().cloned().collect();
        Ok(Response::new(AuthUserListResponse { header: Some(self.header()), users }))
    }

    async fn user_delete(
        &self,
        request: Request<AuthUserDeleteRequest>,
    ) -> Result<Response<AuthUserDeleteResponse>, Status> {
        let header = self.change(request, |request| AuthChange::DeleteUser(request.name)).await?;
        Ok(Response::new(AuthUserDeleteResponse { header: Some(header) }))
    }

    async fn user_change_password(
        &self,
        mut request: Request<AuthUserChangePasswordRequest>,
    ) -> Result<Response<AuthUserChangePasswordResponse>, Status> {
        let password = std::mem::take(&mut request.get_mut().password);
        let hash = if password.is_empty() { None } else { Some(self.hash(password).await?) };
        let header = self
            .change(request, |request| {
                let hash = hash.map_or_else(|| given_hash(&request.hashed_password), Ok);
                AuthChange::ChangePassword { name: request.name, hash }
            })
            .await?;
        Ok(Response::new(AuthUserChangePasswordResponse { header: Some(header) }))
    }

    async fn user_grant_role(
        &self,
        request: Request<AuthUserGrantRoleRequest>,
    ) -> Result<Response<AuthUserGrantRoleResponse>, Status> {
        let change = |request: AuthUserGrantRoleRequest| AuthChange::GrantRole {
            user: request.user,
            role: request.role,
        };
        let header = self.change(request, change).await?;
        Ok(Response::new(AuthUserGrantRoleResponse { header: Some(header) }))
    }

    async fn user_revoke_role(
        &self,
        request: Request<AuthUserRevokeRoleRequest>,
    ) -> Result<Response<AuthUserRevokeRoleResponse>, Status> {
        let change = |request: AuthUserRevokeRoleRequest| AuthChange::RevokeRole {
            user: request.name,
            role: request.role,
        };
        let header = self.change(request, change).await?;
        Ok(Response::new(AuthUserRevokeRoleResponse { header: Some(header) }))
    }

    async fn role_add(
        &self,
        request: Request<AuthRoleAddRequest>,
    ) -> Result<Response<AuthRoleAddResponse>, Status> {
        let header = self.change(request, |request| AuthChange::AddRole(request.name)).await?;
        Ok(Response::new(AuthRoleAddResponse { header: Some(header) }))
    }

    async fn role_get(
        &self,
        request: Request<AuthRoleGetRequest>,
    ) -> Result<Response<AuthRoleGetResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        let store = self.engine.auth_store().await?;
        let role = request.into_inner().role;
        if !store.has_role(caller.user().unwrap_or_default(), &role) {
            store.check_admin(caller.user())?;
        }
        let permissions = store.permissions_of(&role)?;
        let perm = if role == ROOT {
            let (key, range_end) = (Bytes::new(), Bytes::from_static(&[0]));
            vec![authpb::Permission { perm_type: READ_WRITE, key, range_end }]
        } else {
            permissions.iter().map(wire_permission).collect()
        };
        Ok(Response::new(AuthRoleGetResponse { header: Some(self.header()), perm }))
    }

    async fn role_list(
        &self,
        request: Request<AuthRoleListRequest>,
    ) -> Result<Response<AuthRoleListResponse>, Status> {
        let caller = caller(&self.engine, &request).await?;
        let store = self.engine.auth_store().await?;
        store.check_admin(caller.user())?;
        let roles = store.roles().cloned().collect();
        Ok(Response::new(AuthRoleListResponse { header: Some(self.header()), roles }))
    }

    async fn role_delete(
        &self,
        request: Request<AuthRoleDeleteRequest>,
    ) -> Result<Response<AuthRoleDeleteResponse>, Status> {
        let header = self.change(request, |request| AuthChange::DeleteRole(request.role)).await?;
        Ok(Response::new(AuthRoleDeleteResponse { header: Some(header) }))
    }

    async fn role_grant_permission(
        &self,
        request: Request<AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<AuthRoleGrantPermissionResponse>, Status> {
        let header = self
            .change(request, |AuthRoleGrantPermissionRequest { name, perm }| {
                let permission = perm.map(|perm| Permission {
                    kind: perm.perm_type,
                    key: perm.key,
                    range_end: perm.range_end,
                });
                AuthChange::GrantPermission { role: name, permission }
            })
            .await?;
        Ok(Response::new(AuthRoleGrantPermissionResponse { header: Some(header) }))
    }

    async fn role_revoke_permission(
        &self,
        request: Request<AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<AuthRoleRevokePermissionResponse>, Status> {
        let header = self
            .change(request, |AuthRoleRevokePermissionRequest { role, key, range_end }| {
                AuthChange::RevokePermission { role, key: key.to_vec(), range_end: range_end.to_vec() }
            })
            .await?;
        Ok(Response::new(AuthRoleRevokePermissionResponse { header: Some(header) }))
    }
}
