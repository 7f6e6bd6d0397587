//! Sessions as values, and their text: one operation a line, as JSON without the fields that are zero, and
//! before it the number of the client unless that is 0.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ops::Op;

/// Operations that run one after the other, on servers of one kind of setup.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Session {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

/// How the servers of a session are started.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setup {
    /// jetway's nats-server is not its child, so that each of the two can die without the other.
    pub external: bool,
    /// jetway is three instances on one nats-server, and the session goes through one that is not the writer.
    pub instances: bool,
    /// Tokens are JWTs.
    pub jwt: bool,
}

/// An operation and the client that runs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub client: usize,
    pub op: Op,
}

impl From<Op> for Step {
    fn from(op: Op) -> Self {
        Self { client: 0, op }
    }
}

impl Session {
    /// Reads a script. Empty lines and lines that start with `#` are comments.
    pub fn parse(text: &str, origin: &str) -> Self {
        let mut session = Self::default();
        for (n, line) in text.lines().enumerate() {
            let bad = |error: serde_json::Error| format!("{origin}, line {}: {error}", n + 1);
            if line.is_empty() || line.starts_with('#') {
            } else if let Some(setup) = line.strip_prefix("setup ") {
                session.setup = serde_json::from_str(setup).map_err(bad).unwrap();
            } else {
                let (client, op) = match line.split_once(' ') {
                    Some((number, op)) if number.parse::<usize>().is_ok() => (number.parse().unwrap(), op),
                    _ => (0, line),
                };
                let op = serde_json::from_str(op).map_err(bad).unwrap();
                session.steps.push(Step { client, op });
            }
        }
        session
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.setup != Setup::default() {
            let setup = serde_json::to_string(&self.setup).expect("a setup has a text form");
            writeln!(f, "setup {setup}")?;
        }
        self.steps.iter().try_for_each(|step| writeln!(f, "{step}"))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.client {
            0 => write!(f, "{}", self.op),
            client => write!(f, "{client} {}", self.op),
        }
    }
}
