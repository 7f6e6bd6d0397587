//! Other processes with the id of this member: a configuration that was copied, or an earlier process that
//! does not end.
//!
//! A process answers a question that names the id of its member for as long as it lives, beside all else that
//! it does. One that starts asks first, and ends where it is answered. An earlier process that has died
//! answers nothing: NATS knows of no receiver, and answers that at once.
//!
//! Two that start at the same moment on different NATS servers may miss each other's question. Each of them
//! hears of the other by its status messages, asks again, and the one whose start has the higher number ends.
//! A status message alone proves nothing: a server that stood still may deliver one whose sender has died
//! since.

use super::StartError;
use super::failure::{Failure, NameTaken};
use crate::log::{Messenger, Serving};
use crate::record::Member;
use prost::Message as _;
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long another process may take to answer. An earlier one that stands still delays a start by as much.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);

/// The answer of a living process.
#[derive(Clone, PartialEq, prost::Message)]
struct WireProcess {
    /// Its start.
    #[prost(fixed64, tag = "1")]
    instance: u64,
    /// How an operator finds it.
    #[prost(uint32, tag = "2")]
    pid: u32,
    #[prost(string, tag = "3")]
    host: String,
}

/// Answers for this process, and asks for others.
#[derive(Debug)]
pub(super) struct DuplicateCheck {
    messenger: Messenger,
    member: Member,
    start: u64,
    _answering: Serving,
    asking: Option<JoinHandle<()>>,
}

impl DuplicateCheck {
    /// Makes sure that no other process of this member lives, and answers those that come later.
    pub(super) async fn open(
        messenger: &Messenger,
        member: &Member,
        start: u64,
    ) -> Result<DuplicateCheck, StartError> {
        if let Some(other) = ask(messenger, member, start).await {
            return Err(taken(member, &other).into());
        }
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let own = WireProcess { instance: start, pid: std::process::id(), host: host.trim().to_owned() };
        let answer = prost::Message::encode_to_vec(&own);
        let answering = messenger.answer_for_member(member.id, start, answer).await?;
        let (messenger, member) = (messenger.clone(), member.clone());
        Ok(DuplicateCheck { messenger, member, start, _answering: answering, asking: None })
    }

    /// A status message of another process with this member's id has come. Ends this one if the other one
    /// lives and may stay.
    pub(super) fn heard(&mut self, failure: &Failure) {
        if self.asking.as_ref().is_some_and(|asking| !asking.is_finished()) {
            return;
        }
        let (messenger, member, start) = (self.messenger.clone(), self.member.clone(), self.start);
        let failure = failure.clone();
        self.asking = Some(tokio::spawn(async move {
            if let Some(other) = ask(&messenger, &member, start).await {
                let error = taken(&member, &other);
                if other.instance < start {
                    failure.send_replace(Some(error.into()));
                } else {
                    tracing::warn!("{error}; the other one ends");
                }
            }
        }));
    }
}

/// How an operator finds the running process of a member; `None` if there is none.
pub(super) async fn find(messenger: &Messenger, member: u64, start: u64) -> Option<String> {
    let answer = messenger.ask_member(member, start, ANSWER_TIMEOUT).await?;
    let other = WireProcess::decode(answer).ok()?;
    Some(format!("pid {} on host {:?}", other.pid, other.host))
}

async fn ask(messenger: &Messenger, member: &Member, start: u64) -> Option<WireProcess> {
    let answer = messenger.ask_member(member.id, start, ANSWER_TIMEOUT).await?;
    prost::Message::decode(answer).ok()
}

fn taken(member: &Member, other: &WireProcess) -> NameTaken {
    NameTaken { member: member.clone(), pid: other.pid, host: other.host.clone() }
}
