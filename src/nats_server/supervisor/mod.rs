//! The loop that keeps one nats-server running.

mod form;
mod launch;
mod serving;

use super::binary::{self, Binary};
use super::child::Child;
use super::cluster::{self, Members};
use super::config;
use super::data_dir::{DataDir, Mode};
use super::extra_config::ExtraConfig;
use super::vitals::Vitals;
use super::{Change, ClusterSettings, Ending, Error, NatsServerSettings, Started, Status, conversion};
use form::PendingChange;
use launch::bring_up;
use serving::watch_over;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// Pause before a new start, doubled with each start that did not last.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A run of this length counts as healthy: the next pause is the first one again.
const HEALTHY_RUN: Duration = Duration::from_secs(30);

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
    let (mut plan, member_id) = prepare(settings, data_dir).await?;
    let (mut port, mut generation, mut attempt) = (None, 0_u64, 0_u32);
    let mut pause = FIRST_PAUSE;
    let mut down = None;
    let mut pending: Option<PendingChange> = None;
    loop {
        let token = random_token();
        let (end, ran) = match bring_up(&plan, port, &token, outputs, child).await {
            Err(error) if started.is_some() => return Err(error),
            Err(error) => match pending.take() {
                Some(change) => {
                    end_child(&plan, outputs, child).await;
                    change.failed(&mut plan, error).await;
                    continue;
                }
                None => (End::Cause(error.to_string()), Duration::ZERO),
            },
            Ok(now_on) => {
                generation += 1;
                attempt = 0;
                port = Some(now_on);
                log_ready(&plan, outputs, now_on, down.take());
                outputs.token.send_replace(Some(token));
                outputs.status.send_replace(Status::Running { port: now_on, generation });
                if let Some(started) = started.take() {
                    let (version, members) = (plan.binary.version.clone(), plan.members.clone());
                    started.send(Ok(Started { version, member_id, members })).ok();
                }
                if let Some(change) = pending.take() {
                    change.done();
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
            End::Change(change) => {
                outputs.status.send_replace(Status::Restarting { cause: "another form".into(), attempt: 0 });
                pending = PendingChange::begin(&mut plan, change).await;
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

/// Finds the binary, locks the data directory, and makes the values that all starts share. Returns the id of
/// this member too, if it is one.
async fn prepare<'a>(
    settings: &'a NatsServerSettings,
    data_dir: &'a mut Option<DataDir>,
) -> Result<(Plan<'a>, Option<u64>), Error> {
    let found = binary::find(settings.binary.as_deref()).await?;
    let is_of_kine = settings.extra_config_is_of_kine;
    let read = |path| ExtraConfig::read(path, is_of_kine, settings.domain.as_deref());
    let extra = settings.extra_config.as_deref().map(read).transpose()?;
    let data_dir = data_dir.insert(DataDir::open(&settings.data_dir)?);
    let binary = found.unpacked(data_dir.path()).await?;
    let mode = if settings.cluster.is_some() { Mode::Clustered } else { Mode::Standalone };
    if !settings.is_observer() {
        data_dir.claim_mode(mode)?;
        conversion::settle(data_dir, mode)?;
    }
    let (member_id, members) = match &settings.cluster {
        Some(cluster) if settings.is_observer() => (None, cluster::observe(data_dir, cluster)?),
        Some(cluster) => cluster::claim(data_dir, cluster).map(|(id, members)| (Some(id), members))?,
        None => (None, Members::new()),
    };
    let (name, cluster) = (config::random_name(), settings.cluster.clone());
    Ok((Plan { settings, data_dir, binary, extra, name, cluster, members }, member_id))
}

/// Logs that a run serves; `down` is the end of the last one.
fn log_ready(plan: &Plan<'_>, outputs: &Outputs, port: u16, down: Option<Instant>) {
    let (pid, restarts) = (outputs.vitals.pid(), outputs.vitals.restarts());
    match down {
        None if plan.settings.is_observer() => {
            tracing::info!(pid, "looking for the members of the cluster, with a nats-server of no JetStream");
        }
        None => {
            let Binary { version, origin: binary, .. } = &plan.binary;
            tracing::info!(port, version, binary, pid, "nats-server is ready");
        }
        Some(since) => {
            let after = Instant::now().duration_since(since);
            tracing::info!(port, pid, restarts, ?after, "nats-server is ready again");
        }
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

async fn stop_child(child: &mut Child, data_dir: Option<&DataDir>, timeout: Duration) -> Ending {
    let ending = child.stop(timeout).await;
    if let Some(data_dir) = data_dir.filter(|_| child.has_stopped()) {
        data_dir.note_stop();
    }
    ending
}

fn random_token() -> String {
    use rand::Rng;
    format!("{:032x}", rand::rng().random::<u128>())
}
