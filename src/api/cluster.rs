//! The Cluster service: the instances of the bucket.

use super::header::HeaderSource;
use super::identity::{require_admin, require_identity};
use crate::engine::{Engine, MemberChange};
use crate::error::EtcdError;
use crate::nats_server;
use crate::proto::etcdserverpb::cluster_server::Cluster;
use crate::proto::etcdserverpb::{
    Member, MemberAddRequest, MemberAddResponse, MemberListRequest, MemberListResponse, MemberPromoteRequest,
    MemberPromoteResponse, MemberRemoveRequest, MemberRemoveResponse, MemberUpdateRequest,
    MemberUpdateResponse,
};
use crate::record;
use crate::types::Revision;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tonic::{Request, Response, Status};

/// How long the answer of `MemberAdd` may wait until others can join a member that was alone. etcdctl gives a
/// call 5 s.
const JOINABLE_TIMEOUT: Duration = Duration::from_secs(4);

/// The way to the task that makes a member that is alone one of several.
#[derive(Clone, Debug)]
pub(crate) struct Founding(pub(crate) mpsc::Sender<oneshot::Sender<Result<(), EtcdError>>>);

impl Founding {
    /// Makes the list of members one that calls change.
    async fn found(&self) -> Result<(), EtcdError> {
        let (sender, outcome) = oneshot::channel();
        self.0.send(sender).await.map_err(|_| EtcdError::Stopped)?;
        outcome.await.unwrap_or(Err(EtcdError::Stopped))
    }
}

/// The Cluster service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct ClusterService {
    engine: Engine,
    header: HeaderSource,
    /// The cluster's token.
    token: String,
    /// With an embedded server.
    founding: Option<Founding>,
}

impl ClusterService {
    /// Serves `engine`, whose cluster has a token.
    pub(crate) fn new(
        engine: Engine,
        header: HeaderSource,
        token: String,
        founding: Option<Founding>,
    ) -> ClusterService {
        ClusterService { engine, header, token, founding }
    }

    fn members(&self) -> Vec<Member> {
        self.engine.members().into_iter().map(wire_member).collect()
    }

    /// Checks that no member has these peer URLs.
    fn check_free(&self, urls: &[String]) -> Result<(), EtcdError> {
        let members = self.engine.members();
        let is_taken = urls.iter().any(|url| members.iter().any(|member| member.peer_urls.contains(url)));
        if is_taken { Err(EtcdError::PeerUrlExists) } else { Ok(()) }
    }

    fn find(&self, id: u64) -> Result<record::Member, EtcdError> {
        self.engine.members().into_iter().find(|member| member.id == id).ok_or(EtcdError::MemberNotFound)
    }
}

fn wire_member(member: record::Member) -> Member {
    Member {
        id: member.id,
        name: member.name,
        peer_ur_ls: member.peer_urls,
        client_ur_ls: member.client_urls,
        is_learner: member.is_learner,
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
        Ok(Response::new(MemberListResponse { header, members: self.members() }))
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
        let mode = self.engine.mode();
        if let Some(founding) = self.founding.as_ref().filter(|_| mode.is_alone() || mode.is_moving()) {
            self.check_free(urls)?;
            founding.found().await?;
        }
        if self.engine.mode().has_fixed_members() {
            let MemberAddRequest { peer_ur_ls: peer_urls, is_learner } = request.into_inner();
            let id = nats_server::member_id(&peer_urls, &self.token);
            let member = record::Member { id, peer_urls, is_learner, ..record::Member::default() };
            let was_alone = self.engine.mode().is_alone();
            self.engine.change_members(MemberChange::Add(member.clone())).await?;
            if was_alone {
                // A member that starts now gives up where nobody answers it in time.
                drop(tokio::time::timeout(JOINABLE_TIMEOUT, self.engine.await_joinable()).await);
            }
            let header = Some(self.header.at(Revision(0)));
            let member = Some(wire_member(member));
            return Ok(Response::new(MemberAddResponse { header, member, members: self.members() }));
        }
        self.check_free(urls)?;
        tracing::warn!("members are not added: start another instance on the same NATS bucket instead");
        Err(EtcdError::NotEnoughStartedMembers.into())
    }

    async fn member_remove(
        &self,
        request: Request<MemberRemoveRequest>,
    ) -> Result<Response<MemberRemoveResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let id = request.into_inner().id;
        if self.engine.mode().has_fixed_members() {
            self.engine.change_members(MemberChange::Remove(id)).await?;
            let header = Some(self.header.at(Revision(0)));
            return Ok(Response::new(MemberRemoveResponse { header, members: self.members() }));
        }
        self.find(id)?;
        if id == self.header.member_id {
            return Err(EtcdError::NotEnoughStartedMembers.into());
        }
        self.engine.set_member(id, None).await?;
        let header = Some(self.header.at(Revision(0)));
        Ok(Response::new(MemberRemoveResponse { header, members: self.members() }))
    }

    async fn member_update(
        &self,
        request: Request<MemberUpdateRequest>,
    ) -> Result<Response<MemberUpdateResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let MemberUpdateRequest { id, peer_ur_ls: peer_urls } = request.into_inner();
        if self.engine.mode().has_fixed_members() {
            self.engine.change_members(MemberChange::Update { id, peer_urls }).await?;
        } else {
            let member = record::Member { peer_urls, ..self.find(id)? };
            self.engine.set_member(id, Some(member)).await?;
        }
        let header = Some(self.header.at(Revision(0)));
        Ok(Response::new(MemberUpdateResponse { header, members: self.members() }))
    }

    async fn member_promote(
        &self,
        request: Request<MemberPromoteRequest>,
    ) -> Result<Response<MemberPromoteResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let id = request.into_inner().id;
        if !self.engine.mode().has_fixed_members() {
            self.find(id)?;
            return Err(EtcdError::MemberNotLearner.into());
        }
        self.engine.change_members(MemberChange::Promote(id)).await?;
        let header = Some(self.header.at(Revision(0)));
        Ok(Response::new(MemberPromoteResponse { header, members: self.members() }))
    }
}

/// Whether a URL has a scheme, a host, a port and no more.
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
