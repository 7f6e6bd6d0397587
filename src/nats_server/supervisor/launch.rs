//! One start of the child, up to the moment in which it serves.

use super::{Outputs, Plan};
use crate::nats_server::child::{self, Child};
use crate::nats_server::config::{self, Start};
use crate::nats_server::data_dir::{DataDir, StoreLock};
use crate::nats_server::ready::{Ready, ready};
use crate::nats_server::{Error, Status, anchor, blocks, log, salvage};
use std::time::{Duration, Instant};

/// More than any disk, since a limit of JetStream's would refuse deletes too. The engine watches the disk and
/// refuses puts in time.
const MAX_FILE_STORE_BYTES: u64 = 1 << 50;

/// Starts one child, leaves it in `child`, and waits until it serves. Returns its port.
pub(super) async fn bring_up(
    plan: &Plan<'_>,
    port: Option<u16>,
    token: &str,
    outputs: &Outputs,
    child: &mut Option<Child>,
) -> Result<u16, Error> {
    const REPORT: Duration = Duration::from_secs(5);
    // A member that knows of others waits for them, and not for this connection.
    let anchor = match &plan.cluster {
        Some(_) if plan.members.len() == 1 && !plan.settings.is_observer() => {
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
    let serving = ready(plan.data_dir.path(), pid, plan.settings.is_observer());
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
            status = child.ended() => {
                let (lines, path) = (tail.summary(), plan.data_dir.path().to_owned());
                return Err(if plan.cluster.is_some() && log::is_damaged_snapshot(&lines) {
                    Error::DamagedMember { status, log: lines, path }
                } else {
                    Error::Exited { status, log: lines }
                });
            }
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
    let mut lock = data_dir.lock_store(settings.stop_timeout).await?;
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
    let (is_first, was_killed) = (*outputs.status.borrow() == Status::Starting, data_dir.was_killed());
    if was_killed {
        lock = drop_removed(data_dir, lock).await;
    } else if is_first && plan.cluster.is_none() {
        // The store of a member is left to nats-server, which fills it from the other members.
        lock = drop_damaged(data_dir, lock).await?;
    }
    data_dir.note_start()?;
    let threads = plan.cluster.as_ref().map(|_| child::half_of_the_cores());
    let child = plan
        .binary
        .start(|path| {
            Child::spawn(
                path,
                &config_path,
                lock,
                threads,
                outputs.write_error.clone(),
                plan.cluster.is_some(),
            )
        })
        .map_err(|source| Error::Spawn { path: plan.binary.path(), source })?;
    if let Err(error) = data_dir.record_holder(child.pid()) {
        // Only a later jetway, after a crash of this one, needs the record. Without it, it waits for the
        // server but cannot stop it.
        tracing::warn!(%error, "cannot record the process id of nats-server");
    }
    Ok(child)
}

/// Takes removed messages out of the store that a killed server has left (N8).
async fn drop_removed(data_dir: &DataDir, lock: StoreLock) -> StoreLock {
    let store = data_dir.store_path();
    let (lock, outcome) = locked(lock, move || blocks::drop_removed(&store)).await;
    match outcome {
        Ok(0) => {}
        Ok(blocks) => tracing::debug!(blocks, "removed messages are taken out of the store"),
        Err(error) => tracing::warn!(%error, "removed messages cannot be taken out of the store"),
    }
    lock
}

/// Takes damaged records out of the store (N9).
async fn drop_damaged(data_dir: &DataDir, lock: StoreLock) -> Result<StoreLock, Error> {
    let (store, copies) = (data_dir.store_path(), data_dir.path().join("damaged"));
    let (lock, outcome) = locked(lock, move || salvage::drop_damaged(&store, &copies)).await;
    outcome.map(|_| lock).map_err(|(path, source)| Error::Salvage { path, source })
}

/// Changes the store on a thread that may wait for the disk. The lock is held until that ends, even if the
/// start is given up before: no other server may run on the store meanwhile.
async fn locked<T: Send + 'static>(
    lock: StoreLock,
    change: impl FnOnce() -> T + Send + 'static,
) -> (StoreLock, T) {
    let changed = tokio::task::spawn_blocking(move || (change(), lock));
    let (outcome, lock) = changed.await.expect("it does not panic");
    (lock, outcome)
}
