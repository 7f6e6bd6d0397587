//! Processes that end with their owner.

use crate::load::Failure;
use crate::usage;
use std::fmt::Display;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// For a start and for a stop, on a machine that is busy.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(90);

/// A signal to a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Signal {
    /// It ends at once.
    Kill,
    /// It ends in its own time.
    Terminate,
    /// It stands still.
    Stop,
    /// It goes on.
    Continue,
}

impl Signal {
    fn option(self) -> &'static str {
        match self {
            Signal::Kill => "-KILL",
            Signal::Terminate => "-TERM",
            Signal::Stop => "-STOP",
            Signal::Continue => "-CONT",
        }
    }
}

/// A process that does not outlive its owner, nor do those that it has started.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) child: Child,
    pub(crate) pid: u32,
    log: PathBuf,
}

impl Process {
    /// Starts it in a folder, with a log of this name there.
    pub(crate) fn spawn(command: &mut Command, dir: &Path, log: &str) -> Result<Self, Failure> {
        let log = dir.join(log);
        let file = fs::File::create(&log)?;
        command.current_dir(dir).stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command
            .spawn()
            .map_err(|error| format!("{}: {error}", command.as_std().get_program().display()))?;
        let pid = child.id().ok_or("it ended at once")?;
        Ok(Self { child, pid, log })
    }

    /// Asks it again and again, until it is ready.
    pub(crate) async fn wait_until<E: Display>(
        &mut self,
        is_ready: impl AsyncFn() -> Result<(), E>,
    ) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Err(format!("it ended at its start with {status}").into());
            }
            match is_ready().await {
                Ok(()) => return Ok(()),
                Err(error) if start.elapsed() > TIMEOUT => {
                    return Err(format!("it does not serve: {error}").into());
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// The end of its log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(10)..];
        if tail.is_empty() { String::new() } else { format!("\nIts log ends:\n{}", tail.join("\n")) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Without an id it was waited for, and the number may be another's by now.
        let Some(descendants) = self.child.id().and_then(|pid| usage::tree(&[pid]).ok()) else { return };
        let pids = descendants.iter().map(u32::to_string);
        if let Err(error) = std::process::Command::new("kill").arg("-KILL").args(pids).status() {
            eprintln!("wire: {descendants:?} are left behind: {error}");
        }
    }
}

/// Asks processes to end, and sees to it that they and all that they started are gone.
pub(crate) async fn end(processes: &mut [Process]) -> Result<(), Failure> {
    // Those that have ended before have no id any more.
    let roots: Vec<u32> = processes.iter().filter_map(|process| process.child.id()).collect();
    let descendants = usage::tree(&roots)?;
    for pid in roots {
        signal(Signal::Terminate, pid).await?;
    }
    let ended = async {
        for process in &mut *processes {
            process.child.wait().await?;
        }
        Ok::<_, std::io::Error>(())
    };
    let stopped = tokio::time::timeout(TIMEOUT, ended).await;
    if stopped.is_err() {
        for process in processes.iter_mut().filter(|process| process.child.id().is_some()) {
            process.child.kill().await?;
        }
    }
    let mut left = Vec::new();
    for pid in descendants {
        if fs::exists(format!("/proc/{pid}"))? {
            signal(Signal::Kill, pid).await?;
            left.push(pid);
        }
    }
    stopped.map_err(|_| format!("it did not stop within {TIMEOUT:?}"))??;
    if left.is_empty() { Ok(()) } else { Err(format!("it left processes behind: {left:?}").into()) }
}

pub(crate) async fn signal(which: Signal, pid: u32) -> std::io::Result<()> {
    signal_all(which, &[pid]).await
}

pub(crate) async fn signal_all(which: Signal, pids: &[u32]) -> std::io::Result<()> {
    let pids = pids.iter().map(u32::to_string);
    Command::new("kill").arg(which.option()).args(pids).status().await.map(drop)
}
