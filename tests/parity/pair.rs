//! Two servers that run the same session.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::answer::Answer;
use crate::executor::Executor;
use crate::ops::Op;
use crate::session::{Session, Setup, Step};
use crate::watchers::Received;
use support::server::Target;

#[derive(Debug)]
pub struct Pair {
    left: Executor,
    right: Executor,
}

/// The operation at which the two servers differ, and how.
#[derive(Debug)]
pub struct Difference {
    pub index: usize,
    op: String,
    left: String,
    right: String,
    names: (Target, Target),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "operation {}: {}", self.index, self.op)?;
        writeln!(f, "{:?} answered:\n{}", self.names.0, self.left)?;
        writeln!(f, "{:?} answered:\n{}", self.names.1, self.right)
    }
}

impl Pair {
    /// The two kinds in `JETWAY_PARITY_PAIR`.
    fn targets() -> (Target, Target) {
        let pair = std::env::var("JETWAY_PARITY_PAIR").unwrap_or_else(|_| "etcd,jetway".into());
        let (left, right) = pair.split_once(',').expect("JETWAY_PARITY_PAIR names two servers");
        (Target::named(left), Target::named(right))
    }

    /// Fresh servers.
    pub async fn start(setup: Setup) -> Self {
        let (left, right) = Self::targets();
        let (left, right) = tokio::join!(Executor::start(left, setup), Executor::start(right, setup));
        Self { left, right }
    }

    /// Runs a session on a fresh pair. A panic is a difference like any other: a server that does not answer.
    pub async fn check(session: &Session) -> Result<(), Difference> {
        let at = Arc::new(AtomicUsize::new(0));
        let (reached, own) = (Arc::clone(&at), session.clone());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { Self::start(own.setup).await.run_from(&own, &own, &reached).await })
        };
        // A thread of its own, so that several sessions may run beside each other.
        tokio::task::spawn_blocking(run).await.unwrap_or_else(|error| {
            let index = at.load(Ordering::Relaxed);
            let op = session.steps.get(index).map_or("the end".into(), ToString::to_string);
            let panic = error.into_panic();
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            // Without the servers' logs.
            let text = text.lines().next().unwrap_or_default();
            Err(Difference { index, op, left: text.into(), right: String::new(), names: Self::targets() })
        })
    }

    /// Runs both sessions, which are the same but in a test of this harness, and then compares all events.
    pub async fn run(self, left: &Session, right: &Session) -> Result<(), Difference> {
        self.run_from(left, right, &AtomicUsize::new(0)).await
    }

    async fn run_from(mut self, left: &Session, right: &Session, at: &AtomicUsize) -> Result<(), Difference> {
        assert_eq!(left.steps.len(), right.steps.len());
        let end = left.steps.len();
        for (index, (one, other)) in left.steps.iter().zip(&right.steps).enumerate() {
            // Read by nobody before this task has ended.
            at.store(index, Ordering::Relaxed);
            self.step(index, one, other).await?;
        }
        let settle = Op::Settle.into();
        self.step(end, &settle, &settle).await
    }

    async fn step(&mut self, index: usize, one: &Step, other: &Step) -> Result<(), Difference> {
        let names = (self.left.server.target(), self.right.server.target());
        let (left, right) = tokio::join!(self.left.run(one), self.right.run(other));
        let differ = |op: String, left, right| Err(Difference { index, op, left, right, names });
        let show = |answer: Result<Answer, String>| match answer {
            Ok(answer) => format!("{answer:#?}"),
            Err(broken) => format!("broke a rule: {broken}"),
        };
        if left != right || left.is_err() {
            let (left, right) = (show(left) + &self.left.faults(), show(right) + &self.right.faults());
            return differ(one.to_string(), left, right);
        }
        // The events are compared where both sides are known to have all of them.
        if matches!(one.op, Op::Settle | Op::Compact(_) | Op::Kill(_) | Op::Writer(_)) {
            let (left_history, left) = self.left.watchers.received();
            let (right_history, right) = self.right.watchers.received();
            if left_history != right_history {
                let op = format!("{one} (the history: {})", first_difference(&left_history, &right_history));
                return differ(op, String::new(), String::new());
            }
            for n in 0..left.len().max(right.len()) {
                let (Some((stream, id, one_got)), Some((_, _, other_got))) = (left.get(n), right.get(n))
                else {
                    let op = format!("{one} (how many watchers there were)");
                    return differ(op, left.len().to_string(), right.len().to_string());
                };
                if left[n] != right[n] {
                    let difference = first_difference(one_got, other_got);
                    let op = format!("{one} (watcher {id} of stream {stream}: {difference})");
                    return differ(op, format!("{:?}", one_got.end), format!("{:?}", other_got.end));
                }
            }
        }
        Ok(())
    }
}

/// The first event that two watchers did not both get.
fn first_difference(left: &Received, right: &Received) -> String {
    let same = left.events.iter().zip(&right.events).take_while(|(left, right)| left == right).count();
    let (left, right) = (left.events.get(same), right.events.get(same));
    format!("event {same}\n  left  {left:?}\n  right {right:?}")
}
