//! The cost of a server that holds much: to fill, to keep in memory, to start.
//!
//! Memory is read once the server has come to rest, as it is then (Go gives what it has collected back in its
//! own time), and once more after a start. A start is timed from the fork to the answer of a linearizable
//! read; the files are in the page cache, so it shows the work and not the disk.

use crate::kv::{self, FLOOD_BYTES};
use crate::load::{Bench, Failure, Meter, Timing};
use crate::peer::{Installation, Peer};
use crate::sample::{Metric, Sample};
use crate::usage;
use std::path::Path;
use std::time::{Duration, Instant};

/// A server rests when it uses less than a twentieth of a core over this time.
const IDLE_CHECK: Duration = Duration::from_secs(1);

/// After this it is measured as it is.
const IDLE_TIMEOUT: Duration = Duration::from_mins(1);

/// The contents of a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contents {
    pub(crate) keys: u64,
    /// Puts of these keys after the first of each; if there are any, all history is compacted at the end.
    pub(crate) rewrites: u64,
}

impl Contents {
    /// The same, smaller.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        let scale = |number: u64| (number as f64 * factor).ceil() as u64;
        Self { keys: scale(self.keys).max(1), rewrites: scale(self.rewrites) }
    }
}

/// Fills a server below `dir`, then starts it again and again.
pub(crate) async fn run(
    installation: &Installation,
    dir: &Path,
    contents: Contents,
    starts: u32,
) -> Result<Sample, Failure> {
    let mut sample = Sample::default();
    let mut peer = installation.start(dir).await?;
    sample.durability.clone_from(&peer.durability);
    let filled = fill(&peer, installation, contents, &mut sample).await;
    peer.with_logs(filled)?;
    let (mut taken, mut cpu) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..starts {
        let data = peer.stop().await?;
        let start = Instant::now();
        peer = installation.start_in(data).await?;
        taken += start.elapsed();
        cpu += usage::cpu(&peer.roots)?;
        let counted = count(&peer, installation, contents.keys).await;
        peer.with_logs(counted)?;
    }
    sample.set(Metric::Start, taken.as_secs_f64() / f64::from(starts));
    sample.set(Metric::StartCpu, cpu.as_secs_f64() / f64::from(starts));
    wait_until_idle(&peer).await?;
    sample.set(Metric::MemoryStarted, mebibytes(usage::memory(&peer.roots)?.resident));
    peer.stop().await?;
    Ok(sample)
}

fn bench(peer: &Peer, installation: &Installation) -> Bench {
    let timing = Timing { warm_up: Duration::ZERO, sample: Duration::ZERO };
    Bench::new(peer, installation.kind, 1, timing)
}

async fn fill(
    peer: &Peer,
    installation: &Installation,
    contents: Contents,
    sample: &mut Sample,
) -> Result<(), Failure> {
    let bench = bench(peer, installation);
    let meter = Meter::start(&peer.roots)?;
    kv::fill(&bench, contents.keys, FLOOD_BYTES).await?;
    let mut rewrites = contents.rewrites;
    while rewrites > 0 {
        let round = rewrites.min(contents.keys);
        kv::fill(&bench, round, FLOOD_BYTES).await?;
        rewrites -= round;
    }
    let cost = meter.stop()?;
    let puts = (contents.keys + contents.rewrites) as f64;
    sample.set(Metric::Fill, puts / cost.elapsed.as_secs_f64());
    sample.set(Metric::FillCpu, cost.server_cpu.as_secs_f64() * 1e6 / puts);
    if contents.rewrites > 0 {
        kv::compact(&bench).await?;
    }
    count(peer, installation, contents.keys).await?;
    let is_idle = wait_until_idle(peer).await?;
    let memory = usage::memory(&peer.roots)?;
    sample.set(Metric::Memory, mebibytes(memory.resident));
    sample.set(Metric::Peak, mebibytes(usage::peak_rss(&peer.roots)?));
    sample.set(Metric::Disk, mebibytes(peer.disk()?));
    sample.note = format!(
        "{} keys, {} puts of them more, {:.0} MiB of the memory are pages of files{}",
        contents.keys,
        contents.rewrites,
        mebibytes(memory.of_files),
        if is_idle { "" } else { ", still busy a minute after the last put" }
    );
    Ok(())
}

/// Fails unless all keys are there.
async fn count(peer: &Peer, installation: &Installation, keys: u64) -> Result<(), Failure> {
    match kv::counted(&bench(peer, installation)).await? {
        there if there == keys => Ok(()),
        there => Err(format!("{keys} keys were put, {there} are there").into()),
    }
}

/// Waits until the server has nothing left to do; false if it never does.
pub(crate) async fn wait_until_idle(peer: &Peer) -> Result<bool, Failure> {
    let start = Instant::now();
    while start.elapsed() < IDLE_TIMEOUT {
        let before = usage::cpu(&peer.roots)?;
        tokio::time::sleep(IDLE_CHECK).await;
        if usage::cpu(&peer.roots)?.saturating_sub(before) < IDLE_CHECK / 20 {
            return Ok(true);
        }
    }
    Ok(false)
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
