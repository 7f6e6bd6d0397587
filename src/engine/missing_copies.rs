//! Members whose servers should have a copy of the stream, and have none.
//!
//! NATS takes the name of a removed server back only five minutes after the removal. A member that was
//! removed and added again under its name runs and answers meanwhile, but its server is in no group: it has
//! no copy, and does not count for majorities. The member list does not show that.

use crate::log::{Replica, StreamInfo, copies};
use crate::record::Member;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// A copy that is missing for less is no news: servers join, and copies are placed, within seconds.
const GRACE: Duration = Duration::from_secs(10);

/// The members whose servers have no copy, although the stream has too few; `None` if it is not known where
/// the copies are. `is_absent` is whether NATS does not have a server in its list at all. A server that is in
/// it gets its place with the next change of the number of copies.
pub(super) fn missing(
    members: &BTreeMap<u64, Member>,
    stream: &StreamInfo,
    is_absent: impl Fn(&str) -> bool,
) -> Option<BTreeSet<String>> {
    let cluster = stream.cluster.as_ref()?;
    let leader = cluster.leader()?;
    let voters = || members.values().filter(|member| !member.is_learner);
    let wanted = copies(voters().count());
    let placed = cluster.replicas.len() + 1;
    let has_place = |name: &str| name == leader || cluster.replicas.iter().any(|copy| copy.name == name);
    let lacks = |name: &str| placed < wanted.min(stream.copies()) || placed < wanted && is_absent(name);
    // A member without a name has not started yet.
    let names = voters().map(|member| &member.name).filter(|name| !name.is_empty());
    Some(names.filter(|name| !has_place(name) && lacks(name)).cloned().collect())
}

/// Reports them, each once.
#[derive(Debug, Default)]
pub(super) struct MissingCopies(BTreeMap<String, Missing>);

#[derive(Debug)]
struct Missing {
    since: Instant,
    is_reported: bool,
}

/// A change that is reported.
#[derive(Debug, PartialEq, Eq)]
enum Change {
    Missing(String),
    Complete(String),
}

impl MissingCopies {
    /// Takes note of the members whose servers have no copy now.
    pub(super) fn note(&mut self, missing: &BTreeSet<String>, stream: &StreamInfo) {
        for change in self.changes(missing, stream, Instant::now()) {
            match change {
                Change::Missing(member) => tracing::warn!(
                    member,
                    "the member is listed and has started, but its server has no copy of the stream yet, and does not count for \
                     majorities: no other member may stop before it has one. NATS takes the name of a removed server back only \
                     about five minutes after the removal; a member that is added under a new name need not wait"
                ),
                Change::Complete(member) => {
                    tracing::info!(member, "the server of the member has its copy of the stream now");
                }
            }
        }
    }

    fn changes(&mut self, missing: &BTreeSet<String>, stream: &StreamInfo, now: Instant) -> Vec<Change> {
        let mut changes = Vec::new();
        for name in missing {
            let known = self.0.entry(name.clone()).or_insert(Missing { since: now, is_reported: false });
            if !known.is_reported && now.duration_since(known.since) >= GRACE {
                known.is_reported = true;
                changes.push(Change::Missing(name.clone()));
            }
        }
        let copy = |name: &str| {
            let cluster = stream.cluster.as_ref()?;
            let replica = cluster.replicas.iter().find(|replica| replica.name == name);
            replica.map(Replica::is_up_to_date).or((cluster.leader() == Some(name)).then_some(true))
        };
        self.0.retain(|name, known| match copy(name) {
            _ if missing.contains(name) => true,
            // It has its place, and fills itself.
            Some(false) => true,
            Some(true) => {
                if known.is_reported {
                    changes.push(Change::Complete(name.clone()));
                }
                false
            }
            // It was removed, or needs no copy any more.
            None => false,
        });
        changes
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn stream(copies: usize, replicas: &[(&str, bool)]) -> StreamInfo {
        let replicas: Vec<_> = replicas
            .iter()
            .map(|(name, current)| json!({ "name": name, "current": current, "active": 1 }))
            .collect();
        serde_json::from_value(json!({
            "created": "",
            "config": { "num_replicas": copies },
            "state": { "messages": 1, "bytes": 1, "first_seq": 1, "last_seq": 1 },
            "cluster": { "leader": "n1", "replicas": replicas },
        }))
        .unwrap()
    }

    fn members(names: &[&str]) -> BTreeMap<u64, Member> {
        let member = |name: &&str| Member { name: (*name).to_owned(), ..Member::default() };
        (1..).zip(names.iter().map(member)).collect()
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_voter_without_a_copy_is_found_where_copies_are_missing() {
        let of = |members: &BTreeMap<u64, Member>, stream: &StreamInfo, absent: &str| {
            missing(members, stream, |name| name == absent).unwrap()
        };
        let (two, three) = (stream(3, &[("n2", true)]), stream(3, &[("n2", true), ("n3", true)]));
        assert_eq!(of(&members(&["n1", "n2", "n3"]), &two, ""), names(&["n3"]));
        assert_eq!(of(&members(&["n1", "n2", "n3"]), &three, ""), names(&[]));
        assert_eq!(
            of(&members(&["n1", "n2", "n3", "n4"]), &three, ""),
            names(&[]),
            "three copies do for four"
        );
        assert_eq!(of(&members(&["n1", "n2"]), &two, ""), names(&[]), "there are no more voters");
        assert_eq!(of(&members(&["n1", "n2", ""]), &two, ""), names(&[]), "it has not started");
        let mut learner = members(&["n1", "n2", "n3"]);
        learner.get_mut(&3).unwrap().is_learner = true;
        assert_eq!(of(&learner, &two, "n3"), names(&[]));
        // The number of copies is raised once the server is in the list.
        let growing = stream(2, &[("n2", true)]);
        assert_eq!(of(&members(&["n1", "n2", "n3"]), &growing, ""), names(&[]));
        assert_eq!(of(&members(&["n1", "n2", "n3"]), &growing, "n3"), names(&["n3"]));
    }

    #[tokio::test]
    async fn each_change_is_reported_once() {
        let (mut copies, begin) = (MissingCopies::default(), Instant::now());
        let (lacking, none) = (names(&["n3"]), names(&[]));
        let two = stream(3, &[("n2", true)]);
        assert_eq!(copies.changes(&lacking, &two, begin), []);
        assert_eq!(copies.changes(&lacking, &two, begin + GRACE), [Change::Missing("n3".to_owned())]);
        assert_eq!(copies.changes(&lacking, &two, begin + 2 * GRACE), []);
        let filling = stream(3, &[("n2", true), ("n3", false)]);
        assert_eq!(copies.changes(&none, &filling, begin + 3 * GRACE), []);
        let three = stream(3, &[("n2", true), ("n3", true)]);
        assert_eq!(copies.changes(&none, &three, begin + 3 * GRACE), [Change::Complete("n3".to_owned())]);
        assert_eq!(copies.changes(&none, &three, begin + 3 * GRACE), []);
        // A short time is not reported, and neither is a member that was removed.
        assert_eq!(copies.changes(&lacking, &two, begin), []);
        assert_eq!(copies.changes(&none, &three, begin + GRACE), []);
        assert_eq!(copies.changes(&lacking, &two, begin), []);
        assert_eq!(copies.changes(&none, &two, begin + GRACE), []);
        assert_eq!(copies.changes(&lacking, &two, begin + GRACE), []);
    }
}
