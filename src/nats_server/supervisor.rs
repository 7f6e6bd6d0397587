//! The loop that keeps one nats-server running.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::binary::{self, Binary};
use super::blocks;
use super::child::{self, Child};
use super::cluster::{self, Members};
use super::config::{self, Start};
use super::data_dir::{DataDir, Mode};
use super::extra_config::ExtraConfig;
use super::ready::{Ready, ready};
use super::vitals::Vitals;
use super::{
    Change, ClusterSettings, Ending, Error, Form, NatsServerSettings, Started, Status, anchor, conversion,
};
use crate::disk;

/// Pause before a new start, doubled with each start that did not last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A run of this length counts as healthy: the next pause is the first one again.
const HEALTHY_RUN: Duration = Duration::from_secs(30);

/// More than any disk, since a limit of JetStream's would refuse deletes too. The engine watches the disk and
/// refuses puts in time.
const MAX_FILE_STORE_BYTES: u64 = 1 << 50;
/// Interval of attempts to reserve room again after it was used.
const RESERVE_INTERVAL: Duration = Duration::from_secs(30);

/// The channels on which the supervisor reports.
#[derive(Debug)]
pub(super) struct Outputs {
    pub(super) status: watch::Sender<Status>,
    /// The token of the run that listens now.
    pub(super) token: watch::Sender<Option<String>>,
    pub(super) write_error: watch::Sender<Option<String>>,
    pub(super) ending: watch::Sender<Option<Ending>>,
    pub(super) vitals: Arc<Vitals>,
}

type StartedSender = oneshot::Sender<Result<Started, Error>>;

/// The supervisor thread, from the first access to the data directory to the end of the child.
pub(super) fn thread(
    settings: NatsServerSettings,
    outputs: Outputs,
    stop: watch::Receiver<bool>,
    changes: mpsc::Receiver<Change>,
    started: StartedSender,
) {
    let _silence =
        settings.is_quiet.then(|| tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new()));
    match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(run(settings, outputs, stop, changes, started)),
        Err(error) => {
            started.send(Err(Error::Thread(error))).ok();
        }
    }
}

async fn run(
    settings: NatsServerSettings,
    outputs: Outputs,
    mut stop: watch::Receiver<bool>,
    mut changes: mpsc::Receiver<Change>,
    started: StartedSender,
) {
    let stop_timeout = settings.stop_timeout;
    let mut started = Some(started);
    let mut data_dir = None;
    // The child is owned here, outside the future that a stop drops, so that no stop can lose it.
    let mut child = None;
    let outcome = tokio::select! {
        biased;
        // An error means that the handle is gone, which is a stop as well.
        _ = stop.wait_for(|stop| *stop) => Error::Stopped,
        outcome = supervise(&settings, &outputs, &mut changes, &mut data_dir, &mut child, &mut started) => match outcome {
            Err(error) => error,
        },
    };
    let ending = match child {
        Some(mut child) => stop_child(&mut child, data_dir.as_ref(), stop_timeout).await,
        None => Ending::Clean,
    };
    outputs.token.send_replace(None);
    outputs.vitals.ended();
    // The directory is unlocked before the end is reported (N1).
    drop(data_dir);
    outputs.status.send_replace(Status::Stopped);
    outputs.ending.send_replace(Some(ending));
    if let Some(started) = started {
        started.send(Err(outcome)).ok();
    }
}

/// The values that all starts of the child share.
struct Plan<'a> {
    settings: &'a NatsServerSettings,
    data_dir: &'a DataDir,
    binary: Binary,
    extra: Option<ExtraConfig>,
    name: String,
    cluster: Option<ClusterSettings>,
    members: Members,
}

/// The end of a run of the child.
enum End {
    /// It must be started again.
    Cause(String),
    Change(Change),
}

/// A change of the form whose first run is awaited.
struct Pending {
    done: oneshot::Sender<Result<(), Error>>,
    before: Option<ClusterSettings>,
    members_before: Members,
}

/// Starts the child again and again. Returns only with an error, and only before the first start has
/// succeeded.
async fn supervise(
    settings: &NatsServerSettings,
    outputs: &Outputs,
    changes: &mut mpsc::Receiver<Change>,
    data_dir: &mut Option<DataDir>,
    child: &mut Option<Child>,
    started: &mut Option<StartedSender>,
) -> Result<Infallible, Error> {
    let found = binary::find(settings.binary.as_deref()).await?;
    let is_of_kine = settings.extra_config_is_of_kine;
    let read = |path| ExtraConfig::read(path, is_of_kine, settings.domain.as_deref());
    let extra = settings.extra_config.as_deref().map(read).transpose()?;
    let data_dir = data_dir.insert(DataDir::open(&settings.data_dir)?);
    let binary = found.unpacked(data_dir.path()).await?;
    let version = binary.version.clone();
    let mode = if settings.cluster.is_some() { Mode::Clustered } else { Mode::Standalone };
    if !settings.is_observer {
        data_dir.claim_mode(mode)?;
        conversion::settle(data_dir, mode)?;
    }
    let (member_id, members) = match &settings.cluster {
        Some(cluster) if settings.is_observer => (None, cluster::observe(data_dir, cluster)?),
        Some(cluster) => cluster::claim(data_dir, cluster).map(|(id, members)| (Some(id), members))?,
        None => (None, Members::new()),
    };
    let (name, cluster) = (config::random_name(), settings.cluster.clone());
    let mut plan = Plan { settings, data_dir, binary, extra, name, cluster, members };

    let (mut port, mut generation, mut attempt) = (None, 0_u64, 0_u32);
    let mut pause = FIRST_PAUSE;
    let mut down = None;
    let mut pending: Option<Pending> = None;
    loop {
        let token = random_token();
        let (end, ran) = match bring_up(&plan, port, &token, outputs, child).await {
            Err(error) if started.is_some() => return Err(error),
            Err(error) if pending.is_some() => {
                end_child(&plan, outputs, child).await;
                let Pending { done, before, members_before } = pending.take().expect("it was looked at");
                if before.is_none() {
                    (plan.cluster, plan.members) = (before, members_before);
                    go_back(plan.data_dir).await;
                }
                done.send(Err(error)).ok();
                continue;
            }
            Err(error) => (End::Cause(error.to_string()), Duration::ZERO),
            Ok(now_on) => {
                generation += 1;
                attempt = 0;
                port = Some(now_on);
                let (pid, restarts) = (outputs.vitals.pid(), outputs.vitals.restarts());
                match down.take() {
                    None if settings.is_observer => {
                        tracing::info!(
                            pid,
                            "looking for the members of the cluster, with a nats-server of no JetStream"
                        );
                    }
                    None => {
                        let binary = &plan.binary.origin;
                        tracing::info!(port = now_on, version, binary, pid, "nats-server is ready");
                    }
                    Some(since) => {
                        let after = Instant::now().duration_since(since);
                        tracing::info!(port = now_on, pid, restarts, ?after, "nats-server is ready again");
                    }
                }
                outputs.token.send_replace(Some(token));
                outputs.status.send_replace(Status::Running { port: now_on, generation });
                if let Some(started) = started.take() {
                    let (version, members) = (version.clone(), plan.members.clone());
                    let up = Started { version, member_id, members };
                    started.send(Ok(up)).ok();
                }
                if let Some(Pending { done, .. }) = pending.take() {
                    done.send(Ok(())).ok();
                }
                let since = Instant::now();
                let end = tokio::select! {
                    cause = watch_over(&plan, outputs, child) => End::Cause(cause),
                    Some(change) = changes.recv() => End::Change(change),
                };
                outputs.token.send_replace(None);
                (end, since.elapsed())
            }
        };
        end_child(&plan, outputs, child).await;
        down.get_or_insert_with(Instant::now);
        let cause = match end {
            End::Cause(cause) => cause,
            End::Change(Change { form, done }) => {
                let (before, members_before) = (plan.cluster.clone(), plan.members.clone());
                outputs.status.send_replace(Status::Restarting { cause: "another form".into(), attempt: 0 });
                match convert(&mut plan, form) {
                    Ok(()) => pending = Some(Pending { done, before, members_before }),
                    Err(error) => {
                        if before.is_none() {
                            go_back(plan.data_dir).await;
                        }
                        done.send(Err(error)).ok();
                    }
                }
                continue;
            }
        };
        if ran >= HEALTHY_RUN {
            pause = FIRST_PAUSE;
        }
        attempt += 1;
        outputs.vitals.restarted();
        let restarts = outputs.vitals.restarts();
        tracing::error!(
            cause,
            attempt,
            restarts,
            "nats-server has ended; jetway starts it again in {pause:?}"
        );
        outputs.status.send_replace(Status::Restarting { cause, attempt });
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Stops the child in its place, if there is one.
async fn end_child(plan: &Plan<'_>, outputs: &Outputs, child: &mut Option<Child>) {
    if let Some(running) = child {
        stop_child(running, Some(plan.data_dir), plan.settings.stop_timeout).await;
        *child = None;
    }
    outputs.vitals.ended();
}

/// Makes the store fit for another form, in which the server is started next.
fn convert(plan: &mut Plan<'_>, form: Form) -> Result<(), Error> {
    match form {
        Form::Standalone { from_copy } => {
            conversion::to_standalone(plan.data_dir, from_copy)?;
            (plan.cluster, plan.members) = (None, Members::new());
        }
        Form::Member { settings, prepared } => {
            conversion::to_clustered(plan.data_dir, &super::store_dir(&prepared))?;
            (plan.members, plan.cluster) = (settings.members.clone(), Some(*settings));
        }
    }
    Ok(())
}

/// Makes the store again that of a server alone, after a change that has failed. There is no way back from
/// that form to one of a member, since the metadata is gone.
async fn go_back(data_dir: &DataDir) {
    while let Err(error) = conversion::to_standalone(data_dir, false) {
        tracing::error!(%error, "the store cannot be made that of a server alone again yet");
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

async fn stop_child(child: &mut Child, data_dir: Option<&DataDir>, patience: Duration) -> Ending {
    let ending = child.stop(patience).await;
    if let Some(data_dir) = data_dir.filter(|_| child.has_stopped()) {
        data_dir.note_stop();
    }
    ending
}

/// Starts one child, leaves it in `child`, and waits until it serves. Returns its port.
async fn bring_up(
    plan: &Plan<'_>,
    port: Option<u16>,
    token: &str,
    outputs: &Outputs,
    child: &mut Option<Child>,
) -> Result<u16, Error> {
    const REPORT: Duration = Duration::from_secs(5);
    // A member that knows of others waits for them, and not for this connection.
    let anchor = match &plan.cluster {
        Some(_) if plan.members.len() == 1 && !plan.settings.is_observer => {
            Some(anchor::free_port().await.map_err(Error::Anchor)?)
        }
        _ => None,
    };
    let child = child.insert(spawn(plan, port, token, anchor, outputs).await?);
    outputs.vitals.runs(child.pid());
    let started = Instant::now();
    let mut report = tokio::time::interval_at(tokio::time::Instant::now() + REPORT, REPORT);
    let pid = child.pid();
    let tail = child.tail().clone();
    let serving = ready(plan.data_dir.path(), pid, plan.settings.is_observer);
    tokio::pin!(serving);
    loop {
        let timeout = plan.settings.ready_timeout.saturating_sub(started.elapsed());
        tokio::select! {
            ready = &mut serving => return match ready {
                Ready::Serving { port } => {
                    if let Some(anchor) = anchor {
                        tokio::spawn(anchor::hold(anchor, plan.binary.version.clone(), token.to_owned()));
                    }
                    Ok(port)
                }
                Ready::WithoutJetStream => Err(Error::NoJetStream { log: tail.summary() }),
            },
            status = child.ended() => return Err(Error::Exited { status, log: tail.summary() }),
            () = tokio::time::sleep(timeout) => {
                let after = plan.settings.ready_timeout;
                return Err(Error::NotReady { after, log: tail.summary() });
            }
            _ = report.tick() => tracing::info!(
                pid,
                last_line = tail.last(),
                "waiting for nats-server to recover its store, {} s so far",
                started.elapsed().as_secs()
            ),
        }
    }
}

/// Writes the configuration and starts the process on the store, which must be free (N2).
async fn spawn(
    plan: &Plan<'_>,
    port: Option<u16>,
    token: &str,
    anchor: Option<u16>,
    outputs: &Outputs,
) -> Result<Child, Error> {
    let Plan { settings, data_dir, .. } = *plan;
    let lock = data_dir.lock_store(settings.stop_timeout).await?;
    data_dir.remove_ports_files();
    data_dir.keep_reserve();
    let max_file_store_bytes = settings.max_file_store_bytes.unwrap_or(MAX_FILE_STORE_BYTES);
    let start = Start {
        dir: data_dir.path(),
        store: &data_dir.store_path(),
        port,
        name: &plan.name,
        token,
        max_file_store_bytes,
        extra: plan.extra.as_ref(),
        cluster: plan.cluster.as_ref(),
        members: &plan.members,
        anchor,
    };
    let config_path = data_dir.config_path();
    data_dir.write_private(&config_path, &config::render(settings, &start))?;
    outputs.write_error.send_replace(None);
    if data_dir.was_killed() {
        drop_removed(data_dir).await;
    }
    data_dir.note_start()?;
    let threads = plan.cluster.as_ref().map(|_| child::half_of_the_cores());
    let child = plan
        .binary
        .start(|path| Child::spawn(path, &config_path, lock, threads, outputs.write_error.clone()))
        .map_err(|source| Error::Spawn { path: plan.binary.path(), source })?;
    if let Err(error) = data_dir.record_holder(child.pid()) {
        // Only a later jetway, after a crash of this one, needs the record. Without it, it waits for the
        // server but cannot stop it.
        tracing::warn!(%error, "cannot record the process id of nats-server");
    }
    Ok(child)
}

/// Takes removed messages out of the store that a killed server has left (N8).
async fn drop_removed(data_dir: &DataDir) {
    let store = data_dir.store_path();
    match tokio::task::spawn_blocking(move || blocks::drop_removed(&store)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(blocks)) => tracing::debug!(blocks, "removed messages are taken out of the store"),
        Ok(Err(error)) => tracing::warn!(%error, "removed messages cannot be taken out of the store"),
        Err(error) => tracing::warn!(%error, "removed messages cannot be taken out of the store"),
    }
}

/// Waits until a child that serves ends, or must be replaced since its store has refused a write. Returns the
/// cause.
async fn watch_over(plan: &Plan<'_>, outputs: &Outputs, child: &mut Option<Child>) -> String {
    let child = child.as_mut().expect("a child that serves is in its place");
    let tail = child.tail().clone();
    tokio::select! {
        status = child.ended() => match tail.complaints() {
            none if none.is_empty() => status,
            complaints => format!("{status}; it complained: {complaints}"),
        },
        never = keep_reserve(plan) => match never {},
        error = store_writable_again(plan, outputs) => format!("stopped to make its store writable again: {error}"),
    }
}

/// Waits for a write error, and then until a restart may help: after a pause, and on a full disk once there
/// is room. Any other error needs no room, and leaves the reserve. Returns the error.
async fn store_writable_again(plan: &Plan<'_>, outputs: &Outputs) -> String {
    const POLL: Duration = Duration::from_millis(500);
    let mut write_error = outputs.write_error.subscribe();
    let error = match write_error.wait_for(Option::is_some).await {
        Ok(error) => error.clone().unwrap_or_default(),
        Err(_) => std::future::pending().await,
    };
    if !disk::is_full(&error) {
        tracing::error!(error, "nats-server cannot write its store; it is started again");
        tokio::time::sleep(POLL).await;
        return error;
    }
    tracing::error!(error, "nats-server cannot write its store; it will be restarted once there is room");
    plan.data_dir.spend_reserve();
    loop {
        tokio::time::sleep(POLL).await;
        if plan.data_dir.has_room() {
            return error;
        }
    }
}

/// Reserves room again once there is plenty.
async fn keep_reserve(plan: &Plan<'_>) -> Infallible {
    loop {
        tokio::time::sleep(RESERVE_INTERVAL).await;
        plan.data_dir.keep_reserve();
    }
}

fn random_token() -> String {
    use rand::Rng;
    format!("{:032x}", rand::rng().random::<u128>())
}
