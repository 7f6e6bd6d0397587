//! The Maintenance service.

use super::header::HeaderSource;
use super::identity::{require_admin, require_identity};
use crate::engine::Engine;
use crate::error::EtcdError;
use crate::proto::etcdserverpb::alarm_request::AlarmAction;
use crate::proto::etcdserverpb::downgrade_request::DowngradeAction;
use crate::proto::etcdserverpb::maintenance_server::Maintenance;
use crate::proto::etcdserverpb::{
    AlarmMember, AlarmRequest, AlarmResponse, AlarmType, DefragmentRequest, DefragmentResponse,
    DowngradeInfo, DowngradeRequest, DowngradeResponse, HashKvRequest, HashKvResponse, HashRequest,
    HashResponse, MoveLeaderRequest, MoveLeaderResponse, ResponseHeader, SnapshotRequest, SnapshotResponse,
    StatusRequest, StatusResponse,
};
use crate::record::{Alarm, AlarmKind};
use crate::snapshot::{Blob, SNAPSHOT_REVISION, Snapshot};
use crate::types::Revision;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use std::time::Instant;
use tonic::metadata::MetadataValue;
use tonic::{Request, Response, Status};

/// The Maintenance service of an instance.
#[derive(Clone, Debug)]
pub(crate) struct MaintenanceService {
    engine: Engine,
    header: HeaderSource,
    quota_bytes: i64,
}

impl MaintenanceService {
    /// Serves `engine`; the quota is only reported.
    pub(crate) fn new(engine: Engine, header: HeaderSource, quota_bytes: i64) -> MaintenanceService {
        MaintenanceService { engine, header, quota_bytes }
    }

    fn header(&self) -> ResponseHeader {
        self.header.at(self.engine.reader().revision())
    }
}

fn wire_alarm(alarm: Alarm) -> AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => AlarmType::Nospace,
        AlarmKind::Corrupt => AlarmType::Corrupt,
    };
    AlarmMember { member_id: alarm.member, alarm: kind as i32 }
}

fn alarm_kind(alarm: i32) -> Option<AlarmKind> {
    match AlarmType::try_from(alarm) {
        Ok(AlarmType::Nospace) => Some(AlarmKind::NoSpace),
        Ok(AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
        Ok(AlarmType::None) | Err(_) => None,
    }
}

/// The revision that a client wants a snapshot of, which etcd's request has no field for.
fn asked_revision<T>(request: &Request<T>) -> Result<Option<Revision>, Status> {
    let Some(value) = request.metadata().get(SNAPSHOT_REVISION) else { return Ok(None) };
    let revision = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|revision| *revision > 0);
    let wrong = || Status::invalid_argument(format!("{SNAPSHOT_REVISION}: give a number above 0"));
    revision.map(|revision| Some(Revision(revision))).ok_or_else(wrong)
}

/// The messages of a snapshot. The client's pace decides when the next one is made.
#[derive(Debug)]
pub(crate) struct Blobs {
    snapshot: Snapshot,
    revision: Revision,
    begun: Instant,
}

impl Iterator for Blobs {
    type Item = Result<SnapshotResponse, Status>;

    fn next(&mut self) -> Option<Self::Item> {
        let Some(Blob { bytes, remaining }) = self.snapshot.next() else {
            let (bytes, took) = (self.snapshot.size(), self.begun.elapsed());
            tracing::info!(bytes, revision = %self.revision, ?took, "sent a snapshot to a client");
            return None;
        };
        Some(Ok(SnapshotResponse {
            header: None,
            remaining_bytes: remaining,
            blob: bytes,
            version: CLUSTER_VERSION.to_owned(),
        }))
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    type SnapshotStream = tokio_stream::Iter<Blobs>;

    async fn alarm(&self, request: Request<AlarmRequest>) -> Result<Response<AlarmResponse>, Status> {
        if request.get_ref().action == AlarmAction::Get as i32 {
            require_identity(&self.engine, &request).await?;
        } else {
            require_admin(&self.engine, &request).await?;
        }
        let AlarmRequest { action, member_id, alarm } = request.into_inner();
        let kind = alarm_kind(alarm);
        let alarms = match (AlarmAction::try_from(action), kind) {
            (Ok(AlarmAction::Get), kind) => {
                let all = alarm == AlarmType::None as i32;
                let raised = self.engine.alarms().into_iter();
                raised.filter(|alarm| all || kind == Some(alarm.kind)).map(wire_alarm).collect()
            }
            (Ok(AlarmAction::Activate), Some(kind)) => {
                let alarm = Alarm { member: member_id, kind };
                self.engine.set_alarm(alarm, true).await?;
                vec![wire_alarm(alarm)]
            }
            (Ok(AlarmAction::Deactivate), Some(kind)) => {
                let alarm = Alarm { member: member_id, kind };
                if self.engine.alarms().contains(&alarm) {
                    self.engine.set_alarm(alarm, false).await?;
                    vec![wire_alarm(alarm)]
                } else {
                    Vec::new()
                }
            }
            (Ok(AlarmAction::Activate | AlarmAction::Deactivate), None) | (Err(_), _) => Vec::new(),
        };
        Ok(Response::new(AlarmResponse { header: Some(self.header()), alarms }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        require_identity(&self.engine, &request).await?;
        let size = self.engine.size().await;
        let state = self.engine.reader().snapshot();
        let mut errors: Vec<String> = Vec::new();
        let leader = self.engine.leader();
        if leader.is_err() {
            errors.push(EtcdError::NoLeader.to_string());
        }
        errors.extend(self.engine.read_only().map(|reason| reason.to_string()));
        errors.extend(self.engine.alarms().into_iter().map(|alarm| {
            let kind = alarm.kind.name();
            // As in protobuf's text form, fields that are zero are left out.
            match alarm.member {
                0 => format!("alarm:{kind}"),
                member => format!("memberID:{member} alarm:{kind}"),
            }
        }));
        let mut response = Response::new(StatusResponse {
            header: Some(self.header()),
            version: ETCD_VERSION.to_owned(),
            db_size: size.allocated as i64,
            db_size_in_use: size.in_use as i64,
            db_size_quota: self.quota_bytes,
            leader: leader.unwrap_or(0),
            raft_index: state.log_index.0,
            raft_applied_index: state.log_index.0,
            raft_term: self.header.at(state.revision).raft_term,
            errors,
            is_learner: false,
            storage_version: CLUSTER_VERSION.to_owned(),
            downgrade_info: Some(DowngradeInfo::default()),
        });
        response
            .metadata_mut()
            .insert("jetway-sync", MetadataValue::from_static(self.engine.durability().name()));
        Ok(response)
    }

    async fn defragment(
        &self,
        request: Request<DefragmentRequest>,
    ) -> Result<Response<DefragmentResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        // JetStream frees space by itself, since it rewrites blocks as messages are removed. This waits until
        // the messages that compactions have superseded are removed, but for tombstones, which are small.
        self.engine.finish_removals().await?;
        Ok(Response::new(DefragmentResponse { header: None }))
    }

    async fn hash(&self, request: Request<HashRequest>) -> Result<Response<HashResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let (hash, state) = self.engine.hash().await?;
        Ok(Response::new(HashResponse { header: Some(self.header.at(state.revision)), hash }))
    }

    async fn hash_kv(&self, request: Request<HashKvRequest>) -> Result<Response<HashKvResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let (hash, state) = self.engine.hash_kv(Revision(request.into_inner().revision)).await?;
        Ok(Response::new(HashKvResponse {
            header: Some(self.header.at(state.revision)),
            hash: hash.hash,
            compact_revision: hash.compacted.0,
            hash_revision: hash.revision.0,
        }))
    }

    async fn snapshot(
        &self,
        request: Request<SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        require_admin(&self.engine, &request).await?;
        let full_state = self.engine.full_state().await?;
        let state = &full_state.state;
        let asked = asked_revision(&request)?;
        let revision = asked.unwrap_or(state.revision);
        if state.compacted.is_some_and(|floor| revision < floor) {
            return Err(EtcdError::Compacted.into());
        }
        if revision > state.revision {
            return Err(EtcdError::FutureRevision.into());
        }
        let term = self.header.at(state.revision).raft_term;
        let laid_out =
            tokio::task::spawn_blocking(move || Snapshot::at(&full_state, term, CLUSTER_VERSION, revision));
        let snapshot = laid_out.await.map_err(|error| EtcdError::Unknown(error.to_string()))?;
        tracing::info!(bytes = snapshot.size(), %revision, "sending a snapshot to a client");
        let blobs = tokio_stream::iter(Blobs { snapshot, revision, begun: Instant::now() });
        let mut response = Response::new(blobs);
        if asked.is_some() {
            response.metadata_mut().insert(SNAPSHOT_REVISION, revision.0.into());
        }
        Ok(response)
    }

    async fn move_leader(
        &self,
        request: Request<MoveLeaderRequest>,
    ) -> Result<Response<MoveLeaderResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        if !self.engine.is_leader() {
            return Err(EtcdError::NotLeader.into());
        }
        self.engine.move_leader(request.into_inner().target_id).await?;
        Ok(Response::new(MoveLeaderResponse { header: None }))
    }

    async fn downgrade(
        &self,
        request: Request<DowngradeRequest>,
    ) -> Result<Response<DowngradeResponse>, Status> {
        require_admin(&self.engine, &request).await?;
        let DowngradeRequest { action, version } = request.into_inner();
        match DowngradeAction::try_from(action) {
            Ok(DowngradeAction::Cancel) => {}
            Ok(DowngradeAction::Validate | DowngradeAction::Enable) => {
                let wanted = major_minor(&version).ok_or(EtcdError::WrongDowngradeVersionFormat)?;
                let current = major_minor(CLUSTER_VERSION).ok_or(EtcdError::ClusterVersionUnavailable)?;
                if wanted != (current.0, current.1 - 1) {
                    return Err(EtcdError::InvalidDowngradeTargetVersion.into());
                }
                if action == DowngradeAction::Enable as i32 {
                    return Err(EtcdError::Unimplemented(
                        "jetway has no older storage version to downgrade to".into(),
                    )
                    .into());
                }
            }
            Err(_) => return Err(EtcdError::UnknownMethod.into()),
        }
        let version = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor).to_owned();
        Ok(Response::new(DowngradeResponse { header: Some(self.header()), version }))
    }
}

/// Major and minor of a version with two or three parts.
fn major_minor(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().ok());
    let found = (parts.next()??, parts.next()??);
    match (parts.next(), parts.next()) {
        (None | Some(Some(_)), None) => Some(found),
        _ => None,
    }
}
