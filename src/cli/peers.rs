//! The member's own side of a cluster: its peer address and TLS between members.

use super::bootstrap;
use super::flag_values::FlagValues;
use super::urls::{self, EtcdUrl};
use crate::log::MAX_COPIES;
use crate::nats_server::{self, ClusterSettings, Members, PeerTls};
use std::net::ToSocketAddrs as _;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Flags of TLS between members that nats-server cannot enforce. A member that ignored them would let in a
/// member that the operator meant to keep out.
const NOT_ENFORCED: [&str; 3] = ["peer-cert-allowed-cn", "peer-cert-allowed-hostname", "peer-crl-file"];

/// Flags of a member that do not go together. The texts are etcd's where etcd refuses the same.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum PeerFlagsError {
    #[error(
        "--listen-peer-urls {0}: the members of a cluster meet on one address each; give one URL with a port"
    )]
    Listen(String),
    #[error("--initial-advertise-peer-urls {0}: the other members need a host and a port; a socket has none")]
    Advertise(String),
    #[error("--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised}")]
    NotAdvertised { missing: String, advertised: String },
    #[error("--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={own}")]
    NotListed { missing: String, own: String },
    #[error(
        "cannot listen on TLS for {0}: KeyFile and CertFile are not presented; give --peer-cert-file and \
         --peer-key-file, or --peer-auto-tls"
    )]
    NoCertificate(String),
    #[error(
        "--initial-cluster: {member}={url} has another scheme than --listen-peer-urls {listen}; give both the same"
    )]
    Scheme { member: String, url: String, listen: String },
    #[error(
        "--{0}: cannot be enforced between members, which are nats-servers; leave it out, and let --peer-trusted-ca-file name an authority that signs for members alone"
    )]
    NotEnforced(&'static str),
    #[error(
        "--peer-client-cert-file {0}: a member shows one certificate in both directions, that of --peer-cert-file; leave it out"
    )]
    ClientCertificate(String),
    #[error(
        "--initial-cluster: has {0} members, and JetStream keeps at most {MAX_COPIES} copies of the log; name {MAX_COPIES} at most"
    )]
    TooMany(usize),
    #[error(
        "--initial-cluster: a member has no name; a member that was added before must start before the next one is \
         added, so that its name is known"
    )]
    NoName,
    #[error(
        "--initial-cluster: {0:?} cannot be the name of a nats-server; give the member a name without blanks"
    )]
    Name(String),
}

/// A certificate that jetway makes for the peer port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAutoTls {
    /// Its directory.
    pub dir: PathBuf,
    /// Its validity, in years of 365 days.
    pub validity_years: u32,
}

/// The settings of a member of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// The settings of its nats-server. With [`Self::auto_tls`] they name the files that are made.
    pub server: ClusterSettings,
    /// A certificate to be made first.
    pub auto_tls: Option<PeerAutoTls>,
    /// Whether it joins a cluster that there is (`--initial-cluster-state existing`).
    pub is_joining: bool,
    /// Whether the names of the other members are numbers, since DNS has their addresses alone
    /// (`--discovery-srv`).
    pub is_discovered: bool,
}

/// The member's settings; `None` where it is alone.
pub(super) fn settings(
    flags: &FlagValues,
    name: &str,
    data_dir: &Path,
    members: Members,
) -> Result<Option<Cluster>, PeerFlagsError> {
    // A member that was left alone is started with the flags of the time when it was not.
    let was_left_alone = nats_server::sole_member_id(data_dir).is_some();
    if was_left_alone || (members.len() < 2 && !nats_server::is_member(data_dir)) {
        // As in etcd, the flags count until there is data.
        if !bootstrap::has_data(data_dir) {
            check_own_urls(name, &members, &flags.urls("initial-advertise-peer-urls"))?;
        }
        return Ok(None);
    }
    cluster(flags, name, data_dir, members).map(Some)
}

/// The settings with which a member that is alone becomes one of several.
pub(super) fn as_member(flags: &FlagValues, name: &str, data_dir: &Path) -> Result<Cluster, PeerFlagsError> {
    let urls = flags.urls("initial-advertise-peer-urls").into_iter().map(|url| url.text).collect();
    cluster(flags, name, data_dir, Members::from([(name.to_owned(), urls)]))
}

/// The peer URLs of this member. A start without the flag takes those of the record.
fn advertised(flags: &FlagValues, data_dir: &Path) -> Vec<EtcdUrl> {
    let recorded = || {
        let is_open = !flags.is_set("initial-advertise-peer-urls") && nats_server::is_member(data_dir);
        urls::parse_list(&nats_server::own_peer_urls(data_dir).filter(|_| is_open)?.join(",")).ok()
    };
    recorded().unwrap_or_else(|| flags.urls("initial-advertise-peer-urls"))
}

/// The token of the cluster. As in etcd, a start behind a restore needs no flag for it.
fn token(flags: &FlagValues, data_dir: &Path) -> String {
    let restored =
        || nats_server::restored_token(data_dir).filter(|_| !flags.is_set("initial-cluster-token"));
    restored().unwrap_or_else(|| flags.text_or_default("initial-cluster-token").to_owned())
}

/// The settings of a member whose data directory a restore makes. As in etcd, that needs no flags of its
/// port.
pub(super) fn restored(
    flags: &FlagValues,
    name: &str,
    members: Members,
) -> Result<ClusterSettings, PeerFlagsError> {
    check_members(&members)?;
    let advertised = flags.urls("initial-advertise-peer-urls");
    check_own_urls(name, &members, &advertised)?;
    Ok(ClusterSettings {
        name: name.to_owned(),
        peer_urls: advertised.into_iter().map(|url| url.text).collect(),
        token: flags.text_or_default("initial-cluster-token").to_owned(),
        listen: String::new(),
        advertise: String::new(),
        members,
        tls: None,
    })
}

fn check_members(members: &Members) -> Result<(), PeerFlagsError> {
    if members.len() > MAX_COPIES {
        return Err(PeerFlagsError::TooMany(members.len()));
    }
    if members.contains_key("") {
        return Err(PeerFlagsError::NoName);
    }
    match members.keys().find(|name| name.contains(char::is_whitespace)) {
        Some(name) => Err(PeerFlagsError::Name(name.clone())),
        None => Ok(()),
    }
}

fn cluster(
    flags: &FlagValues,
    name: &str,
    data_dir: &Path,
    members: Members,
) -> Result<Cluster, PeerFlagsError> {
    check_members(&members)?;
    let listen_flag = flags.urls("listen-peer-urls");
    let [listen] = listen_flag.as_slice() else {
        return Err(PeerFlagsError::Listen(flags.text_or_default("listen-peer-urls").to_owned()));
    };
    if listen.is_unix() {
        return Err(PeerFlagsError::Listen(listen.text.clone()));
    }
    let advertised = advertised(flags, data_dir);
    let Some(advertise) = advertised.first().filter(|url| !url.is_unix()) else {
        return Err(PeerFlagsError::Advertise(
            flags.text_or_default("initial-advertise-peer-urls").to_owned(),
        ));
    };
    if !nats_server::is_member(data_dir) {
        check_own_urls(name, &members, &advertised)?;
    }
    for (member, url) in members.iter().flat_map(|(member, urls)| urls.iter().map(move |url| (member, url))) {
        if url.starts_with("https://") != listen.is_secure() {
            let (member, url) = (member.clone(), url.clone());
            return Err(PeerFlagsError::Scheme { member, url, listen: listen.text.clone() });
        }
    }
    let (tls, auto_tls) = if listen.is_secure() { tls(flags, listen, data_dir)? } else { (None, None) };
    Ok(Cluster {
        server: ClusterSettings {
            name: name.to_owned(),
            peer_urls: advertised.iter().map(|url| url.text.clone()).collect(),
            token: token(flags, data_dir),
            listen: listen.authority.clone(),
            advertise: advertise.authority.clone(),
            members,
            tls,
        },
        auto_tls,
        is_discovered: flags.non_empty("discovery-srv").is_some(),
        is_joining: flags.text("initial-cluster-state") == Some("existing"),
    })
}

/// Checks that the list of members and this member agree on its peer URLs, as addresses if not as texts.
fn check_own_urls(name: &str, members: &Members, advertised: &[EtcdUrl]) -> Result<(), PeerFlagsError> {
    let Some(listed) = members.get(name) else { return Ok(()) };
    let advertised: Vec<String> = advertised.iter().map(|url| url.text.clone()).collect();
    if is_same_urls(listed, &advertised) {
        return Ok(());
    }
    let entry = |url: &String| format!("{name}={url}");
    let missing: Vec<String> = listed.iter().filter(|url| !advertised.contains(url)).map(entry).collect();
    if !missing.is_empty() {
        let (missing, advertised) = (missing.join(","), advertised.join(","));
        return Err(PeerFlagsError::NotAdvertised { missing, advertised });
    }
    let missing: Vec<String> = advertised.iter().filter(|url| !listed.contains(url)).cloned().collect();
    let own = advertised.iter().map(entry).collect::<Vec<_>>().join(",");
    Err(PeerFlagsError::NotListed { missing: missing.join(","), own })
}

/// Whether two lists of URLs are the same, as addresses if not as texts.
pub(crate) fn is_same_urls(one: &[String], other: &[String]) -> bool {
    let is_equal = |one: &[String], other: &[String]| {
        let mut both = [one.to_vec(), other.to_vec()];
        for urls in &mut both {
            urls.sort();
        }
        both[0] == both[1]
    };
    is_equal(one, other) || is_equal(&resolved(one), &resolved(other))
}

/// The URLs with addresses in the place of names. A name without an address stays. So does `localhost`, as in
/// etcd.
fn resolved(urls: &[String]) -> Vec<String> {
    let resolve = |url: &String| {
        let (scheme, address) = url.split_once("://")?;
        let has_address = !address.starts_with("localhost:");
        let address = has_address.then(|| address.to_socket_addrs().ok()?.min())??;
        Some(format!("{scheme}://{address}"))
    };
    urls.iter().map(|url| resolve(url).unwrap_or_else(|| url.clone())).collect()
}

fn tls(
    flags: &FlagValues,
    listen: &EtcdUrl,
    data_dir: &Path,
) -> Result<(Option<PeerTls>, Option<PeerAutoTls>), PeerFlagsError> {
    if let Some(flag) = NOT_ENFORCED.into_iter().find(|flag| flags.non_empty(flag).is_some()) {
        return Err(PeerFlagsError::NotEnforced(flag));
    }
    let (cert, key) = (flags.path("peer-cert-file"), flags.path("peer-key-file"));
    if let Some(client) = flags.path("peer-client-cert-file").filter(|client| Some(client) != cert.as_ref()) {
        return Err(PeerFlagsError::ClientCertificate(client.display().to_string()));
    }
    let only_version_13 = flags.text("tls-min-version").is_some_and(|version| version == "TLS1.3");
    let trusted_ca = flags.path("peer-trusted-ca-file");
    match (cert, key) {
        (Some(cert), Some(key)) => Ok((Some(PeerTls { cert, key, trusted_ca, only_version_13 }), None)),
        (None, None) if flags.is_true("peer-auto-tls") => {
            let dir = data_dir.join("fixtures").join("peer");
            let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
            let trusted_ca = Some(dir.join("ca.pem"));
            let validity_years = flags.unsigned_32("self-signed-cert-validity");
            let tls = PeerTls { cert, key, trusted_ca, only_version_13 };
            Ok((Some(tls), Some(PeerAutoTls { dir, validity_years })))
        }
        _ => Err(PeerFlagsError::NoCertificate(listen.authority.clone())),
    }
}
