//! `jetway restore`: a snapshot, or the database of an etcd that is stopped, becomes the log of an empty
//! bucket. `jetway migrate`: a running server does.
//!
//! A database is read twice. The first reading checks it and finds the numbers of the log ([`plan`]), the
//! second one writes the records ([`mod@write`]). So a file that cannot be restored is refused before
//! anything is written.
//!
//! Invariants:
//! - M1: until all of the log is stored, and durable in an embedded store, the stream has a mark by which
//!   every jetway refuses it. A restore that is run again removes such a stream and begins anew.
//! - M1 in a cluster of jetway's own: until the data directory is that of a member, it has a mark by which
//!   every jetway refuses it.
//! - M1 in a process that serves the log from its end on: its engine writes and serves nothing while the
//!   stream has the mark, and clients are let in only when the store is durable without it.
//! - M2: the digests of the log are those of the database. A server that loads the log compares them.

mod cut;
mod error;
mod fence;
mod follow;
mod hashes;
mod migrate;
mod outcome;
mod pages;
mod plan;
mod progress;
mod source;
mod wal;
mod write;

use crate::durability::sync_all;
use crate::log::{Auth, Bucket, Demand, Endpoint, Log, Purpose, RunToken, Store};
use crate::nats_server::{self, ClusterSettings, NatsServer, NatsServerSettings};
use crate::types::Revision;
use error::LastStepError;
pub(crate) use error::RestoreError;
pub(crate) use migrate::{MigrateSettings, run as migrate};
pub(crate) use outcome::{MigrateError, Migrated};
pub(crate) use progress::Progress;
pub(crate) use source::Source;
use std::fs::File;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Room for the header of a message.
const MESSAGE_OVERHEAD_BYTES: usize = 512 * 1024;

/// The place of the restored store.
#[derive(Debug)]
pub(crate) enum Target {
    /// The embedded server's store.
    Embedded {
        /// Its server, which runs alone meanwhile.
        server: Box<NatsServerSettings>,
        /// The bucket.
        bucket: String,
        /// The member of a cluster that it becomes.
        member: Option<Box<ClusterSettings>>,
    },
    /// A bucket of an existing NATS, and what it has to hold.
    External(Box<Endpoint>, Demand),
    /// A bucket that this process serves from the end on.
    Served(Box<Served>),
}

/// A bucket that this process serves once it is whole.
#[derive(Debug)]
pub(crate) struct Served {
    /// Its NATS, which runs already.
    pub endpoint: Endpoint,
    /// The demand on it.
    pub demand: Demand,
    /// The store of an embedded server, which belongs to nobody else.
    pub store: Option<Store>,
    /// Its write errors, if it is an embedded server.
    pub write_error: Option<watch::Receiver<Option<String>>>,
    /// Cancelled when the log can be loaded: a load begins with the trim record, if there is to be one.
    pub can_be_loaded: CancellationToken,
    /// Cancelled when all of it is loaded, so that the source may be fenced.
    pub is_loaded: CancellationToken,
}

/// A restore.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The place of a snapshot, or of the data of an etcd.
    pub source: Source,
    /// Whether a file without a fitting checksum is taken.
    pub skips_hash_check: bool,
    /// Raises the revision by so much, and compacts all before.
    pub bump: Option<u64>,
    /// The last revision that is restored, if it is not that of the source.
    pub to_revision: Option<Revision>,
    /// The place of the store.
    pub target: Target,
}

/// The restored store.
#[derive(Clone, Debug)]
pub(crate) struct Restored {
    pub revision: Revision,
    pub floor: Option<Revision>,
    pub keys: usize,
    pub versions: usize,
    pub leases: usize,
    /// Those of them that had ended at the end of the source.
    pub ended_leases: usize,
    /// The member from which this one, which has no data, takes all.
    pub holder: Option<String>,
}

/// Restores a store. `progress` gets the number of versions that are written, of all.
///
/// # Errors
/// [`RestoreError`].
pub(crate) async fn run(
    settings: Settings,
    mut progress: impl FnMut(usize, usize) + Send,
) -> Result<Restored, RestoreError> {
    let Settings { source, skips_hash_check, bump, to_revision, target } = settings;
    target.check().await?;
    let mut saved = source::open(&source, skips_hash_check).await?;
    let ended_leases = match to_revision {
        None => 0,
        Some(to) => cut::cut(&mut saved, to)
            .map_err(|reason| RestoreError::Cut { source_name: source.to_string(), reason })?,
    };
    let bucket = target.bucket();
    let plan = plan::plan(&saved, bump, &bucket)
        .map_err(|reason| RestoreError::Plan { source_name: source.to_string(), reason })?;
    let restored = Restored {
        revision: plan.revision,
        floor: plan.floor,
        keys: plan.reading.keys(),
        versions: plan.versions,
        leases: saved.leases.len(),
        ended_leases,
        holder: None,
    };
    let mut snapshot = None;
    if let Target::Embedded { server, member: Some(member), .. } = &target {
        let mut name = format!("the snapshot with SHA-256 {}", saved.sha256()?);
        if let Some(bump) = bump {
            name = format!("{name} and --bump-revision {bump}");
        }
        if let Some(revision) = to_revision {
            name = format!("{name} and --to-revision {revision}");
        }
        // Each member comes to the same.
        let holder = member.members.keys().next().unwrap_or(&member.name);
        if *holder != member.name {
            nats_server::restore_other(&server.data_dir, member, name, holder.clone())?;
            return Ok(Restored { holder: Some(holder.clone()), ..restored });
        }
        snapshot = Some(name);
    }
    let opened = Opened::open(target, plan.reading.largest, snapshot).await?;
    let written = async {
        let mut wrote = |written| progress(written, plan.versions);
        let appender = write::write(&opened, &saved, &plan, &mut wrote).await?;
        appender.finish(&plan.reading, plan.floor, &opened).await
    };
    let written = written.await;
    opened.close(written).await?;
    Ok(restored)
}

impl Target {
    /// Refuses the directory of an etcd, for a server alone that of a member, and a store that is in use.
    /// Changes nothing.
    async fn check(&self) -> Result<(), RestoreError> {
        let (server, bucket, member) = match self {
            Target::Embedded { server, bucket, member } => (server, bucket, member),
            Target::External(endpoint, _) => return Ok(Log::check_restore(endpoint).await?),
            Target::Served(served) => return Ok(Log::check_restore(&served.endpoint).await?),
        };
        let store = Store { dir: nats_server::store_dir(&server.data_dir), accepts_loss: false };
        let dir = &server.data_dir;
        let is_of_member = nats_server::is_member(dir) || nats_server::is_unfinished_restore(dir);
        if dir.join("member").exists() {
            Err(RestoreError::OfEtcd(dir.clone()))
        } else if member.is_none() && is_of_member {
            Err(RestoreError::OfMember(dir.clone()))
        } else if member.is_none() && store.is_used(&self.bucket().stream) {
            nats_server::check_unlocked(dir)?;
            Err(RestoreError::InUse { path: dir.clone(), bucket: bucket.clone() })
        } else {
            Ok(())
        }
    }

    /// Cancelled when the source may be fenced.
    fn is_prepared(&self) -> CancellationToken {
        if let Target::Served(served) = self {
            return served.is_loaded.clone();
        }
        let is_prepared = CancellationToken::new();
        is_prepared.cancel();
        is_prepared
    }

    fn bucket(&self) -> Bucket {
        match self {
            Target::Embedded { bucket, .. } => {
                Bucket::of(&Endpoint { bucket: bucket.clone(), ..Endpoint::default() })
            }
            Target::External(endpoint, _) => Bucket::of(endpoint),
            Target::Served(served) => Bucket::of(&served.endpoint),
        }
    }
}

/// An empty bucket that is to be filled, and its server if that is embedded.
struct Opened {
    log: Log,
    /// Cancelled when the log can be loaded.
    can_be_loaded: CancellationToken,
    /// The store of an embedded server, which is synced here.
    store: Option<PathBuf>,
    /// The write errors of an embedded server.
    write_error: Option<watch::Receiver<Option<String>>>,
    embedded: Option<Embedded>,
}

/// An embedded server of the restore's own.
struct Embedded {
    nats: NatsServer,
    /// The member of a cluster that it becomes.
    member: Option<Box<ClusterSettings>>,
    /// The name of the snapshot that each member of that cluster must have had.
    snapshot: Option<String>,
}

impl Opened {
    /// Opens it for records of up to `largest` bytes. `snapshot` is its name, for the members of a cluster.
    async fn open(target: Target, largest: usize, snapshot: Option<String>) -> Result<Opened, RestoreError> {
        let (mut server, bucket, member) = match target {
            Target::External(endpoint, demand) => {
                let log = Log::open_for(&endpoint, None, Purpose::Restore, demand).await?;
                return Ok(Opened {
                    log,
                    can_be_loaded: CancellationToken::new(),
                    store: None,
                    write_error: None,
                    embedded: None,
                });
            }
            Target::Served(served) => {
                let Served { endpoint, demand, store, write_error, can_be_loaded, .. } = *served;
                let log = Log::open_for(&endpoint, store.as_ref(), Purpose::Restore, demand).await?;
                let store = store.map(|store| store.dir);
                return Ok(Opened { log, can_be_loaded, store, write_error, embedded: None });
            }
            Target::Embedded { server, bucket, member } => (server, bucket, member),
        };
        if member.is_some() {
            nats_server::begin_restore(&server.data_dir)?;
        }
        let message_bytes = (largest + MESSAGE_OVERHEAD_BYTES) as u32;
        server.max_payload_bytes = server.max_payload_bytes.max(message_bytes);
        let dir = nats_server::store_dir(&server.data_dir);
        let nats = NatsServer::start(*server).await?;
        let endpoint = Endpoint {
            servers: nats.client_url().into_iter().collect(),
            auth: Auth::Embedded(nats_server::USER, RunToken(nats.token())),
            bucket,
            ..Endpoint::default()
        };
        let store = Store { dir: dir.clone(), accepts_loss: false };
        // The embedded server has no limits of an account.
        let demand = Demand { quota: -1, message_bytes: largest };
        match Log::open_for(&endpoint, Some(&store), Purpose::Restore, demand).await {
            Ok(log) => {
                let can_be_loaded = CancellationToken::new();
                let write_error = Some(nats.write_error());
                let embedded = Some(Embedded { nats, member, snapshot });
                Ok(Opened { log, can_be_loaded, store: Some(dir), write_error, embedded })
            }
            Err(error) => {
                nats.stop().await?;
                Err(error.into())
            }
        }
    }

    /// Makes an embedded store durable. An existing NATS has its own rules.
    fn sync(&self) -> std::io::Result<()> {
        let Some(store) = &self.store else { return Ok(()) };
        sync_all(store)?;
        // The data directory may be new.
        let folder =
            store.parent().and_then(|data_dir| data_dir.canonicalize().ok()?.parent().map(PathBuf::from));
        folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    /// The name of the snapshot that each member of the cluster must have had.
    fn snapshot(&self) -> Option<&str> {
        self.embedded.as_ref()?.snapshot.as_deref()
    }

    /// Makes a store durable from which the mark of an unfinished restore is gone.
    fn sync_whole(&self) -> Result<(), RestoreError> {
        self.sync().map_err(|error| RestoreError::Uncertain(LastStepError::Sync(error)))
    }

    /// Stops an embedded server after a success or a failure. After a success its store becomes that of the
    /// member.
    ///
    /// # Errors
    /// The outcome's, and those of the last steps. If the outcome is a success, the store can be served after
    /// [`RestoreError::Uncertain`] alone.
    async fn close<T, E: From<RestoreError>>(self, outcome: Result<T, E>) -> Result<T, E> {
        if let Some(Embedded { nats, member, snapshot, .. }) = &self.embedded {
            let prepared = match member {
                Some(member) if outcome.is_ok() => {
                    let prepared = nats_server::prepare(nats.settings(), &member.name, self.log.api()).await;
                    Some((member, prepared))
                }
                _ => None,
            };
            let stopped = nats.stop().await;
            let outcome = outcome?;
            let Some((member, prepared)) = prepared else {
                stopped.map_err(|error| RestoreError::Uncertain(LastStepError::NatsServer(error)))?;
                self.sync_whole()?;
                return Ok(outcome);
            };
            stopped.map_err(RestoreError::from)?;
            let prepared = prepared.map_err(RestoreError::from)?;
            let dir = &nats.settings().data_dir;
            let stream = self.log.facts().cluster_id;
            let restored = nats_server::restore_holder(dir, member, &prepared, snapshot.clone(), stream);
            restored.map_err(|error| {
                if nats_server::is_unfinished_restore(dir) {
                    RestoreError::from(error)
                } else {
                    RestoreError::Uncertain(LastStepError::NatsServer(error))
                }
            })?;
            self.sync_whole()?;
            return Ok(outcome);
        }
        let outcome = outcome?;
        // Before a server answers the first write, which would be lost with the mark of an unfinished
        // restore.
        self.sync_whole()?;
        Ok(outcome)
    }
}
