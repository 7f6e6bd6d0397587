//! Services that are not there yet. Each call says so, since a client must be able to tell "not here" from "failed".

use super::header::HeaderSource;
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::auth_server::Auth;
use crate::proto::etcdserverpb::{
    self as pb, AuthStatusRequest, AuthStatusResponse, AuthenticateRequest, AuthenticateResponse,
};
use std::pin::Pin;
use tonic::{Request, Response, Status};

const NO_AUTH: EtcdError = EtcdError::Unimplemented("jetway does not implement users and roles yet");

/// Auth.
#[derive(Clone, Debug)]
pub struct UnimplementedServices {
    /// Source of revisions.
    pub engine: Engine,
    /// Source of headers.
    pub header: HeaderSource,
}

/// Methods in the form that `async_trait` gives them: the attribute has done its work before this is expanded.
macro_rules! refuse {
    ($error:expr; $($name:ident($request:ty) -> $response:ty;)*) => {
        $(
            fn $name<'a, 'async_trait>(
                &'a self,
                _: Request<$request>,
            ) -> Pin<Box<dyn Future<Output = Result<Response<$response>, Status>> + Send + 'async_trait>>
            where
                'a: 'async_trait,
                Self: 'async_trait,
            {
                Box::pin(std::future::ready(Err($error.into())))
            }
        )*
    };
}

#[tonic::async_trait]
impl Auth for UnimplementedServices {
    async fn auth_status(
        &self,
        _: Request<AuthStatusRequest>,
    ) -> Result<Response<AuthStatusResponse>, Status> {
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(AuthStatusResponse { header, enabled: false, auth_revision: 1 }))
    }

    async fn authenticate(
        &self,
        _: Request<AuthenticateRequest>,
    ) -> Result<Response<AuthenticateResponse>, Status> {
        Err(EtcdError::AuthNotEnabled.into())
    }

    async fn auth_disable(
        &self,
        _: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        // Disabling what is off is no error in etcd.
        let header = Some(self.header.at(self.engine.reader().revision()));
        Ok(Response::new(pb::AuthDisableResponse { header }))
    }

    refuse! { NO_AUTH;
        auth_enable(pb::AuthEnableRequest) -> pb::AuthEnableResponse;
        user_add(pb::AuthUserAddRequest) -> pb::AuthUserAddResponse;
        user_get(pb::AuthUserGetRequest) -> pb::AuthUserGetResponse;
        user_list(pb::AuthUserListRequest) -> pb::AuthUserListResponse;
        user_delete(pb::AuthUserDeleteRequest) -> pb::AuthUserDeleteResponse;
        user_change_password(pb::AuthUserChangePasswordRequest) -> pb::AuthUserChangePasswordResponse;
        user_grant_role(pb::AuthUserGrantRoleRequest) -> pb::AuthUserGrantRoleResponse;
        user_revoke_role(pb::AuthUserRevokeRoleRequest) -> pb::AuthUserRevokeRoleResponse;
        role_add(pb::AuthRoleAddRequest) -> pb::AuthRoleAddResponse;
        role_get(pb::AuthRoleGetRequest) -> pb::AuthRoleGetResponse;
        role_list(pb::AuthRoleListRequest) -> pb::AuthRoleListResponse;
        role_delete(pb::AuthRoleDeleteRequest) -> pb::AuthRoleDeleteResponse;
        role_grant_permission(pb::AuthRoleGrantPermissionRequest) -> pb::AuthRoleGrantPermissionResponse;
        role_revoke_permission(pb::AuthRoleRevokePermissionRequest) -> pb::AuthRoleRevokePermissionResponse;
    }
}
