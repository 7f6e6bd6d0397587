//! Snapshots of a server that holds much, while it is written to.
//!
//! A write begins every 2 ms, whether or not those before are answered. The first writes come without a
//! snapshot; then etcdctl saves snapshots one after the other. Each file is compared with its checksum when
//! the time was taken.

use crate::kv::{self, FLOOD_BYTES};
use crate::load::{Bench, Failure, Latencies, Timing};
use crate::peer::{Installation, Peer};
use crate::sample::{Metric, Sample};
use crate::store::{self, Contents};
use crate::usage;
use etcd_client::Client;
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::process::Command;
use tokio::task::JoinSet;

/// Time from the begin of a write to the begin of the next one.
const INTERVAL: Duration = Duration::from_millis(2);

/// Snapshots of one sample.
const SNAPSHOTS: u32 = 3;

/// Time between two looks at the memory.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// Fills a server below `dir`, and saves snapshots of it in a folder below `saved_in`.
pub(crate) async fn run(
    installation: &Installation,
    dir: &Path,
    saved_in: &Path,
    contents: Contents,
    timing: Timing,
) -> Result<Sample, Failure> {
    let peer = installation.start(dir).await?;
    let shown = take(&peer, installation, saved_in, contents, timing).await;
    let mut sample = peer.with_logs(shown)?;
    sample.durability.clone_from(&peer.durability);
    peer.stop().await?;
    Ok(sample)
}

async fn take(
    peer: &Peer,
    installation: &Installation,
    saved_in: &Path,
    contents: Contents,
    timing: Timing,
) -> Result<Sample, Failure> {
    let bench = Bench::new(peer, installation.kind, 1, timing);
    kv::fill(&bench, contents.keys, FLOOD_BYTES).await?;
    store::wait_until_idle(peer).await?;
    let connections = bench.connect(5).await?;
    let (quiet, ()) = write_while(&connections, contents.keys, async {
        tokio::time::sleep(timing.sample).await;
        Ok(())
    })
    .await?;
    let before = usage::memory(&peer.roots)?;
    let folder = tempfile::tempdir_in(saved_in)?;
    let files: Vec<PathBuf> = (0..SNAPSHOTS).map(|number| folder.path().join(number.to_string())).collect();
    let taking = async {
        let begin = Instant::now();
        for file in &files {
            save(&bench.endpoints[0], file).await?;
        }
        Ok(begin.elapsed() / SNAPSHOTS)
    };
    let watched = async {
        let mut highest = before;
        let mut taking = std::pin::pin!(taking);
        loop {
            tokio::select! {
                taken = &mut taking => return taken.map(|taken: Duration| (taken, highest)),
                () = tokio::time::sleep(CHECK_INTERVAL) => {
                    let now = usage::memory(&peer.roots)?;
                    if now.resident > highest.resident {
                        highest = now;
                    }
                }
            }
        }
    };
    let (busy, (took, highest)) = write_while(&connections, contents.keys, watched).await?;
    let mut bytes = 0;
    for file in &files {
        bytes = checked(file)?;
    }
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let mut sample = Sample::default();
    sample.set(Metric::Snapshot, took.as_secs_f64());
    sample.set(Metric::SnapshotMemory, mebibytes(highest.resident - before.resident));
    sample.set(Metric::P99Quiet, quiet.percentile(99.0).as_secs_f64() * 1e6);
    sample.set(Metric::P50, busy.percentile(50.0).as_secs_f64() * 1e6);
    sample.set(Metric::P99, busy.percentile(99.0).as_secs_f64() * 1e6);
    sample.note = format!(
        "{} keys, {:.0} MiB a snapshot, {:.0} MiB of the memory are pages of files",
        contents.keys,
        mebibytes(bytes),
        mebibytes(highest.of_files.saturating_sub(before.of_files)),
    );
    Ok(sample)
}

/// Saves one.
async fn save(endpoint: &str, file: &Path) -> Result<(), Failure> {
    let etcdctl = std::env::var_os("JETWAY_TEST_ETCDCTL").ok_or("JETWAY_TEST_ETCDCTL names no etcdctl")?;
    let mut command = Command::new(etcdctl);
    let saved = command.args(["--endpoints", endpoint, "snapshot", "save"]).arg(file).output().await?;
    if saved.status.success() {
        return Ok(());
    }
    Err(format!("etcdctl: {}", String::from_utf8_lossy(&saved.stderr)).into())
}

/// The size of a file, whose checksum must be right.
fn checked(file: &Path) -> Result<u64, Failure> {
    let bytes = std::fs::read(file)?;
    let (content, sum) = bytes.split_at(bytes.len().saturating_sub(SHA256_OUTPUT_LEN));
    if digest(&SHA256, content).as_ref() != sum {
        return Err("the checksum of a snapshot is wrong or missing".into());
    }
    Ok(bytes.len() as u64)
}

/// Writes until `work` is done, and returns the times that the writes took.
async fn write_while<T>(
    connections: &[Client],
    keys: u64,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<(Latencies, T), Failure> {
    let mut work = std::pin::pin!(work);
    let mut tick = tokio::time::interval(INTERVAL);
    let mut writing: JoinSet<Result<Duration, Failure>> = JoinSet::new();
    let mut number = 0;
    let done = loop {
        tokio::select! {
            done = &mut work => break done?,
            _ = tick.tick() => {
                let mut kv = connections[(number % connections.len() as u64) as usize].kv_client();
                let key = number % keys;
                number += 1;
                writing.spawn(async move {
                    let begin = Instant::now();
                    kv.put(kv::key(key), kv::value(key, number, FLOOD_BYTES), None).await?;
                    Ok(begin.elapsed())
                });
            }
        }
    };
    let mut taken = Vec::new();
    while let Some(ended) = writing.join_next().await {
        taken.push(ended??);
    }
    Ok((Latencies::of(taken), done))
}
