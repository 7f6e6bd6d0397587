//! The members: calls that list and change them, and etcd's rules for changes.

use crate::engine::Engine;
use crate::engine::proposal::Proposal;
use crate::error::EtcdError;
use crate::log::MAX_COPIES;
use crate::record::Member;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// How long a member that is alone waits until the list is as it should be.
const LISTED_TIMEOUT: Duration = Duration::from_secs(2);

impl Engine {
    /// The members that this instance knows, ascending by id.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.tables.members.all().values().cloned().collect()
    }

    /// Changes or removes a member.
    ///
    /// # Errors
    /// Those of every call to the writer.
    pub(crate) async fn set_member(&self, id: u64, member: Option<Member>) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::Member { id, member }).await.map(drop)
    }

    /// Changes the members of a cluster.
    ///
    /// # Errors
    /// etcd's where a change is not permitted, and those of every call to the writer.
    pub(crate) async fn change_members(&self, change: MemberChange) -> Result<(), EtcdError> {
        self.calls.ask(Proposal::ChangeMembers(change)).await.map(drop)
    }

    /// The published members, and a notification of each change of them.
    pub(crate) fn member_changes(&self) -> watch::Receiver<Arc<BTreeMap<u64, Member>>> {
        self.tables.members.published()
    }

    /// Waits until the member list of a cluster has this instance as it is. A member that is alone waits for
    /// a moment: it serves reads where nothing can be written.
    pub(crate) async fn listed(&self, own: &Member) {
        let is_listed = |members: &BTreeMap<u64, Member>| {
            members
                .get(&own.id)
                .is_some_and(|known| known.client_urls == own.client_urls && known.name == own.name)
        };
        if self.mode.has_fixed_members() {
            self.members_become(is_listed).await;
        } else if self.mode.is_alone() && self.read_only().is_none() {
            let is_one = self.members_become(|members| members.len() == 1 && is_listed(members));
            drop(tokio::time::timeout(LISTED_TIMEOUT, is_one).await);
        }
    }

    /// Waits until this instance is no member of its cluster; for ever if it has none.
    pub(crate) async fn removed(&self) {
        let is_removed = |members: &BTreeMap<u64, Member>| {
            self.mode.has_fixed_members() && !members.is_empty() && !members.contains_key(&self.member)
        };
        self.members_become(is_removed).await;
    }

    /// Waits until the published members satisfy a condition.
    async fn members_become(&self, condition: impl Fn(&BTreeMap<u64, Member>) -> bool) {
        let mut members = self.tables.members.published();
        members.wait_for(|members| condition(members)).await.expect("the tables hold the sender");
    }
}

/// A change of the members that a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum MemberChange {
    /// Adds a member that will start later.
    Add(Member),
    /// Removes a member.
    Remove(u64),
    /// Gives a member other peer URLs.
    Update {
        /// Its id.
        id: u64,
        /// Its peer URLs from now on.
        peer_urls: Vec<String>,
    },
    /// Lets a learner count for majorities.
    Promote(u64),
}

/// Rules for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ChangeRules {
    /// Whether a change that could cost the majority is refused.
    pub is_strict: bool,
    /// The most learners.
    pub max_learners: usize,
}

/// The members and the writer's knowledge of them.
pub(super) struct Members<'a> {
    pub(super) known: &'a BTreeMap<u64, Member>,
    /// Those that answer, the writer included.
    pub(super) live: &'a BTreeSet<u64>,
    /// Those that hold the whole log.
    pub(super) ready: &'a BTreeSet<u64>,
    pub(super) rules: ChangeRules,
}

impl Members<'_> {
    /// The id and the new state of the member that a change concerns.
    ///
    /// # Errors
    /// etcd's.
    pub(super) fn decide(&self, change: &MemberChange) -> Result<(u64, Option<Member>), EtcdError> {
        match change {
            MemberChange::Add(member) => self.add(member),
            MemberChange::Remove(id) => self.remove(*id),
            MemberChange::Update { id, peer_urls } => {
                let known = self.find(*id)?;
                self.check_urls(peer_urls, Some(*id))?;
                Ok((*id, Some(Member { peer_urls: peer_urls.clone(), ..known.clone() })))
            }
            MemberChange::Promote(id) => {
                let known = self.find(*id)?;
                if !known.is_learner {
                    return Err(EtcdError::MemberNotLearner);
                }
                if !self.ready.contains(id) {
                    return Err(EtcdError::LearnerNotReady);
                }
                if self.rules.is_strict && !keeps_majority(self.voters() + 1, self.started() + 1) {
                    return Err(EtcdError::NotEnoughStartedMembers);
                }
                Ok((*id, Some(Member { is_learner: false, ..known.clone() })))
            }
        }
    }

    fn add(&self, member: &Member) -> Result<(u64, Option<Member>), EtcdError> {
        if self.rules.is_strict {
            let members = self.voters() + 1;
            // A member alone may always get a second one.
            let is_second = self.started() == 1 && members == 2;
            if !member.is_learner && !is_second && !keeps_majority(members, self.started()) {
                return Err(EtcdError::NotEnoughStartedMembers);
            }
            // Each member that has started must answer.
            if self.live_voters() < self.started() {
                return Err(EtcdError::Unhealthy);
            }
        }
        self.check_urls(&member.peer_urls, None)?;
        if self.known.contains_key(&member.id) {
            return Err(EtcdError::MemberExists);
        }
        if self.known.len() >= MAX_COPIES {
            return Err(EtcdError::TooManyMembers(self.known.len()));
        }
        let learners = self.known.values().filter(|member| member.is_learner).count();
        if member.is_learner && learners >= self.rules.max_learners {
            return Err(EtcdError::TooManyLearners);
        }
        Ok((member.id, Some(member.clone())))
    }

    fn remove(&self, id: u64) -> Result<(u64, Option<Member>), EtcdError> {
        let known = self.find(id)?;
        if self.rules.is_strict && !known.is_learner {
            let started = self.started() - usize::from(!known.name.is_empty());
            let members = self.voters() - 1;
            if members == 0 || !keeps_majority(members, started) {
                return Err(EtcdError::NotEnoughStartedMembers);
            }
            // A member that does not answer is no part of the majority.
            if self.live.contains(&id) && self.live_voters() - 1 < members / 2 + 1 {
                return Err(EtcdError::Unhealthy);
            }
        }
        Ok((id, None))
    }

    fn find(&self, id: u64) -> Result<&Member, EtcdError> {
        self.known.get(&id).ok_or(EtcdError::MemberNotFound)
    }

    /// Checks that no member but the one of this id has these URLs.
    fn check_urls(&self, urls: &[String], id: Option<u64>) -> Result<(), EtcdError> {
        let others = self.known.values().filter(|member| Some(member.id) != id);
        let is_taken = others.flat_map(|member| &member.peer_urls).any(|url| urls.contains(url));
        if is_taken { Err(EtcdError::PeerUrlExists) } else { Ok(()) }
    }

    fn voters(&self) -> usize {
        self.known.values().filter(|member| !member.is_learner).count()
    }

    fn started(&self) -> usize {
        self.known.values().filter(|member| !member.is_learner && !member.name.is_empty()).count()
    }

    fn live_voters(&self) -> usize {
        self.known.values().filter(|member| !member.is_learner && self.live.contains(&member.id)).count()
    }
}

fn keeps_majority(members: usize, started: usize) -> bool {
    started > members / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64, name: &str) -> Member {
        Member { id, name: name.into(), peer_urls: vec![format!("http://h{id}:1")], ..Member::default() }
    }

    /// Three started members, those in `live` answer.
    fn decide(live: &[u64], change: &MemberChange) -> Result<(u64, Option<Member>), EtcdError> {
        let known = [member(1, "a"), member(2, "b"), member(3, "c")].map(|member| (member.id, member)).into();
        let live = live.iter().copied().collect();
        let rules = ChangeRules { is_strict: true, max_learners: 1 };
        Members { known: &known, live: &live, ready: &live, rules }.decide(change)
    }

    #[test]
    fn a_change_must_keep_a_majority() {
        assert!(decide(&[1, 2, 3], &MemberChange::Add(member(4, ""))).is_ok());
        assert_eq!(decide(&[1, 2], &MemberChange::Add(member(4, ""))), Err(EtcdError::Unhealthy));
        assert_eq!(decide(&[1, 2, 3], &MemberChange::Remove(3)), Ok((3, None)));
        assert_eq!(decide(&[1, 2], &MemberChange::Remove(3)), Ok((3, None)));
        assert_eq!(decide(&[1, 2], &MemberChange::Remove(2)), Err(EtcdError::Unhealthy));
        assert_eq!(decide(&[1, 2, 3], &MemberChange::Remove(9)), Err(EtcdError::MemberNotFound));
    }

    #[test]
    fn peer_urls_belong_to_one_member() {
        let stolen = Member { peer_urls: vec!["http://h1:1".into()], ..member(4, "") };
        assert_eq!(decide(&[1, 2, 3], &MemberChange::Add(stolen)), Err(EtcdError::PeerUrlExists));
        let update = MemberChange::Update { id: 2, peer_urls: vec!["http://h1:1".into()] };
        assert_eq!(decide(&[1, 2, 3], &update), Err(EtcdError::PeerUrlExists));
        let same = MemberChange::Add(Member { peer_urls: vec!["http://h9:1".into()], ..member(1, "") });
        assert_eq!(decide(&[1, 2, 3], &same), Err(EtcdError::MemberExists));
    }

    #[test]
    fn only_a_learner_that_is_ready_is_promoted() {
        assert_eq!(decide(&[1, 2, 3], &MemberChange::Promote(2)), Err(EtcdError::MemberNotLearner));
        let mut known: BTreeMap<_, _> = [(1, member(1, "a")), (2, member(2, "b"))].into();
        known.get_mut(&2).expect("a member").is_learner = true;
        let rules = ChangeRules { is_strict: true, max_learners: 1 };
        let promote = |ready: &[u64]| {
            let (live, ready) = (BTreeSet::from([1, 2]), ready.iter().copied().collect());
            Members { known: &known, live: &live, ready: &ready, rules }.decide(&MemberChange::Promote(2))
        };
        assert_eq!(promote(&[1]), Err(EtcdError::LearnerNotReady));
        assert_eq!(promote(&[1, 2]), Ok((2, Some(member(2, "b")))));
        let (live, another) = (BTreeSet::from([1, 2]), Member { is_learner: true, ..member(3, "") });
        let members = Members { known: &known, live: &live, ready: &live, rules };
        assert_eq!(members.decide(&MemberChange::Add(another)), Err(EtcdError::TooManyLearners));
    }
}
