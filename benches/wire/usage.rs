//! The cost of processes and of everything that they started, from `/proc`.
//!
//! A peer is all of its processes: jetway with its nats-server is charged for both, a cluster for all of its
//! members.

use crate::load::Failure;
use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// The kernel's unit of process times towards user space: 100 a second on every Linux architecture of today.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that the processes and their living descendants have used so far.
pub(crate) fn cpu(roots: &[u32]) -> Result<Duration, Failure> {
    let mut ticks = 0;
    for pid in tree(roots)? {
        // One that has just ended is counted with its parent from then on.
        ticks += Stat::read(pid).map_or(0, |stat| stat.ticks);
    }
    Ok(TICK * ticks)
}

/// The CPU time of this very process.
pub(crate) fn own_cpu() -> Duration {
    TICK * Stat::read(std::process::id()).map_or(0, |stat| stat.ticks)
}

/// Memory of processes and their descendants, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The part of it that is pages of files, which the kernel can take back.
    pub(crate) of_files: u64,
}

/// The memory that the processes and their descendants hold now. A page that two of them share counts twice.
pub(crate) fn memory(roots: &[u32]) -> Result<Memory, Failure> {
    let mut memory = Memory::default();
    for pid in tree(roots)? {
        memory.resident += status(pid, "VmRSS:");
        memory.of_files += status(pid, "RssFile:");
    }
    Ok(memory)
}

/// The most memory that the processes and their descendants have held, in bytes: the sum of their peaks, file
/// pages that they map included.
pub(crate) fn peak_rss(roots: &[u32]) -> Result<u64, Failure> {
    Ok(tree(roots)?.into_iter().map(|pid| status(pid, "VmHWM:")).sum())
}

/// A size from a process's status, in bytes; 0 if it has just ended.
fn status(pid: u32, field: &str) -> u64 {
    let kibibytes = || -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
    };
    kibibytes().unwrap_or(0) * 1024
}

/// The processes and their descendants.
pub(crate) fn tree(roots: &[u32]) -> Result<Vec<u32>, Failure> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = roots.to_vec();
    let mut at = 0;
    while let Some(pid) = found.get(at) {
        found.extend(children.remove(pid).unwrap_or_default());
        at += 1;
    }
    Ok(found)
}

struct Stat {
    parent: u32,
    ticks: u32,
}

impl Stat {
    fn read(pid: u32) -> Option<Self> {
        let line = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, which may hold spaces and parentheses
        // itself.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        // utime, stime, and the same of children that were waited for.
        let ticks = (11..=14).map(number).sum::<Option<u32>>()?;
        Some(Self { parent: number(1)?, ticks })
    }
}
