//! What a process and everything it started cost, from `/proc`.
//!
//! A peer is all of its processes: jetway with its nats-server is charged for both.

use crate::load::Failure;
use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// The kernel's unit of process times towards user space: 100 a second on every Linux architecture of today.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that the process and its living descendants have used so far.
pub(crate) fn cpu(root: u32) -> Result<Duration, Failure> {
    let mut ticks = 0;
    for pid in tree(root)? {
        // One that has just ended is counted with its parent from then on.
        ticks += Stat::read(pid).map_or(0, |stat| stat.ticks);
    }
    Ok(TICK * ticks)
}

/// The CPU time of this very process.
pub(crate) fn own_cpu() -> Duration {
    TICK * Stat::read(std::process::id()).map_or(0, |stat| stat.ticks)
}

/// Memory of a process and its descendants, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The part of it that is pages of files, which the kernel can take back.
    pub(crate) of_files: u64,
}

/// The memory that the process and its descendants hold now. A page that two of them share counts twice.
pub(crate) fn memory(root: u32) -> Result<Memory, Failure> {
    let mut memory = Memory::default();
    for pid in tree(root)? {
        memory.resident += status(pid, "VmRSS:");
        memory.of_files += status(pid, "RssFile:");
    }
    Ok(memory)
}

/// The most memory that the process and its descendants have held, in bytes: the sum of their peaks, file pages that
/// they map included.
pub(crate) fn peak_rss(root: u32) -> Result<u64, Failure> {
    Ok(tree(root)?.into_iter().map(|pid| status(pid, "VmHWM:")).sum())
}

/// A size from a process's status, in bytes; 0 if it has just ended.
fn status(pid: u32, field: &str) -> u64 {
    let kibibytes = || -> Option<u64> {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
    };
    kibibytes().unwrap_or(0) * 1024
}

/// The process and its descendants.
pub(crate) fn tree(root: u32) -> Result<Vec<u32>, Failure> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::read(pid) {
            children.entry(stat.parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
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
        // The second field is the program's name in parentheses, which may hold spaces and parentheses itself.
        let fields: Vec<&str> = line.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<u32>().ok();
        // utime, stime, and the same of children that were waited for.
        let ticks = (11..=14).map(number).sum::<Option<u32>>()?;
        Some(Self { parent: number(1)?, ticks })
    }
}
