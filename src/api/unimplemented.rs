//! Services that are not there yet. Each call says so, since a client must be able to tell "not here" from "failed".

use crate::error::EtcdError;
use crate::proto::v3electionpb as election;
use crate::proto::v3electionpb::election_server::Election;
use crate::proto::v3lockpb as lock;
use crate::proto::v3lockpb::lock_server::Lock;
use std::pin::Pin;
use tonic::{Request, Response, Status};

const NO_LOCK: EtcdError = EtcdError::Unimplemented(
    "jetway does not implement the Lock service yet; clients' own lock recipes work",
);
const NO_ELECTION: EtcdError = EtcdError::Unimplemented(
    "jetway does not implement the Election service yet; clients' own election recipes work",
);

/// Lock and Election.
#[derive(Clone, Copy, Debug)]
pub struct UnimplementedServices;

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
impl Lock for UnimplementedServices {
    refuse! { NO_LOCK;
        lock(lock::LockRequest) -> lock::LockResponse;
        unlock(lock::UnlockRequest) -> lock::UnlockResponse;
    }
}

#[tonic::async_trait]
impl Election for UnimplementedServices {
    type ObserveStream = tokio_stream::Empty<Result<election::LeaderResponse, Status>>;

    refuse! { NO_ELECTION;
        campaign(election::CampaignRequest) -> election::CampaignResponse;
        proclaim(election::ProclaimRequest) -> election::ProclaimResponse;
        leader(election::LeaderRequest) -> election::LeaderResponse;
        observe(election::LeaderRequest) -> Self::ObserveStream;
        resign(election::ResignRequest) -> election::ResignResponse;
    }
}
