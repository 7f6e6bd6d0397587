//! The machine's properties that a reader must know before believing a figure.

use crate::load::{Failure, Latencies};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

/// Enough for a 99th percentile, and done in well under a second on a disk of any kind but a spinning one.
const FSYNCS: usize = 200;

/// The machine.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) processor: String,
    pub(crate) cores: usize,
    pub(crate) memory_mib: u64,
    pub(crate) kernel: String,
    pub(crate) file_system: String,
    pub(crate) fsync_p50: Duration,
    pub(crate) fsync_p99: Duration,
    /// The load average of the last minute before the run: work of others that the figures share the machine
    /// with.
    pub(crate) load: String,
}

impl Facts {
    pub(crate) fn gather(dir: &Path) -> Result<Self, Failure> {
        let fsyncs = fsyncs(dir).map_err(|error| format!("--dir {}: {error}", dir.display()))?;
        Ok(Self {
            processor: line_of("/proc/cpuinfo", "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: std::thread::available_parallelism()?.get(),
            memory_mib: line_of("/proc/meminfo", "MemTotal")
                .and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok())
                .map_or(0, |kibibytes| kibibytes / 1024),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            file_system: file_system(dir)?,
            fsync_p50: fsyncs.percentile(50.0),
            fsync_p99: fsyncs.percentile(99.0),
            load: fs::read_to_string("/proc/loadavg")?.split(' ').next().unwrap_or_default().to_owned(),
        })
    }
}

fn line_of(file: &str, field: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The type of the file system that holds `dir`: that of the longest mount point above it.
fn file_system(dir: &Path) -> Result<String, Failure> {
    let dir = dir.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let holder = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            Some((Path::new(fields.next()?), fields.next()?))
        })
        .filter(|(point, _)| dir.starts_with(point))
        .max_by_key(|(point, _)| point.as_os_str().len());
    Ok(holder.map_or("unknown", |(_, kind)| kind).to_owned())
}

/// Appends of 1 KiB, each made durable: what one writer at a time waits for at the least.
fn fsyncs(dir: &Path) -> std::io::Result<Latencies> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut taken = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        file.write_all(&[7; 1024])?;
        let start = Instant::now();
        file.sync_data()?;
        taken.push(start.elapsed());
    }
    Ok(Latencies::of(taken))
}
