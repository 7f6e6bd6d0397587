//! One nats-server process: spawned so that it cannot outlive the supervisor (N3, N4), signalled, and waited
//! for.
//!
//! A member's server runs on half of the cores. Each message wakes several goroutines of each server for some
//! microseconds, and Go's scheduler then looks for work on the other cores, where there is none. A put
//! through three members costs 18 % less CPU so: 186 us against 226 us. These are medians of five rounds in
//! turns (166 to 201 us, 211 to 249 us), measured in November 2026 on two cores of an AMD EPYC under foreign
//! load (load average 11 to 16), ext4, with 100 clients and values of 1 KiB, a build of the profile `quick`,
//! and the variable `GOMAXPROCS` as 1 and 2: `cargo bench --bench wire -- --cluster --only put-100 --peers
//! jetway --seconds 4`. A server that stands alone gains nothing.
//!
//! A member's server lets its heap grow to three times the live part before Go collects it (`GOGC=200`). With
//! 50, collections took 6 to 8 % of all CPU. A put costs 114.5 us of CPU so, against 124.5 us (109 to 121,
//! 118 to 140; medians of four rounds in turns, the command above, without foreign load). The heap of a
//! server that stands alone grows by half: with a million keys that saves 80 MiB, and a write costs no more
//! CPU measurably.

use std::io;
use std::num::NonZeroUsize;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::net::unix::pipe;
use tokio::process::{Child as Process, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Ending;
use super::data_dir::StoreLock;
use super::log::{self, Tail};
use super::signal::signal;

/// Go's variable for the growth of the heap after which it is collected, in percent of the live part.
const GC_PERCENT: &str = "GOGC";
/// Go's variable for the number of threads that run Go code at once.
const THREADS: &str = "GOMAXPROCS";

#[derive(Debug)]
pub(super) struct Child {
    process: Process,
    pid: u32,
    tail: Tail,
    log: JoinHandle<()>,
    /// Once it has ended.
    exit: Option<ExitStatus>,
}

/// Half of the cores that this process may use, and at least one.
pub(super) fn half_of_the_cores() -> NonZeroUsize {
    let cores = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
    NonZeroUsize::new(cores / 2).unwrap_or(NonZeroUsize::MIN)
}

impl Child {
    /// Starts the binary, which runs on `threads` at once, or on as many as there are cores, as a member of a
    /// cluster or alone. Must be called on the supervisor thread: the parent-death signal is tied to the
    /// calling thread.
    pub(super) fn spawn(
        binary: &Path,
        config: &Path,
        store_lock: StoreLock,
        threads: Option<NonZeroUsize>,
        write_error: watch::Sender<Option<String>>,
        is_member: bool,
    ) -> io::Result<Self> {
        let (log_reader, log_writer) = io::pipe()?;
        let mut command = Command::new(binary);
        command
            .arg("-c")
            .arg(config)
            // Its input is the reading end of its own log. nats-server reads no input. But if jetway, the
            // only other reader, is killed, a Go program that writes to its standard error dies of SIGPIPE.
            // So the server would die while it logs the stop, instead of stopping cleanly. The pipe has room
            // for those lines.
            .stdin(Stdio::from(log_reader.try_clone()?))
            .stdout(Stdio::from(store_lock.into_file()))
            .stderr(Stdio::from(log_writer))
            .process_group(0);
        if std::env::var_os(GC_PERCENT).is_none() {
            command.env(GC_PERCENT, if is_member { "200" } else { "50" });
        }
        if let Some(threads) = threads
            && std::env::var_os(THREADS).is_none()
        {
            command.env(THREADS, threads.to_string());
        }
        let parent = std::process::id();
        let die_with_parent = move || die_with(parent);
        #[expect(unsafe_code, reason = "the parent-death signal can only be set between fork and exec")]
        // SAFETY: the closure makes two system calls that are async-signal-safe and touches no memory of the
        // parent: it takes no lock and allocates nothing, not for its errors either (they are made from
        // numbers).
        unsafe {
            command.pre_exec(die_with_parent)
        };
        let process = command.spawn()?;
        let pid = process.id().expect("a process that was not waited for has an id");
        let tail = Tail::default();
        let lines = pipe::Receiver::from_owned_fd(log_reader.into())?;
        let log = tokio::spawn(log::forward(lines, tail.clone(), write_error, is_member));
        Ok(Self { process, pid, tail, log, exit: None })
    }

    pub(super) fn pid(&self) -> u32 {
        self.pid
    }

    pub(super) fn tail(&self) -> &Tail {
        &self.tail
    }

    /// Waits for its end, and then for its last lines. Cancel-safe; may be called again.
    pub(super) async fn ended(&mut self) -> String {
        /// A process that the child left behind could hold the log open; nats-server starts none.
        const LAST_LINES: Duration = Duration::from_secs(2);
        let status = self.process.wait().await;
        if !self.log.is_finished() {
            tokio::time::timeout(LAST_LINES, &mut self.log).await.ok();
        }
        self.exit = status.as_ref().ok().copied();
        match status {
            Ok(status) => describe(status),
            Err(error) => format!("its end could not be waited for: {error}"),
        }
    }

    /// Whether it has ended as it does when it is asked to.
    pub(super) fn has_stopped(&self) -> bool {
        self.exit.is_some_and(|status| status.success())
    }

    /// Asks it to stop and waits; kills it after `timeout`. Cancel-safe; may be called again.
    pub(super) async fn stop(&mut self, timeout: Duration) -> Ending {
        const REPORT: Duration = Duration::from_secs(5);
        let started = Instant::now();
        // Until it is waited for, its pid cannot be given to another process. Signalling one that has ended
        // is no error.
        signal(self.pid, libc::SIGTERM).ok();
        while started.elapsed() < timeout {
            let wait = REPORT.min(timeout.saturating_sub(started.elapsed()));
            if tokio::time::timeout(wait, self.ended()).await.is_ok() {
                return Ending::Clean;
            }
            tracing::info!(
                pid = self.pid,
                "waiting for nats-server to stop, {} s so far",
                started.elapsed().as_secs()
            );
        }
        tracing::error!(pid = self.pid, "nats-server did not stop within {timeout:?}; killing it");
        self.process.start_kill().ok();
        self.ended().await;
        Ending::Killed
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (_, Some(signal)) => format!("killed by signal {signal}"),
        _ => status.to_string(),
    }
}

/// Runs in the child between fork and exec. Makes the kernel send it SIGTERM when the thread that forked it
/// ends. SIGTERM and not SIGKILL, so that the store is stopped cleanly even if jetway is killed.
fn die_with(parent: u32) -> io::Result<()> {
    #[expect(unsafe_code, reason = "prctl has no counterpart in std")]
    // SAFETY: PR_SET_PDEATHSIG takes a signal number and touches no memory.
    let outcome = unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    // A parent that ended before the call above sends nothing any more.
    if std::os::unix::process::parent_id() == parent {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::ESRCH))
    }
}
