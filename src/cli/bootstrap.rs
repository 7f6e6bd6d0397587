//! The flags by which etcd finds the other members.

use super::discovery::{self, DiscoveryError};
use super::flag_values::FlagValues;
use super::urls::{self, UrlError};
use crate::nats_server::{self, Members};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use thiserror::Error;

const REMEDY: &str =
    "name all members with --initial-cluster, or give each of them the --endpoint of one NATS cluster";
/// Directory of the embedded server below `--data-dir`. It exists once there is data.
const STORE: &str = "nats";

/// A command line that asks for members, or for data, that the embedded server does not have. The texts are
/// etcd's where etcd refuses the same.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum BootstrapError {
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \
         \"discovery-endpoints\" or \"discovery-srv\""
    )]
    SeveralWays,
    #[error("both --discovery-token and --discovery-endpoints must be set")]
    HalfDiscovery,
    #[error("--discovery-endpoints {0}: members are not found by way of an etcd: {REMEDY}")]
    Discovery(String),
    #[error(transparent)]
    Srv(Box<DiscoveryError>),
    #[error("--initial-cluster {cluster}: {member:?} is no member; expected name=http://host:port")]
    NoMember { cluster: String, member: String },
    #[error("error setting up initial cluster: {0}")]
    MemberUrl(UrlError),
    #[error("--initial-cluster: initial cluster {0} has duplicate url")]
    SameUrl(String),
    #[error(
        "couldn't find local name {name:?} in the initial cluster configuration: --initial-cluster {cluster}"
    )]
    NotInCluster { name: String, cluster: String },
    #[error(
        "--data-dir {path}: holds the data of an etcd, which jetway does not serve in place. To bring it over, stop that etcd, \
         run: jetway restore {path} --data-dir {path}.jetway, and start jetway with --data-dir {path}.jetway. To begin \
         with an empty store, give an empty directory",
        path = .0.display()
    )]
    EtcdData(PathBuf),
    #[error(
        "--data-dir {path}: jetway restore or jetway migrate into it was broken off; run the same command once more, which \
         begins anew, or give an empty directory",
        path = .0.display()
    )]
    Unfinished(PathBuf),
    #[error(
        "--discovery-srv {0}: DNS does not name the other members, and a restore needs their names: give --initial-cluster"
    )]
    RestoreBySrv(String),
    #[error(
        "--data-dir {path}: holds the JetStream store of another nats-server, such as that of kine, which jetway does not \
         read and will not hide behind an empty store; give an empty directory, or move this one away",
        path = .0.display()
    )]
    NatsData(PathBuf),
    #[error(
        "--initial-cluster-state existing: cannot fetch cluster info from peer urls: could not retrieve cluster \
         information from the given URLs: --data-dir {path} holds no data, and --initial-cluster names no other member: \
         {REMEDY}; to start with an empty store give new",
        path = .0.display()
    )]
    NoData(PathBuf),
}

/// Checks the flags for an embedded server. Returns the members that they name.
pub(super) fn members(flags: &FlagValues, name: &str, data_dir: &Path) -> Result<Members, BootstrapError> {
    let cluster = flags.non_empty("initial-cluster");
    let ways = ["initial-cluster", "discovery-srv", "discovery-endpoints"];
    if ways.iter().filter(|flag| flags.non_empty(flag).is_some()).count() > 1 {
        return Err(BootstrapError::SeveralWays);
    }
    if flags.non_empty("discovery-token").is_some() != flags.non_empty("discovery-endpoints").is_some() {
        return Err(BootstrapError::HalfDiscovery);
    }
    if let Some(endpoints) = flags.non_empty("discovery-endpoints") {
        return Err(BootstrapError::Discovery(endpoints.to_owned()));
    }
    // As in etcd, a member that has been in its cluster knows it by itself.
    let cluster = cluster.filter(|_| !nats_server::has_joined(data_dir));
    let is_alone = has_data(data_dir) && !nats_server::is_member(data_dir);
    // Nor does one that is alone, and has been before, read a list of one member. One of several members is
    // refused: the store would not become theirs.
    let cluster = cluster.filter(|cluster| !is_alone || names(cluster) > 1);
    let srv = flags.non_empty("discovery-srv").filter(|_| !nats_server::has_joined(data_dir));
    let members = match (cluster, srv) {
        (Some(cluster), _) => parse(cluster, name)?,
        (None, Some(domain)) => {
            let advertised = flags.urls("initial-advertise-peer-urls");
            discovery::members(domain, flags.non_empty("discovery-srv-name"), name, &advertised)
                .map_err(|error| BootstrapError::Srv(Box::new(error)))?
        }
        (None, None) => Members::new(),
    };
    if data_dir.join("member").exists() {
        return Err(BootstrapError::EtcdData(data_dir.to_owned()));
    }
    if nats_server::is_unfinished_restore(data_dir) {
        return Err(BootstrapError::Unfinished(data_dir.to_owned()));
    }
    // nats-server makes this folder in the directory that it is given. That of jetway's own is in `STORE`.
    if data_dir.join("jetstream").exists() {
        return Err(BootstrapError::NatsData(data_dir.to_owned()));
    }
    let joins = flags.text("initial-cluster-state") == Some("existing");
    if joins && members.len() < 2 && !has_data(data_dir) {
        return Err(BootstrapError::NoData(data_dir.to_owned()));
    }
    Ok(members)
}

/// The members of a cluster into which is restored.
pub(super) fn restored_members(flags: &FlagValues, name: &str) -> Result<Members, BootstrapError> {
    match (flags.non_empty("initial-cluster"), flags.non_empty("discovery-srv")) {
        (Some(cluster), None) => parse(cluster, name),
        (None, None) => Ok(Members::new()),
        (None, Some(domain)) => Err(BootstrapError::RestoreBySrv(domain.to_owned())),
        (Some(_), Some(_)) => Err(BootstrapError::SeveralWays),
    }
}

/// Whether the embedded server has been started on a data directory before.
pub(super) fn has_data(data_dir: &Path) -> bool {
    data_dir.join(STORE).exists()
}

/// The number of members in a list.
fn names(cluster: &str) -> usize {
    let entries = cluster.split(',').map(|member| member.trim().split('=').next());
    entries.collect::<BTreeSet<_>>().len()
}

/// Reads a list of members, of which this one must be one. A member may have several URLs.
fn parse(cluster: &str, name: &str) -> Result<Members, BootstrapError> {
    let mut members = Members::new();
    for member in cluster.split(',') {
        let Some((name, url)) = member.trim().split_once('=') else {
            let (cluster, member) = (cluster.to_owned(), member.to_owned());
            return Err(BootstrapError::NoMember { cluster, member });
        };
        let urls = urls::parse_list(url).map_err(BootstrapError::MemberUrl)?;
        members.entry(name.to_owned()).or_default().extend(urls.into_iter().map(|url| url.text));
    }
    for urls in members.values_mut() {
        urls.sort();
        urls.dedup();
    }
    if !members.contains_key(name) {
        return Err(BootstrapError::NotInCluster { name: name.to_owned(), cluster: cluster.to_owned() });
    }
    let mut all: Vec<&String> = members.values().flatten().collect();
    all.sort();
    if all.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(BootstrapError::SameUrl(cluster.to_owned()));
    }
    Ok(members)
}
