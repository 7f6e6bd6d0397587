//! One member becomes one of several, and the last of several stays alone, while the process serves.
//!
//! The list of members in the log decides. A server runs alone as long as its member does. Once a second
//! member is listed, JetStream's metadata is prepared by two servers beside the store, and nats-server is
//! started again as the only server of a cluster, which that of the new member joins. Once one member is
//! left, and its server has the only copy of the stream, nats-server is started again by itself.
//!
//! Calls wait while nats-server is exchanged. Each step is looked at again and again, so that one that a
//! crash has cut short is done by the next process.

use super::membership;
use crate::api::cluster::Founding;
use crate::cli::{Cluster, PeerFlagsError, ServerSettings, Storage};
use crate::engine::{Engine, Phase};
use crate::error::EtcdError;
use crate::nats_server::{self, Form, NatsServer};
use crate::transport::{PeerCertificateError, issue_peer_certificate};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// How often the list of members is looked at.
const INTERVAL: Duration = Duration::from_millis(100);
/// Pauses after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long the stream may be away after nats-server was started in another form.
const SETTLE_TIMEOUT: Duration = Duration::from_mins(1);
/// How long one answer about it may take: a request that comes before there is a leader gets none.
const ANSWER: Duration = Duration::from_millis(500);
/// How long a member that stays alone waits until it writes.
const HANDOVER: Duration = Duration::from_secs(10);

/// The form of the server cannot be changed.
#[derive(Debug, Error)]
enum ElasticError {
    #[error(transparent)]
    Flags(#[from] PeerFlagsError),
    #[error("--nats-config: a member with a configuration of its own for nats-server stays alone")]
    OwnConfig,
    #[error("--listen-peer-urls {address}: {source}")]
    Port { address: String, source: std::io::Error },
    #[error("the record of the members in the data directory: {0}")]
    Record(std::io::Error),
    #[error(transparent)]
    PeerCertificate(#[from] PeerCertificateError),
    #[error(transparent)]
    Server(#[from] nats_server::Error),
    #[error(transparent)]
    Preparation(#[from] nats_server::PreparationError),
    #[error(transparent)]
    Engine(#[from] crate::engine::StartError),
    #[error("{0}")]
    Member(EtcdError),
    #[error("the stream was not found whole after the change: {0}")]
    NotWhole(String),
}

/// The task.
pub(super) struct Elastic {
    engine: Engine,
    nats: Arc<NatsServer>,
    member_id: u64,
    data_dir: PathBuf,
    as_member: Result<Cluster, PeerFlagsError>,
    stop: CancellationToken,
}

impl Elastic {
    /// The task of an embedded server, and the way to it for calls.
    pub(super) fn new(
        settings: &ServerSettings,
        engine: &Engine,
        nats: &Arc<NatsServer>,
        member_id: u64,
        stop: &CancellationToken,
    ) -> Option<Elastic> {
        let Storage::Embedded { data_dir, as_member, .. } = &settings.storage else { return None };
        Some(Elastic {
            engine: engine.clone(),
            nats: Arc::clone(nats),
            member_id,
            data_dir: data_dir.clone(),
            as_member: (**as_member).clone(),
            stop: stop.clone(),
        })
    }

    /// Starts it. Returns the way by which a call asks it to let the members change.
    pub(super) fn spawn(self) -> Founding {
        let (sender, foundings) = mpsc::channel(1);
        tokio::spawn(self.run(foundings));
        Founding(sender)
    }

    async fn run(self, mut foundings: mpsc::Receiver<oneshot::Sender<Result<(), EtcdError>>>) {
        let (mut pause, mut next) = (FIRST_PAUSE, INTERVAL);
        if !self.engine.mode().is_alone() {
            // A crash may have left it. The engine has found the stream whole, by the mark beside the store.
            self.discard_copy();
        }
        loop {
            let founding = tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(next) => None,
                Some(founding) = foundings.recv() => Some(founding),
            };
            if let Some(founding) = founding {
                let outcome = self.found().await;
                founding.send(outcome.map_err(|error| EtcdError::StaysAlone(error.to_string()))).ok();
            }
            next = match self.follow_members().await {
                Ok(()) => {
                    pause = FIRST_PAUSE;
                    INTERVAL
                }
                Err(error) => {
                    tracing::error!(%error, "the server cannot be fitted to the number of members; tried again in {pause:?}");
                    let now = pause;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    now
                }
            };
        }
    }

    /// Checks whether this member can be one of several, and makes the list of members one that calls change.
    async fn found(&self) -> Result<(), ElasticError> {
        let cluster = self.as_member.clone()?;
        if !self.engine.mode().is_alone() {
            return Ok(());
        }
        if self.nats.settings().extra_config.is_some() {
            return Err(ElasticError::OwnConfig);
        }
        try_listen(&cluster.server.listen).await?;
        if self.engine.mode().has_fixed_members() {
            return Ok(());
        }
        // Earlier names and URLs of this member. No other one can have been here.
        for member in self.engine.members().into_iter().filter(|member| member.id != self.member_id) {
            self.engine.set_member(member.id, None).await.map_err(ElasticError::Member)?;
        }
        nats_server::remember_member(&self.data_dir, &cluster.server, self.member_id)
            .map_err(ElasticError::Record)?;
        self.engine.mode().set_fixed_members();
        let (engine, data_dir, stop) = (self.engine.clone(), self.data_dir.clone(), self.stop.clone());
        tokio::spawn(membership::keep_record(engine, self.member_id, data_dir, stop));
        Ok(())
    }

    /// Brings the server into the form that fits the members.
    async fn follow_members(&self) -> Result<(), ElasticError> {
        let mode = self.engine.mode();
        if !mode.has_fixed_members() || *self.engine.phase().borrow() != Phase::Serving {
            return Ok(());
        }
        let count = self.count().await;
        match (mode.is_alone(), count) {
            (true, Some(2..)) => self.join().await,
            (false, Some(1)) => self.part().await,
            _ => Ok(()),
        }
    }

    /// The number of members, this one among them, as a state shows it that is no older than the call.
    async fn count(&self) -> Option<usize> {
        let is_due = |count: usize| (count > 1) == self.engine.mode().is_alone();
        // A log that is being loaded afresh shows lists of earlier times.
        if is_due(self.engine.member_changes().borrow().len()) {
            self.engine.linearizable().await.ok()?;
        }
        let members = self.engine.member_changes().borrow().clone();
        if *self.engine.phase().borrow() != Phase::Serving || !members.contains_key(&self.member_id) {
            return None;
        }
        Some(members.len())
    }

    /// Makes the server, which is alone, the first one of a cluster.
    async fn join(&self) -> Result<(), ElasticError> {
        let Cluster { server, auto_tls, .. } = self.as_member.clone()?;
        try_listen(&server.listen).await?;
        nats_server::remember_name(&self.data_dir, &server).map_err(ElasticError::Record)?;
        if let Some(auto) = &auto_tls {
            issue_peer_certificate(
                &auto.dir,
                &server.token,
                super::start::hosts(&server),
                auto.validity_years,
            )?;
        }
        tracing::info!("a second member is listed; the metadata of a cluster is prepared");
        let prepared =
            nats_server::prepare(self.nats.settings(), &server.name, self.engine.log().api()).await?;
        let before =
            self.engine.log().info().await.map_err(|error| ElasticError::NotWhole(error.to_string()))?;
        let mode = self.engine.mode();
        mode.begin_move().await;
        let begun = tokio::time::Instant::now();
        let changed = async {
            self.engine.set_alone(false).await?;
            let form = Form::Member { settings: Box::new(server), prepared };
            self.nats.change(form).await?;
            self.find_whole(before.state.last_seq).await
        };
        let mut changed = changed.await;
        if let Err(ElasticError::NotWhole(reason)) = &changed {
            tracing::error!(reason, "the copy of the store takes its place again");
            if let Err(error) = self.nats.change(Form::Standalone { from_copy: true }).await {
                changed = Err(error.into());
            }
        }
        let alone = if changed.is_err() { self.engine.set_alone(true).await } else { Ok(()) };
        mode.end_move();
        alone?;
        self.discard_copy();
        if changed.is_ok() {
            tracing::info!(after = ?begun.elapsed(), "this member is the first one of a cluster; others may join");
        }
        changed
    }

    fn discard_copy(&self) {
        if let Err(error) = self.nats.discard_copy() {
            tracing::warn!(%error, "the copy of the store beside it cannot be removed");
        }
    }

    /// Waits until the stream is there with all that it had.
    async fn find_whole(&self, last: u64) -> Result<(), ElasticError> {
        let deadline = tokio::time::Instant::now() + SETTLE_TIMEOUT;
        loop {
            let reason = match tokio::time::timeout(ANSWER, self.engine.log().info()).await {
                Ok(Ok(info)) if !self.engine.log().is_same(&info) => {
                    "another stream is in its place".to_owned()
                }
                Ok(Ok(info)) if info.state.last_seq < last => {
                    format!("it ends at sequence {}, and had {last}", info.state.last_seq)
                }
                Ok(Ok(info)) if info.is_from_leader() => return Ok(()),
                Ok(Ok(_)) => "it has no leader".to_owned(),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "JetStream does not answer".to_owned(),
            };
            if tokio::time::Instant::now() >= deadline {
                return Err(ElasticError::NotWhole(reason));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Makes the server, whose cluster has no other member, one by itself, once it has the only copy.
    async fn part(&self) -> Result<(), ElasticError> {
        if !self.has_only_copy().await {
            return Ok(());
        }
        self.engine.await_removals_known().await;
        let begun = tokio::time::Instant::now();
        while !self.engine.is_leader() && begun.elapsed() < HANDOVER {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let (mode, begun) = (self.engine.mode(), tokio::time::Instant::now());
        mode.begin_move().await;
        // A server by itself refuses a stream with more copies. Another member may have been added meanwhile.
        if self.count().await != Some(1) || !self.has_only_copy().await {
            mode.end_move();
            return Ok(());
        }
        // A server by itself does not sync each message.
        mode.set_only_copy(true);
        let changed = self.nats.change(Form::Standalone { from_copy: false }).await;
        let alone = self.engine.set_alone(true).await;
        mode.end_move();
        changed?;
        alone?;
        tracing::info!(after = ?begun.elapsed(), "this member is alone; its server runs by itself");
        Ok(())
    }

    /// Whether this member's server has the stream for itself.
    async fn has_only_copy(&self) -> bool {
        let Ok(info) = self.engine.log().info().await else { return false };
        let name = self.as_member.as_ref().map(|cluster| cluster.server.name.as_str());
        info.copies() == 1 && info.is_settled() && info.leader() == name.ok()
    }
}

/// Checks that the port for other members is free.
async fn try_listen(address: &str) -> Result<(), ElasticError> {
    let failed = |source| ElasticError::Port { address: address.to_owned(), source };
    TcpListener::bind(address).await.map(drop).map_err(failed)
}
