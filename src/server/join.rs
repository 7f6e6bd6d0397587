//! The first start of a member: the members that run already decide whether it may join, before it has any
//! data.
//!
//! A nats-server without JetStream meets them and asks. So one that is refused was in no group of theirs, and
//! its name can be used at once for another start.
//!
//! A member that a restore has prepared, and that has no data of its own, founds no cluster. It waits for the
//! one that has the data, and joins if that one was restored from the same snapshot.

use crate::cli::{Cluster, is_same_urls};
use crate::engine::{Observer, StartError};
use crate::log::{Auth, ConnectedServers, Endpoint, OpenError, RunToken};
use crate::nats_server::{
    self, MEMBER_TAG, Members, NatsServer, NatsServerSettings, OBSERVER_TAG, ObserverPort, Restored,
};
use crate::record::Member;
use std::collections::BTreeSet;
use std::time::Duration;
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// How long one that joins a cluster waits for an answer of a member. One that stood alone so far opens its
/// port for others only after it has prepared its store for them.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// How long one that founds a cluster does so where another member runs, which may be founding it, too.
const FOUND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a member that answers may take to learn of the one that was just added, and the process of this
/// member, if one runs, to be heard.
const LAG: Duration = Duration::from_secs(1);
/// Interval of the lines that report that a member of a restored cluster waits.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// How long the holder of a restored store meets others before its first start. A server connects to each
/// member of its list once a second.
const MEETING: Duration = Duration::from_secs(3);
/// How long the servers may take to answer that are connected.
const PING_TIMEOUT: Duration = Duration::from_millis(200);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a connection may take that only shows whether a member runs.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);

/// The members do not let this one join. The texts are etcd's where etcd refuses the same.
#[derive(Debug, Error)]
pub enum JoinError {
    /// The observing nats-server.
    #[error(transparent)]
    NatsServer(#[from] nats_server::Error),
    /// The connection to it.
    #[error(transparent)]
    Observe(#[from] StartError),
    /// No member answers.
    #[error(
        "--initial-cluster-state existing: cannot fetch cluster info from peer urls: could not retrieve cluster \
         information from the given URLs: no member of --initial-cluster answered within {JOIN_TIMEOUT:?}. Start them \
         first, with the --initial-cluster-token and the authority of this one; to found a cluster give new"
    )]
    NoAnswer,
    /// The flags name more or fewer members than there are.
    #[error(
        "--initial-cluster: error validating peerURLs {members}: member count is unequal. Add this member first \
         (etcdctl member add), and give the --initial-cluster that it prints; jetway restore needs the same --initial-cluster \
         for each member"
    )]
    CountDiffers {
        /// The members that there are.
        members: String,
    },
    /// A member is under other peer URLs than in the flags, or is not in them.
    #[error(
        "--initial-cluster: error validating peerURLs {members}: PeerURLs: no match found for existing member \
         ({id:x}, {urls:?}). Give the --initial-cluster that etcdctl member add prints, and to jetway restore the same one \
         for each member"
    )]
    NoMatch {
        /// The members that there are.
        members: String,
        /// The member without an entry.
        id: u64,
        /// Its peer URLs.
        urls: Vec<String>,
    },
    /// The cluster was founded without this member.
    #[error(
        "--initial-cluster-state new: the members {members} have a cluster already, without {name:?}. Add it first \
         (etcdctl member add), and start it with the lines that this prints"
    )]
    NotAMember {
        /// The members that there are.
        members: String,
        /// This member's name.
        name: String,
    },
    /// The cluster was made anew of another snapshot, or of none.
    #[error(
        "this member was restored from {ours}, and the members that run were {theirs}. Run jetway restore with the same \
         file and flags for each member, into empty data directories, before any of them starts"
    )]
    OtherSnapshot {
        /// The snapshot of this member.
        ours: String,
        /// The source of the others' data.
        theirs: String,
    },
    /// Another member was restored with another list of members.
    #[error(
        "this member was restored with the members {ours}, and {other:?} is connected, which is not among them. Run jetway restore \
         with the same --initial-cluster for each member, into empty data directories"
    )]
    OtherList {
        /// The members of this one.
        ours: String,
        /// The member that is not among them.
        other: String,
    },
    /// The data of the holder was restored once more.
    #[error(
        "the members that run have gone on since the restore: what was restored once more for {name:?} is not their data. Start \
         it with an empty data directory, and it fills itself from them; or stop all of them and restore each one"
    )]
    RestoredAgain {
        /// This member's name.
        name: String,
    },
    /// Another process of this member serves.
    #[error(
        "--name {name}: member {id:x} has already been bootstrapped: another process of it answers, {process}. Stop that \
         one first, or give this one a name and peer URLs of its own"
    )]
    Runs {
        /// This member's name.
        name: String,
        /// Its id.
        id: u64,
        /// How an operator finds the other process.
        process: String,
    },
}

/// Asks the members that run whether this one may join them. One that has been in its cluster asks nobody.
///
/// # Errors
/// [`JoinError`].
pub(super) async fn check(
    settings: &NatsServerSettings,
    cluster: &Cluster,
    bucket: &str,
) -> Result<(), JoinError> {
    let (name, dir) = (&cluster.server.name, &settings.data_dir);
    if nats_server::has_joined(dir) {
        return Ok(());
    }
    let restored = nats_server::restored(dir);
    let is_waiting = restored.as_ref().is_some_and(|restored| restored.holder != *name);
    // A start behind a restore needs no list of members among its flags.
    let remembered = nats_server::remembered_members(dir).filter(|_| cluster.server.members.is_empty());
    let listed = remembered.as_ref().unwrap_or(&cluster.server.members);
    let meets_others = restored.as_ref().is_some_and(|restored| restored.snapshot.is_some());
    if !is_waiting && !meets_others && !cluster.is_joining && !is_any_up(name, listed).await {
        return Ok(());
    }
    // A running process of this member may hold the port.
    let port = match TcpListener::bind(&cluster.server.listen).await {
        Ok(_) if meets_others => ObserverPort::OfMember,
        _ => ObserverPort::Any,
    };
    let observing = NatsServerSettings { observes_at: Some(port), ..settings.clone() };
    let nats = NatsServer::start(observing).await?;
    let endpoint = Endpoint {
        servers: nats.client_url().into_iter().collect(),
        auth: Auth::Embedded(nats_server::USER, RunToken(nats.token())),
        bucket: bucket.to_owned(),
        ..Endpoint::default()
    };
    let login = Auth::Embedded(nats_server::SYSTEM_USER, RunToken(nats.token()));
    let asked = async {
        let servers = if meets_others {
            Some(
                ConnectedServers::open(&endpoint, &login)
                    .await
                    .map_err(OpenError::from)
                    .map_err(StartError::from)?,
            )
        } else {
            None
        };
        let meeting = servers.as_ref().map(|servers| Meeting { servers, listed: nats.members() });
        ask(&endpoint, cluster, nats.members(), restored.as_ref(), meeting.as_ref()).await
    };
    let checked = asked.await;
    nats.stop().await?;
    checked
}

/// Whether anybody accepts connections at the address of another member.
async fn is_any_up(name: &str, listed: &Members) -> bool {
    let others = listed.iter().filter(|(other, _)| *other != name).flat_map(|(_, urls)| urls);
    let connects = others.filter_map(|url| url.split_once("://")).map(|(_, address)| async move {
        matches!(tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(address)).await, Ok(Ok(_)))
    });
    futures_util::future::join_all(connects).await.contains(&true)
}

/// `listed` are the members of the flags, or of an earlier start that got no further. A member that was
/// restored without data waits for an answer without an end.
async fn ask(
    endpoint: &Endpoint,
    cluster: &Cluster,
    listed: &Members,
    restored: Option<&Restored>,
    meeting: Option<&Meeting<'_>>,
) -> Result<(), JoinError> {
    let observer = Observer::open(endpoint).await?;
    let is_holder = restored.is_some_and(|restored| restored.holder == cluster.server.name);
    if let Some(restored) = restored.filter(|_| !is_holder) {
        await_restored(&observer, restored, meeting).await?;
    }
    if let Some(meeting) = meeting.filter(|_| is_holder) {
        let begun = Instant::now();
        while begun.elapsed() < MEETING {
            meeting.check().await?;
        }
    }
    // The others of a restored cluster start their servers only after the holder has served. Without any it
    // is the first start of the holder.
    if let Some(meeting) = meeting.filter(|_| is_holder)
        && meeting.members(MEMBER_TAG).await.is_empty()
    {
        return Ok(());
    }
    let is_exact = cluster.is_joining || restored.is_some_and(|restored| restored.snapshot.is_some());
    let timeout = if is_exact { JOIN_TIMEOUT } else { FOUND_TIMEOUT };
    let mut deadline = Instant::now() + timeout;
    let mut answered = false;
    let own = loop {
        let judged = observer.members().await.map(|members| judge(&members, cluster, listed, is_exact));
        if judged.is_some() && !answered {
            answered = true;
            deadline = Instant::now() + LAG;
        }
        match judged {
            Some(Ok(own)) => break own,
            Some(Err(error)) if Instant::now() >= deadline => return Err(error),
            None if Instant::now() >= deadline && cluster.is_joining => return Err(JoinError::NoAnswer),
            None if Instant::now() >= deadline => return Ok(()),
            _ => tokio::time::sleep(PAUSE).await,
        }
    };
    // The data of the holder is not that of a cluster that was founded, or restored from another snapshot, or
    // that of an earlier restore of the same one.
    if let Some(restored) = restored.filter(|_| is_holder)
        && let Some(theirs) = observer.origin().await
    {
        compare(restored, theirs.snapshot)?;
        if restored.stream.is_some_and(|ours| ours != theirs.stream) {
            return Err(JoinError::RestoredAgain { name: cluster.server.name.clone() });
        }
    }
    // The first answer may come over the route to another member than this one, whose process is heard only
    // once the observing server has a route to its server, too.
    let deadline = Instant::now() + LAG;
    while Instant::now() < deadline {
        if let Some(process) = observer.process_of(own).await {
            return Err(JoinError::Runs { name: cluster.server.name.clone(), id: own, process });
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// The servers that a restored member meets before its first start, and the members that it expects.
struct Meeting<'a> {
    servers: &'a ConnectedServers,
    listed: &'a Members,
}

impl Meeting<'_> {
    /// The members in the tags of the servers that are connected. NATS has their names in lower case.
    async fn members(&self, tag: &str) -> BTreeSet<String> {
        let tags = self.servers.tags(PING_TIMEOUT).await;
        tags.iter().filter_map(|found| found.strip_prefix(tag)).map(str::to_owned).collect()
    }

    /// Refuses a cluster in which a member is that this one does not expect. The servers of members with data
    /// of different restores would make one cluster of two.
    async fn check(&self) -> Result<(), JoinError> {
        let listed: BTreeSet<_> = self.listed.keys().map(|name| name.to_lowercase()).collect();
        let connected = [self.members(MEMBER_TAG).await, self.members(OBSERVER_TAG).await];
        match connected.into_iter().flatten().find(|name| !listed.contains(name)) {
            None => Ok(()),
            Some(other) => {
                let ours = self.listed.keys().cloned().collect::<Vec<_>>().join(",");
                Err(JoinError::OtherList { ours, other })
            }
        }
    }
}

/// Waits until the members serve that have the restored data. Compares their snapshot with this member's.
async fn await_restored(
    observer: &Observer,
    restored: &Restored,
    meeting: Option<&Meeting<'_>>,
) -> Result<(), JoinError> {
    let mut reported: Option<Instant> = None;
    loop {
        if let Some(meeting) = meeting {
            meeting.check().await?;
        }
        if observer.members().await.is_some()
            && let Some(theirs) = observer.origin().await
        {
            return compare(restored, theirs.snapshot);
        }
        if reported.is_none_or(|reported| reported.elapsed() >= REPORT_INTERVAL) {
            reported = Some(Instant::now());
            tracing::info!(
                holder = restored.holder,
                "waiting for the member that has the restored data; if it has none, run jetway restore for it too"
            );
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Compares the snapshot of this member with that of the members that run.
fn compare(restored: &Restored, theirs: Option<String>) -> Result<(), JoinError> {
    let ours = restored.snapshot.clone();
    if ours == theirs {
        return Ok(());
    }
    let theirs = theirs.map_or_else(|| "founded without one".to_owned(), |name| format!("from {name}"));
    Err(JoinError::OtherSnapshot { ours: ours.unwrap_or_default(), theirs })
}

/// The id that this member has among those of the cluster.
/// With `is_exact` all members must be those that are listed.
fn judge(members: &[Member], cluster: &Cluster, listed: &Members, is_exact: bool) -> Result<u64, JoinError> {
    let shown = || {
        let entries = members.iter().map(|member| format!("{}={}", member.name, member.peer_urls.join(",")));
        entries.collect::<Vec<_>>().join(",")
    };
    let settings = &cluster.server;
    if is_exact {
        if members.len() != listed.len() {
            return Err(JoinError::CountDiffers { members: shown() });
        }
        let is_listed = |member: &&Member| listed.values().any(|urls| is_same_urls(urls, &member.peer_urls));
        if let Some(Member { id, peer_urls, .. }) = members.iter().find(|member| !is_listed(member)) {
            return Err(JoinError::NoMatch { members: shown(), id: *id, urls: peer_urls.clone() });
        }
    }
    let own = members.iter().find(|member| is_same_urls(&member.peer_urls, &settings.peer_urls));
    own.map(|own| own.id)
        .ok_or_else(|| JoinError::NotAMember { members: shown(), name: settings.name.clone() })
}
