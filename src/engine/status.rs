//! The node's state as calls see it.

use prometheus::IntCounter;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use tokio::sync::watch;

/// How far the engine is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Loading the log.
    Loading {
        /// Messages that were read.
        messages: u64,
        /// How many there were at the beginning, once known.
        of: Option<u64>,
    },
    /// Everything is loaded.
    Serving,
    /// No more calls.
    Stopped,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Phase::Loading { messages, of: Some(of) } => {
                write!(f, "loading the log: {messages} of {of} messages")
            }
            Phase::Loading { of: None, .. } => f.write_str("loading the log"),
            Phase::Serving => f.write_str("serving"),
            Phase::Stopped => f.write_str("stopped"),
        }
    }
}

/// No member is known to write, for this reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoLeader(pub(super) String);

/// Shared by the node, which writes it, and calls.
#[derive(Debug)]
pub(super) struct Status {
    phase: watch::Sender<Phase>,
    /// The member that writes; the reason where none is known.
    leader: watch::Sender<Result<u64, NoLeader>>,
    /// etcd counts a leader that is found again, too.
    leader_changes: IntCounter,
    epoch: Arc<AtomicU64>,
    is_writer: AtomicBool,
    /// Whether the visible state is linearizable without asking anybody: this instance writes, and no other
    /// one can. Set with Release after the first state is published, and read with Acquire: a read that sees
    /// it finds that state.
    is_linearizable: AtomicBool,
    /// The servers of the cluster that are none of its members', as the writer sees them.
    unlisted_servers: watch::Sender<Vec<String>>,
}

impl Status {
    pub(super) fn new(leader_changes: IntCounter) -> Status {
        Status {
            phase: watch::Sender::new(Phase::Loading { messages: 0, of: None }),
            leader: watch::Sender::new(Err(NoLeader("still starting".to_owned()))),
            leader_changes,
            epoch: Arc::default(),
            is_writer: AtomicBool::new(false),
            is_linearizable: AtomicBool::new(false),
            unlisted_servers: watch::Sender::default(),
        }
    }

    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(super) fn set_phase(&self, phase: Phase) {
        self.phase.send_if_modified(|known| {
            let changes = *known != Phase::Stopped && *known != phase;
            if changes {
                *known = phase;
            }
            changes
        });
    }

    pub(super) fn leader(&self) -> watch::Receiver<Result<u64, NoLeader>> {
        self.leader.subscribe()
    }

    pub(super) fn known_leader(&self) -> Result<u64, NoLeader> {
        self.leader.borrow().clone()
    }

    /// This member writes.
    pub(super) fn set_leader(&self, member: u64) {
        self.change_leader(Ok(member));
    }

    /// No member is known to write, for a reason.
    pub(super) fn set_no_leader(&self, reason: String) {
        self.change_leader(Err(NoLeader(reason)));
    }

    fn change_leader(&self, leader: Result<u64, NoLeader>) {
        self.leader.send_if_modified(|known| {
            let changes = *known != leader;
            if changes {
                if leader.is_ok() {
                    self.leader_changes.inc();
                }
                *known = leader;
            }
            changes
        });
    }

    // Relaxed: a number by itself.
    pub(super) fn known_epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    pub(super) fn epoch(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.epoch)
    }

    // Relaxed: a number by itself.
    pub(super) fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    // Relaxed: a hint for metrics and for calls that the writer checks again.
    pub(super) fn is_writer(&self) -> bool {
        self.is_writer.load(Ordering::Relaxed)
    }

    pub(super) fn set_writer(&self, is_writer: bool) {
        self.is_writer.store(is_writer, Ordering::Relaxed);
    }

    pub(super) fn is_linearizable(&self) -> bool {
        self.is_linearizable.load(Ordering::Acquire)
    }

    pub(super) fn set_linearizable(&self, is_linearizable: bool) {
        self.is_linearizable.store(is_linearizable, Ordering::Release);
    }

    pub(super) fn unlisted_servers(&self) -> watch::Receiver<Vec<String>> {
        self.unlisted_servers.subscribe()
    }

    pub(super) fn set_unlisted_servers(&self, servers: Vec<String>) {
        self.unlisted_servers.send_replace(servers);
    }
}
