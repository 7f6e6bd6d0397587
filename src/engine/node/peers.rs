//! Other instances: what is known of them, and the answers to their calls.

use super::{Node, Peer};
use crate::engine::proposal::{Addressed, WireAnswer, WireAnswers, WireStatus};
use crate::record::{Digest, Member};
use crate::types::LogIndex;
use prost::Message as _;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// An instance that has not been heard of for so long is forgotten.
const PEER_SILENCE: Duration = Duration::from_secs(10);
/// An instance that has been heard of within this time is live. Each sends something every second.
pub(in crate::engine) const PEER_CONTACT: Duration = Duration::from_millis(2500);

impl Node {
    /// The status message of this instance.
    pub(in crate::engine) fn wire_status(&self, index: LogIndex, digest: Digest) -> WireStatus {
        WireStatus {
            nonce: self.chain.nonce(),
            instance: self.start,
            member: serde_json::to_vec(&self.settings.member).expect("plain data"),
            index: index.0,
            digest: digest.0,
            is_ready: self.is_ready,
            promised: self.promised.0,
        }
    }

    /// Whether this instance may write: one that was removed from its cluster, or never added to it, may not.
    pub(in crate::engine) fn is_member(&self) -> bool {
        self.may_be_listed(self.settings.member.id)
    }

    /// Whether an instance may list this member by itself: it is listed, or instances alone list members.
    pub(in crate::engine) fn may_be_listed(&self, id: u64) -> bool {
        let members = self.tables.members.all();
        !self.mode.has_fixed_members() || members.is_empty() || members.contains_key(&id)
    }

    /// Takes note of another instance.
    pub(in crate::engine) fn note_peer(&mut self, status: &WireStatus) {
        if status.instance == self.start {
            return;
        }
        if let Ok(member) = serde_json::from_slice::<Member>(&status.member) {
            if member.id == self.settings.member.id
                && let Some(duplicate_check) = &mut self.duplicate_check
            {
                duplicate_check.heard(&self.failure);
                return;
            }
            // An earlier process of the same member has ended.
            self.peers.retain(|instance, peer| *instance == status.instance || peer.member.id != member.id);
            let (index, is_ready) = (LogIndex(status.index), status.is_ready);
            self.peers.insert(status.instance, Peer { member, index, is_ready, heard: Instant::now() });
        }
    }

    /// Forgets instances that have not been heard of for long.
    pub(in crate::engine) fn forget_silent_peers(&mut self) {
        self.peers.retain(|_, peer| peer.heard.elapsed() < PEER_SILENCE);
    }

    /// Sends answers to other instances, those of one message together.
    pub(in crate::engine) async fn send_answers(&self, answers: Vec<Addressed>) {
        let Some(messenger) = &self.messenger else { return };
        let mut by_reply: HashMap<String, Vec<WireAnswer>> = HashMap::new();
        for Addressed { reply, answer, .. } in answers {
            by_reply.entry(reply).or_default().push(answer);
        }
        for (reply, answers) in by_reply {
            messenger.answer(reply, WireAnswers { answers }.encode_to_vec()).await;
        }
    }
}
