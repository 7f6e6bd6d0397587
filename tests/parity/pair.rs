//! Two servers that run the same session.

use std::fmt;

use crate::answer::Answer;
use crate::session::{Op, Session};
use crate::side::Side;
use crate::support::server::{Server, Target};
use crate::watchers::Received;

#[derive(Debug)]
pub struct Pair {
    left: Side,
    right: Side,
}

/// Where and how the two sides differ.
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
    pub async fn start() -> Self {
        let (left, right) = Self::targets();
        let (left, right) = tokio::join!(Server::launch(left, &[]), Server::launch(right, &[]));
        let (left, right) = tokio::join!(Side::start(left), Side::start(right));
        Self { left, right }
    }

    /// Runs both sessions, which are the same but in a test of this harness, and then compares all events.
    pub async fn run(mut self, left: &Session, right: &Session) -> Result<(), Difference> {
        assert_eq!(left.0.len(), right.0.len());
        let end = left.0.len();
        for (index, (one, other)) in left.0.iter().zip(&right.0).enumerate() {
            self.step(index, one, other).await?;
        }
        self.step(end, &Op::Settle, &Op::Settle).await
    }

    async fn step(&mut self, index: usize, one: &Op, other: &Op) -> Result<(), Difference> {
        let names = (self.left.server.target(), self.right.server.target());
        let (left, right) = tokio::join!(self.left.run(one), self.right.run(other));
        let differ = |op: String, left, right| Err(Difference { index, op, left, right, names });
        let show = |answer: Result<Answer, String>| match answer {
            Ok(answer) => format!("{answer:#?}"),
            Err(broken) => format!("broke a rule: {broken}"),
        };
        if left != right || left.is_err() {
            return differ(one.to_string(), show(left), show(right));
        }
        // The events are compared where both sides are known to have all of them.
        if matches!(one, Op::Settle | Op::Compact(_)) {
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
