//! The Cluster service: one member, this instance.

use super::header::HeaderSource;
use super::identity::{require_admin, require_identity};
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use crate::types::Revision;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tonic::{Request, Response, Status};

/// Peers are NATS's business; clients only want a URL to be there.
const PEER_URL: &str = "http://localhost:2380";

/// The Cluster service of an instance.
#[derive(Clone, Debug)]
pub struct ClusterService {
    engine: Engine,
    header: HeaderSource,
    name: String,
    client_urls: Vec<String>,
    /// What an update has set; forgotten with the process.
    peer_urls: Arc<Mutex<Vec<String>>>,
}

impl ClusterService {
    /// An instance of this name that clients reach at these URLs.
    pub fn new(
        engine: Engine,
        header: HeaderSource,
        name: String,
        client_urls: Vec<String>,
    ) -> ClusterService {
        let peer_urls = Arc::new(Mutex::new(vec![PEER_URL.to_owned()]));
        ClusterService { engine, header, name, client_urls, peer_urls }
    }

    fn member(&self) -> Member {
        Member {
            id: self.header.member_id,
            name: self.name.clone(),
            peer_ur_ls: self.peer_urls().clone(),
            client_ur_ls: self.client_urls.clone(),
            is_learner: false,
        }
    }

    fn peer_urls(&self) -> MutexGuard<'_, Vec<String>> {
        self.peer_urls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_known(&self, id: u64) -> Result<(), EtcdError> {
        if id == self.header.member_id { Ok(()) } else { Err(EtcdError::MemberNotFound) }
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        if request.get_ref().linearizable {
            self.engine.linearizable().await?;
        }
        require_identity(&self.engine, &request).await?;
        let header = Some(self.header.at(Revision(0)));
        Ok(Response::new(MemberListResponse { header, members: vec![self.member()] }))
    }

    async fn member_add(
        &self,
        request: Request<MemberAddRequest>,
    ) -> Result<Response<MemberAddResponse>, Status> {
        let urls = &request.get_ref().peer_ur_ls;
        if urls.is_empty() || !urls.iter().all(|url| is_peer_url(url)) {
            return Err(EtcdError::MemberBadUrls.into());
        }
        require_admin(&self.engine, &request).await?;
        if urls.iter().any(|url| self.peer_urls().contains(url)) {
            return Err(EtcdError::PeerUrlExists.into());
        }
        tracing::warn!("members are not added: start another instance on the same NATS bucket instead");
        Err(EtcdError::NotEnoughStartedMembers.into())
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        self.check_known(request.into_inner().id)?;
        Err(EtcdError::NotEnoughStartedMembers.into())
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        self.check_known(id)?;
        *self.peer_urls() = peer_ur_ls;
        let header = Some(self.header.at(Revision(0)));
        Ok(Response::new(MemberUpdateResponse { header, members: vec![self.member()] }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        self.check_known(request.into_inner().id)?;
        Err(EtcdError::MemberNotLearner.into())
    }
}

/// Scheme, host and port, and nothing behind them.
fn is_peer_url(text: &str) -> bool {
    let Ok(url) = url::Url::parse(text) else { return false };
    let has_place = matches!(url.scheme(), "unix" | "unixs")
        || (url.host().is_some()
            && text
                .rsplit_once(':')
                .is_some_and(|(_, port)| port.trim_end_matches('/').parse::<u16>().is_ok()));
    matches!(url.scheme(), "http" | "https" | "unix" | "unixs") && has_place && matches!(url.path(), "" | "/")
}

#[cfg(test)]
mod tests {
    use super::is_peer_url;

    #[test]
    fn peer_urls_are_scheme_host_and_port() {
        assert!(is_peer_url("http://10.0.0.1:2380") && is_peer_url("https://n1:2380"));
        for url in ["", "n1:2380", "http://n1", "ftp://n1:1", "http://n1:2380/path", "http://n1:port"] {
            assert!(!is_peer_url(url), "{url}");
        }
    }
}
